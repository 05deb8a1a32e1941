"""`manifests/prepare.py` and the simulated ECGs, as a user runs them."""

import numpy as np
import pandas as pd
import pytest
from made_up_wfdb import write_wfdb
from running import script

from fairseq_signals_ext import cli
from fairseq_signals_ext.readers import read_ecg


def main(arguments):
    return cli.main(["prepare", *arguments])


def write_records(folder, number=10, invalid=()):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for record in range(number):
        counts = rng.integers(-2000, 2000, (100, 12))
        if record in invalid:
            counts[7, 2] = -32768
        write_wfdb(folder / f"r{record}", counts.T)
    return folder


@pytest.fixture
def source(tmp_path):
    return write_records(tmp_path / "source")


def test_the_four_commands(source, tmp_path):
    out = tmp_path / "out"
    done = script("manifests/prepare.py", "wfdb", source, "--out", out, "--jobs", 2, "--shard-size", 4)
    assert done.returncode == 0, done.stderr
    known = "patient 0 (0 patients), age 0, sex 0, start time 0, codes 0, statements 0"
    assert f"{out}: 10 recordings, 0.00 h, 3 shards\nknown: {known}\nflags: short 10" in done.stdout
    assert done.stderr == ""  # no terminal, and too short for a line of progress
    assert len(pd.read_parquet(out / "recordings.parquet")) == 10
    assert (out / "rejected.csv").read_text() == "source,source_file,reason\n"
    table = tmp_path / "table.csv"
    table.write_text("record_id,ill\n" + "".join(f"r{number},{number % 2}\n" for number in range(10)))
    for command in (
        ["manifests/split.py", out, "--name", "s"],
        ["manifests/label.py", out, "--name", "l", "--table", table],
        ["manifests/verify.py", out],
    ):
        done = script(*command)
        assert done.returncode == 0, done.stderr
    assert (out / "splits" / "s" / "train.tsv").read_text().startswith("../..\nshards/0000")
    assert np.load(out / "labels" / "l" / "y.npy")[:, 0].tolist() == [0, 1] * 5
    assert (out / "verify.html").is_file()


def test_help_has_an_example():
    done = script("manifests/prepare.py", "--help")
    assert done.returncode == 0
    assert "fairseq-signals-ext prepare physionet2021 /data" in done.stdout


def test_rejected_files_are_the_last_lines(source, tmp_path):
    write_records(source, invalid=[4])
    (source / "r1.dat").write_bytes(b"short")
    (source / "r2.dat").unlink()
    (source / "r3.hea").write_text("not a header\n")
    out = tmp_path / "out"
    done = script("manifests/prepare.py", "wfdb", source, "--out", out)
    assert done.returncode == 1
    lines = done.stdout.splitlines()[-4:]
    assert lines[0] == f"{out / 'rejected.csv'}: 3 rejected" and lines[1].startswith(
        "  r1.hea: its file 'r1.dat' has 5"
    )
    rejected = pd.read_csv(out / "rejected.csv").set_index("source_file")["reason"]
    assert "5 bytes, but 100 samples per lead need 2400" in rejected["r1.hea"]
    assert "its file 'r2.dat' is missing" in rejected["r2.hea"]
    assert "'not a header' is not a line of a WFDB header" in rejected["r3.hea"]
    table = pd.read_parquet(out / "recordings.parquet").set_index("record_id")
    assert len(table) == 7
    assert (list(table["flags"]["r4"])[:2], table["nan_samples"]["r4"]) == (["nan", "short"], 1)


def spoil_folder(source):
    for path in source.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (spoil_folder, [], "source: no .hea file here or below"),
        (lambda source: (source / "r0.dat").unlink(), ["--strict"], "r0.hea: its file 'r0.dat' is missing"),
        (
            lambda source: (source.parent / "out" / "shards").mkdir(parents=True),
            [],
            "plan.jsonl: no such file, though there are shards",
        ),
        (lambda source: None, ["--gain-fix", "source"], "gain-fix 'source': write PART=FACTOR"),
        (lambda source: None, ["--input-rate", "500"], "the files of wfdb contain their rate, unit and leads"),
        (lambda source: None, ["--rate", "-1"], "rate -1.0: give a sample rate in Hz above 0"),
    ],
)
def test_wrong_input_is_one_line(source, tmp_path, spoil, arguments, message):
    spoil(source)
    with pytest.raises(SystemExit) as caught:
        main(["wfdb", str(source), "--out", str(tmp_path / "out"), *arguments])
    text = str(caught.value)
    assert text.startswith("error: ")
    assert message in text
    assert "\n" not in text


def test_missing_folder_ends_with_one_line_and_status_1(tmp_path):
    done = script("manifests/prepare.py", "wfdb", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'nowhere'}: no such folder; give the folder with the recordings"
    ]


def test_resume_after_everything_is_there(source, tmp_path, capsys):
    arguments = ["wfdb", str(source), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    table = (tmp_path / "out" / "recordings.parquet").read_bytes()
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'out'}: finished already; nothing is left to do: ")
    assert (tmp_path / "out" / "recordings.parquet").read_bytes() == table


