"""`manifests/label.py` as a user runs it."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import mistake_of, script

from fairseq_signals_ext import cli, configs_dir


def main(arguments):
    return cli.main(["label", *arguments])


CONFIGS = Path(configs_dir("labels"))
SCHEMA = pa.schema(
    {
        "idx": pa.int64(),
        "record_id": pa.string(),
        "source": pa.string(),
        "patient": pa.string(),
        "start_time": pa.timestamp("us"),
        "codes": pa.list_(pa.string()),
        "shard": pa.string(),
        "row": pa.int64(),
    }
)


@pytest.fixture
def folder(tmp_path):
    codes = [["AF", "x"], ["RBBB", "AF"], [], ["x", "normal_ecg"]]
    rows = [
        {
            "idx": number,
            "record_id": f"r{number}",
            "source": "a" if number < 2 else "b",
            "patient": str(number),
            "start_time": datetime(2150, 3, 1),
            "codes": codes[number],
            "shard": "shards/00000.npy",
            "row": number,
        }
        for number in range(4)
    ]
    out = tmp_path / "prepared"
    (out / "splits" / "s").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), out / "recordings.parquet")
    lines = [f"shards/00000.npy\t{row}\t5000\n" for row in (1, 3)]
    (out / "splits" / "s" / "train.tsv").write_text("../..\n" + "".join(lines))
    return out


def fails(capsys, *arguments):
    """The one line of an error."""
    return mistake_of(main, [str(argument) for argument in arguments])


def test_script_with_codes(folder):
    arguments = [folder, "--name", "l", "--codes", "code15", "--min-count", 1]
    done = script("manifests/label.py", *arguments, "--train-manifest", folder / "splits" / "s" / "train.tsv")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "1 of 4 recordings have no codes: unlabelled",
        "2 codes are not in the map (recordings that have them): x (2), normal_ecg (1)",
        "labels with fewer than 1 positives were dropped: 1dAVb (0), LBBB (0), SB (0), ST (0)",
        f"{folder / 'labels' / 'l'}: 2 label(s) for 3 of 4 recordings",
        "label  positives  known  percent",
        "RBBB           1      3    33.33",
        "AF             2      3    66.67",
    ]
    made = folder / "labels" / "l"
    assert (made / "labels.csv").read_text() == "idx,RBBB,AF\n0,0,1\n1,1,1\n3,0,0\n"
    assert (made / "pos_weight.txt").read_text() == "[1,1]\n"
    definition = "name,pos_count_all,pos_percent_all,known_count,codes\nRBBB,1,0.333333333,3,RBBB\n"
    assert (made / "label_def.csv").read_text() == definition + "AF,2,0.666666667,3,AF\n"
    np.testing.assert_array_equal(np.load(made / "y.npy"), [[0, 1], [1, 1], [np.nan, np.nan], [0, 0]])
    described = json.loads((made / "label.json").read_text())
    assert described["labels"] == ["RBBB", "AF"]
    assert described["settings"]["code_map"] == "code15"
    assert described["counts"]["unknown_codes"] == {"x": 2, "normal_ecg": 1}


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "fairseq-signals-ext label DIR --name challenge --codes cinc2021" in text
    assert "fairseq-signals-ext label link --help" in text and "--events" not in text
    assert "the 6 abnormalities of CODE-15%\n" in text


def test_help_of_link_has_its_own_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["link", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: fairseq-signals-ext label link DIR --name NAME --events FILE")
    assert "fairseq-signals-ext label link DIR --name lvef" in text
    assert "--codes" not in text


def test_options_may_come_before_the_folder(folder):
    assert main(["--name", "l", "--codes", "code15", str(folder)]) == 0
    assert (folder / "labels" / "l" / "labels.csv").exists()


def test_codes_of_some_sources(folder):
    assert main([str(folder), "--name", "l", "--codes", "code15", "--sources", "b", "--no-codes-are-negative"]) == 0
    assert list(pd.read_csv(folder / "labels" / "l" / "labels.csv")["idx"]) == [2, 3]


def test_table(folder, tmp_path, capsys):
    table = tmp_path / "outcome.csv"
    table.write_text("record_id,died,age\nr1,true,50\nr3,,60.5\nr9,0,70\n")
    assert main([str(folder), "--name", "l", "--table", str(table), "--columns", "died"]) == 0
    assert "(such as 'r9')" in capsys.readouterr().out
    assert (folder / "labels" / "l" / "labels.csv").read_text() == "idx,died\n1,1\n"
    arguments = [str(folder), "--name", "age", "--table", str(table), "--on", "record_id", "--columns", "age"]
    assert main([*arguments, "--regression"]) == 0
    assert capsys.readouterr().out.endswith("label  known\nage        2\n")
    assert (folder / "labels" / "age" / "labels.csv").read_text() == "idx,age\n1,50\n3,60.5\n"


def test_link_with_options(folder, tmp_path):
    events = tmp_path / "echo.csv"
    events.write_text(
        "who,when,kind,ef\n0,2150-02-27,echo,45\n0,2150-02-28,mri,20\n1,2150-03-02,echo,<35\n2,2150-03-09,echo,9\n"
    )
    columns = ["--patient-column", "who", "--time-column", "when", "--value-column", "ef"]
    arguments = [
        "link",
        folder,
        "--sources",
        "a",
        "b",
        "--name",
        "ef",
        "--events",
        events,
        *columns,
        "--window",
        "-7d",
        "7d",
        "--keep-value",
    ]
    arguments += ["--threshold", "<= 50", "<= 40", "--threshold", "<= 30", "--filter", "kind", "echo", "ct"]
    assert main([str(argument) for argument in arguments]) == 0
    made = folder / "labels" / "ef"
    assert (made / "labels.csv").read_text() == "idx,ef_le_50,ef_le_40,ef_le_30\n0,1,0,0\n1,1,1,\n"
    assert (made / "values.csv").read_text() == (
        "idx,bound,value,time,hours\n0,,45,2150-02-27T00:00:00,-48\n1,<,35,2150-03-02T00:00:00,24\n"
    )


def test_example_of_reduced_ejection_fraction(folder, tmp_path):
    events = tmp_path / "echo.csv"
    rows = ["0,2150-02-23 00:00:00,55-60%", "0,2150-03-03 00:00:00,38", "1,2150-03-08 00:00:00,30", "2,2150-03-09,10"]
    events.write_text("subject_id,charttime,lvef\n" + "\n".join(rows) + "\n")
    arguments = [
        "link",
        folder,
        "--sources",
        "a",
        "b",
        "--name",
        "lvef",
        "--events",
        events,
        "--config",
        CONFIGS / "lvef_mimic_iv.yaml",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    labels = (folder / "labels" / "lvef" / "labels.csv").read_text()
    assert labels == "idx,lvef_le_50,lvef_le_40,lvef_le_35,lvef_le_30\n0,1,1,0,0\n1,1,1,1,1\n"


def test_example_of_abnormal_troponin(folder, tmp_path):
    rows = [
        "0,2150-03-01 01:00:00,51003,<0.01,,0.01",
        "1,2150-03-01 01:00:00,51003,<0.01,,0.01",
        "1,2150-03-01 23:00:00,51003,0.25,0.25,0.01",
        "2,2150-03-01 01:00:00,50912,1.1,1.1,0.01",  # creatinine
        "3,2150-03-03 01:00:00,51003,0.25,0.25,0.01",
    ]
    events = tmp_path / "labevents.csv.gz"
    lines = ["subject_id,charttime,itemid,value,valuenum,ref_range_upper", *rows]
    pd.DataFrame([line.split(",") for line in lines[1:]], columns=lines[0].split(",")).to_csv(events, index=False)
    arguments = [
        "link",
        folder,
        "--sources",
        "a",
        "b",
        "--name",
        "t",
        "--events",
        events,
        "--config",
        CONFIGS / "troponin_mimic_iv.yaml",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    assert (folder / "labels" / "t" / "labels.csv").read_text() == "idx,troponin_abnormal\n0,0\n1,1\n"


def test_through_the_console_command(folder, tmp_path, monkeypatch):
    """A time such as `-7d` is a value, not an option."""
    parsed = []
    monkeypatch.setattr("fairseq_signals_ext.commands.label.run", lambda options: parsed.append(options) or 0)
    assert main(["link", str(folder), "--name", "l", "--window", "-0.5h", "30min", "--events", "x"]) == 0
    assert parsed[0].window == ["-0.5h", "30min"] and (parsed[0].way, parsed[0].folder) == ("link", folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to label from: give one of --codes, --table, --reports, or link --events"),
        (["--codes", "code15", "--table", "t.csv"], "--codes and --table: give one of"),
        (["--codes", "code15", "--on", "idx"], "--on: goes with --table or --reports, not with --codes; leave it out"),
        (["--table", "t.csv", "--min-likelihood", "0"], "--min-likelihood: goes with --codes, not with --table"),
        (["--codes", "code15", "--regression"], "--regression: goes with --table or link, not with --codes"),
        (["--codes", "icd"], "code map 'icd': no such file; give a CSV file, or one of cinc2021"),
        (["--codes", "code15", "--min-count", "5"], "no label has 5 positive recordings"),
        (["--codes", "code15", "--sources", "c"], "no source 'c'; its sources are a, b"),
        (["--table", "absent.csv"], "absent.csv: no such file"),
        (["--table", "absent.csv", "--regression", "--min-count", "5"], "leave it out with --regression"),
        (["--codes", "code15", "--train-manifest", "absent.tsv"], "absent.tsv: no such manifest"),
    ],
)
def test_bad_options(folder, capsys, options, message):
    assert message in fails(capsys, folder, "--name", "l", *options)
    assert not (folder / "labels").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "link: give the table of events with --events"),
        (["--events", "absent.csv"], "linking needs thresholds such as '<= 40'"),
        (["--events", "absent.csv", "--threshold", "<= 40"], "absent.csv: no such file"),
        (["--events", "absent.csv", "--threshold", "40"], "threshold '40': give a relation and a number"),
        (
            ["--events", "absent.csv", "--threshold", "< 4", "--filter", "item"],
            "--filter: give a column and the values",
        ),
        (["--events", "absent.csv", "--threshold", "< 4", "--window", "-7", "7"], "window '-7': give a number with s"),
        (["--events", "absent.csv", "--config", "absent.yaml"], "absent.yaml: cannot be read as YAML"),
    ],
)
def test_bad_link_options(folder, capsys, options, message):
    assert message in fails(capsys, "link", folder, "--name", "l", *options)


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        (["DIR", "--codes", "code15", "--threshold", "< 1"], "--threshold < 1"),
        (["link", "DIR", "--events", "e.csv", "--codes", "code15"], "--codes code15"),
        (["DIR", "DIR", "--codes", "code15"], "DIR"),
    ],
)
def test_options_of_another_subcommand(capsys, arguments, unknown):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--name", "l"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: unrecognized arguments: {unknown}; see ")


def test_name_that_is_taken(folder, capsys):
    arguments = [str(folder), "--name", "l", "--codes", "code15"]
    assert main(arguments) == 0
    assert "exists already; choose another --name, or replace it with --overwrite" in fails(capsys, *arguments)
    assert main([*arguments, "--overwrite"]) == 0


def test_folders_that_are_none(folder, tmp_path, capsys):
    message = fails(capsys, tmp_path / "absent", "--name", "l", "--codes", "code15")
    assert "recordings.parquet: no such file; run fairseq-signals-ext prepare first" in message
