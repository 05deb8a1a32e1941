"""`label --reports` and `label text`: labels of a prepared folder from its reports, through the command."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import RATE, made_up_counts
from made_up_wfdb import write_wfdb

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.cli import main

REPORTS = [
    ["Sinus rhythm", "Left bundle branch block", "Abnormal ECG"],
    ["Atrial fibrillation has replaced sinus rhythm. No LBBB", "possible inferior infarct"],
    [],
    None,
    ["Quux flibber", "=cmd|' /C calc'"],
    ["Sinus bradycardia; quux flibber"],
]


@pytest.fixture
def folder(tmp_path):
    rows = [
        {
            "idx": number,
            "record_id": f"r{number}",
            "source": "made-up",
            "statements": report,
            "remark": f"{'; '.join(report or [])}",
            "age": 50.0 + number,
        }
        for number, report in enumerate(REPORTS)
    ]
    kinds = {"idx": pa.int64(), "record_id": pa.string(), "source": pa.string(), "remark": pa.string()}
    kinds.update(statements=pa.list_(pa.string()), age=pa.float64())
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(kinds)), tmp_path / "recordings.parquet")
    return tmp_path


def label(folder, *arguments, name="found"):
    assert main(["label", str(folder), "--name", name, "--reports", "--overwrite", *map(str, arguments)]) == 0
    return folder / "labels" / name


def table_of(result):
    return pd.read_csv(result / "labels.csv", index_col="idx")


def test_labels_evidence_and_what_was_not_understood(folder, capsys):
    result = label(folder)
    table = table_of(result)
    assert list(table.index) == [0, 1, 5]  # the others have no report, or none of it is understood
    assert table.loc[0, "Left bundle branch block"] == 1 and table.loc[0, "Infarction"] == 0
    assert table.loc[1, "Atrial fibrillation"] == 1 and table.loc[1, "Sinus rhythm"] == 0
    assert np.isnan(table.loc[1, "Infarction"]) and table.loc[1, "Left bundle branch block"] == 0
    y = np.load(result / "y.npy")
    assert y.shape == (6, 17) and np.isnan(y[[2, 3, 4]]).all()
    evidence = pd.read_parquet(result / "evidence.parquet").astype({"label": str, "status": str, "words": str})
    rows = {(row.idx, row.label): (row.status, row.probability, row.words) for row in evidence.itertuples()}
    assert rows[1, "Infarction"] == ("uncertain", 0.5, "possible inferior infarct")
    assert rows[1, "Sinus rhythm"][:2] == ("past", 0) and rows[1, "Left bundle branch block"][2] == "No LBBB"
    unmatched = pd.read_csv(result / "unmatched.csv", keep_default_na=False)
    assert unmatched.iloc[0].tolist() == ["Quux flibber", 1] or unmatched["count"].iloc[0] == 1
    assert unmatched["statement"].str.startswith("'=").any()  # no formula for a spreadsheet
    definition = pd.read_csv(result / "label_def.csv", index_col="name")
    assert definition.loc["Left bundle branch block", "codes"] == "lbbb"
    told = json.loads((result / "label.json").read_text())
    assert told["counts"]["findings"]["Infarction"] == {"present": 0, "uncertain": 1, "absent": 0, "past": 0}
    printed = capsys.readouterr().out
    assert "2 of 6 recordings have no report: unlabelled" in printed
    assert "1 of 4 reports: no statement of them is understood: unlabelled" in printed


@pytest.mark.parametrize(("choice", "value"), [("positive", 1), ("negative", 0)])
def test_what_uncertain_findings_become(folder, choice, value):
    assert table_of(label(folder, "--uncertain", choice)).loc[1, "Infarction"] == value


def test_rates_and_spelling_are_options(folder, tmp_path):
    (tmp_path / "more.csv").write_text("record_id,text\nr0,Sinus rhythm rate 45\nr1,Sinus bradycrdia\n")
    given = ("--table", tmp_path / "more.csv", "--column", "text")
    assert table_of(label(folder, *given))["Bradycardia"].tolist() == [1, 1]
    assert table_of(label(folder, *given, "--no-rates"))["Bradycardia"].tolist() == [0, 1]
    config = tmp_path / "settings.yaml"
    config.write_text("spelling: false\n")
    assert table_of(label(folder, *given, "--config", config))["Bradycardia"].to_dict() == {0: 1}
    config.write_text("spelling: perhaps\n")
    with pytest.raises(SystemExit, match="settings.yaml: line 1: spelling: 'perhaps'; give one of true, false"):
        label(folder, *given, "--config", config)


def test_the_config_gives_ecg_fm_semantics(folder):
    config = f"{configs_dir('labels')}/mimic_iv_ecg_reports.yaml"
    table = table_of(label(folder, "--config", config))
    assert table.loc[1, "Infarction"] == 1 and table.loc[1, "Left bundle branch block"] == 1
    assert table.loc[1, "Accessory pathway conduction"] == 1
    assert table_of(label(folder, "--config", config, "--semantics", "clinical")).loc[1, "Sinus rhythm"] == 0


def test_a_text_column_and_a_table_give_the_same(folder, tmp_path):
    expected = table_of(label(folder))
    pd.testing.assert_frame_equal(table_of(label(folder, "--column", "remark")), expected)
    rows = [{"record_id": f"r{n}", "text": "\n".join(report)} for n, report in enumerate(REPORTS) if report]
    pd.DataFrame(rows).to_csv(tmp_path / "reports.csv", index=False)
    of_table = label(folder, "--table", tmp_path / "reports.csv", "--column", "text", "--on", "record_id")
    pd.testing.assert_frame_equal(table_of(of_table), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--column", "none"], "no column 'none'"),
        (["--column", "age"], "column 'age' holds no text; give another --column"),
        (["--label-set", "none"], "label set 'none': no such file"),
        (["--codes", "cinc2021"], "--codes and --reports: give one of"),
        (["--vocabulary", "none.yaml"], "none.yaml: cannot be read"),
        (["--regression"], "--regression: goes with --table or link, not with --reports"),
    ],
)
def test_bad_input_ends_in_a_line(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["label", str(folder), "--name", "x", "--reports", *arguments])
    assert message in f"{ended.value} {capsys.readouterr().err}"
    assert not (folder / "labels" / "x").exists()


def test_options_of_reports_go_with_reports_only(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["label", str(folder), "--name", "x", "--codes", "cinc2021", "--semantics", "ecg-fm"])
    assert "--semantics: goes with --reports, not with --codes" in f"{ended.value} {capsys.readouterr().err}"


def test_labels_without_reports_replace_the_tables(folder):
    result = label(folder)
    (folder / "table.csv").write_text("record_id,a\nr0,1\nr1,0\n")
    assert main(["label", str(folder), "--name", "found", "--table", str(folder / "table.csv"), "--overwrite"]) == 0
    assert not (result / "evidence.parquet").exists() and not (result / "unmatched.csv").exists()


def test_a_text_is_explained(capsys):
    assert main(["label", "text", "Atrial fibrillation. No LBBB. Bla bla", "old infarct"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    assert ["Atrial", "fibrillation", "present", "1.00", "Atrial", "fibrillation"] in words
    assert ["Left", "bundle", "branch", "block", "absent", "0.00", "No", "LBBB"] in words
    assert lines[-1] == "not understood: Bla bla"
    assert main(["label", "text", "bla"]) == 0
    assert "no label" in capsys.readouterr().out


def test_verify_shows_what_reports_say(tmp_path, capsys):
    records, out = tmp_path / "records", tmp_path / "out"
    records.mkdir()
    for number in range(2):
        write_wfdb(records / f"rec{number}", made_up_counts(np.random.default_rng(number), 10 * RATE))
    rows = [("rec0.hea", "Left bundle branch block"), ("rec1.hea", "No LBBB; <b>quux</b> flibber; possible MI")]
    pd.DataFrame(rows, columns=["source_file", "statements"]).to_csv(tmp_path / "table.csv", index=False)
    prepare = ["prepare", "wfdb", str(records), "--out", str(out), "--table", str(tmp_path / "table.csv")]
    assert main(prepare) == 0
    label(out, name="mine")
    assert main(["verify", str(out)]) == 0
    page = (out / "verify.html").read_text()
    section = page[page.index("Labels from reports") :]
    assert "mine" in section and "2 reports, clinical semantics; 1 of 4 statements were not understood" in section
    row = section[section.index(">Left bundle branch block<") :].partition("</tr>")[0]
    assert [cell.partition("<")[0] for cell in row.split("<td>")[1:]] == ["1", "0", "1", "0"]
    assert "&lt;b&gt;quux&lt;/b&gt; flibber (1)" in section