def test_simulated_ecgs(tmp_path):
    pytest.importorskip("neurokit2")
    for folder in ("a", "b"):
        done = script(
            "examples/demo/simulate.py", "--out", tmp_path / folder, "--recordings", 2 if folder == "a" else 1
        )
        assert done.returncode == 0, done.stderr
    for suffix in (".hea", ".dat"):
        first = (tmp_path / "a" / f"SIM00001{suffix}").read_bytes()
        assert first == (tmp_path / "b" / f"SIM00001{suffix}").read_bytes()
    one, two = (read_ecg(tmp_path / "a" / f"SIM0000{number}.hea") for number in (1, 2))
    assert one.signal.shape == (12, 5000)
    assert (one.sample_rate, one.leads) == (500, tuple(range(12)))
    assert 18 <= one.age <= 90
    for recording in (one, two):
        assert (recording.signal.std(axis=1) > 0.05).all()
        assert np.abs(recording.signal).max() < 4
        others = np.abs(np.corrcoef(recording.signal)) - np.eye(12)
        assert others.max() < 0.9999
        np.testing.assert_allclose(recording.signal[1], recording.signal[0] + recording.signal[2], atol=0.002)
    assert np.abs(np.corrcoef(one.signal[0], two.signal[0])[0, 1]) < 0.9
    assert any("HeartRate:" in line for line in (tmp_path / "a" / "SIM00001.hea").read_text().splitlines())


def test_simulation_refuses_nonsense(tmp_path):
    done = script("examples/demo/simulate.py", "--out", tmp_path, "--recordings", 0)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 0 recordings, seed 1: give at least 1")


def test_the_status_is_that_of_the_source(source, tmp_path, capsys):
    bad = write_records(tmp_path / "bad")
    (bad / "r2.dat").unlink()
    out = str(tmp_path / "out")
    assert main(["wfdb", str(bad), "--out", out]) == 1
    assert main(["wfdb", str(source), "--out", out]) == 0
    assert "rejected" not in capsys.readouterr().out.splitlines()[-1]


def write_table(path, *rows):
    path.write_text("\n".join(["file,patient,age", *rows]) + "\n")
    return path


def test_resume_with_another_table(source, tmp_path, capsys):
    """Values of stored recordings do not change: another table is refused, but not one with rows for new files."""
    table = write_table(tmp_path / "t.csv", "r0.hea,p0,50", "r1.hea,p1,60")
    run = ["wfdb", str(source), "--out", str(tmp_path / "out")]
    assert main([*run, "--table", str(table)]) == 0
    assert "known: patient 2 (2 patients), age 2, sex 0, " in capsys.readouterr().out
    stored = (tmp_path / "out" / "recordings.parquet").read_bytes()
    for others in ([], ["--table", str(write_table(tmp_path / "u.csv", "r0.hea,p0,50", "r1.hea,p1,61"))]):
        with pytest.raises(
            SystemExit, match=r"[12] prepared recordings would get other metadata \(the first: r[01].hea\)"
        ):
            main([*run, "--resume", *others])
    assert (tmp_path / "out" / "recordings.parquet").read_bytes() == stored

    write_records(source, 11)
    write_table(table, "r0.hea,p0,50", "r1.hea,p1,60", "r10.hea,p9,70")
    assert main([*run, "--resume", "--table", str(table)]) == 0
    assert pd.read_parquet(tmp_path / "out" / "recordings.parquet")["age"].dropna().tolist() == [50, 60, 70]


def test_a_table_may_be_corrected_for_rejected_files(source, tmp_path):
    (source / "r1.dat").unlink()
    run = ["wfdb", str(source), "--out", str(tmp_path / "out"), "--table"]
    assert main([*run, str(write_table(tmp_path / "t.csv", "r0.hea,p0,50", "r1.hea,p1,60"))]) == 1
    write_records(source)
    assert main([*run, str(write_table(tmp_path / "t.csv", "r0.hea,p0,50", "r1.hea,p1,6")), "--retry-rejected"]) == 0
    assert pd.read_parquet(tmp_path / "out" / "recordings.parquet")["age"].dropna().tolist() == [50, 6]


def test_a_finished_run_with_rejected_files_keeps_its_status(source, tmp_path, capsys):
    (source / "r1.dat").unlink()
    run = ["wfdb", str(source), "--out", str(tmp_path / "out")]
    assert main(run) == 1
    first = capsys.readouterr().out.splitlines()[-2:]
    assert main([*run, "--resume"]) == 1
    finished, *last = capsys.readouterr().out.splitlines()
    assert "finished already" in finished and last == first and last[1].startswith("  r1.hea: its file 'r1.dat'")


def test_columns_without_a_meaning_are_noted(source, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("file,Patient,MRN,DOB,gender,ward\nr0.hea,a,b,1950-01-01,f,3\n")
    assert main(["wfdb", str(source), "--out", str(tmp_path / "out"), "--table", str(tmp_path / "t.csv")]) == 0
    notes = [line.split("t.csv: ")[1] for line in capsys.readouterr().err.splitlines()]
    own = "is kept as a column of your own"
    assert notes == [
        f"column 'Patient' {own}; if it is the patient, name it 'patient'",
        f"column 'MRN' {own}; if it is the patient, name it 'patient'",
        f"column 'DOB' {own}; ages come from a column 'age', in years",
        f"column 'gender' {own}; if it is the sex, name it 'sex'",
        "columns of your own: ward",
    ]
