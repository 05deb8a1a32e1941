"""`manifests/split.py`, as a user runs it."""

import numpy as np
import pytest
from made_up_tables import members, times, write_table
from running import script

from fairseq_signals_ext import cli


def main(arguments):
    return cli.main(["split", *arguments])


def write_folder(folder):
    """40 recordings; 36 have a patient, with 4 recordings per patient."""
    return write_table(
        folder,
        40,
        patient=[f"p{number // 4}" if number < 36 else None for number in range(40)],
        start_time=times(*range(40)),
        strat_fold=[float(number // 4 + 1) for number in range(40)],
        age=[10.0] * 4 + [50.0] * 36,
        mixed=[float(number % 3) for number in range(40)],
    )


def test_split_prints_a_table_of_counts(tmp_path):
    write_folder(tmp_path)
    arguments = ["--name", "s", "--where", "age", ">=", "18", "--without-flags", "nan", "--fractions", 0.5, 0.25, 0.25]
    done = script("manifests/split.py", tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'splits' / 's'}: 36 of 40 recordings, split by patient",
        "subset  recordings  patients  without patient",
        *done.stdout.splitlines()[2:5],
        "left out: 4 not age >= 18",
        "note: each recording without patient (4) counts as a patient of its own",
    ]
    assert [line.split()[0] for line in done.stdout.splitlines()[2:5]] == ["train", "valid", "test"]
    assert sum(int(line.split()[1]) for line in done.stdout.splitlines()[2:5]) == 36
    done = script("manifests/split.py", tmp_path, *arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "exists already" in done.stderr
    assert script("manifests/split.py", tmp_path, *arguments, "--overwrite").returncode == 0


@pytest.mark.parametrize("condition", [["age>=18"], ["age >= 18"], ["age", ">= 18"], ["age", ">=", "18"]])
def test_a_condition_in_one_word_or_three(tmp_path, capsys, condition):
    write_folder(tmp_path)
    other = ["--where", "strat_fold in 1,2,3,4,5,6,7,8", "--fractions", "1", "0", "0"]
    assert main([str(tmp_path), "--name", "s", "--where", *condition, *other]) == 0
    printed = capsys.readouterr().out
    assert "left out: 4 not age >= 18\nleft out: 8 not strat_fold in 1,2,3,4,5,6,7,8\n" in printed


def test_without_patients(tmp_path, capsys):
    write_table(tmp_path, 40)
    assert main([str(tmp_path), "--name", "s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": 40 recordings, split at random, by recording")
    assert lines[-1].startswith("note: no patient is known, so recordings of one patient may be in several subsets")


def test_help_has_examples():
    done = script("manifests/split.py", "--help")
    assert done.returncode == 0
    assert "fairseq-signals-ext split data --name main --by patient \\\n      --fractions 0.8 0.1 0.1" in done.stdout
    assert "nested subsets with these percentages" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected", "printed"),
    [
        (
            "--by column --column strat_fold --train 1-8 --valid 9 --test 10",
            {"train": range(32), "valid": range(32, 36), "test": range(36, 40)},
            "split by column",
        ),
        (
            "--by time --cuts 2019-01-31 2019-02-05T00:00",
            {"train": range(30), "valid": range(30, 35), "test": range(35, 40)},
            "patients in more than one of these subsets: 2",
        ),
        (
            "--by patient-time --cuts 2019-01-31 2019-02-05",
            {"train": range(28), "valid": range(28, 32), "test": range(32, 40)},
            "moved with their patient to a later subset: 5",
        ),
        (
            "--by patient-time --crossing drop --cuts 2019-01-31 2019-02-05",
            {"train": range(30), "valid": [32, 33, 34], "test": range(36, 40)},
            "left out: 3 after the cut, of a patient before it",
        ),
        (
            "--by column --column mixed --train 0 --test 1 2 --allow-shared-patients",
            {"train": range(0, 40, 3), "test": [number for number in range(40) if number % 3]},
            "patients in more than one of these subsets: 9",
        ),
    ],
)
def test_strategies(tmp_path, capsys, arguments, expected, printed):
    table = write_folder(tmp_path)
    assert main([str(tmp_path), "--name", "s", *arguments.split()]) == 0
    assert members(tmp_path, table, "s") == {name: list(idx) for name, idx in expected.items()}
    assert printed in capsys.readouterr().out


def test_folds_subsets_and_pieces(tmp_path, capsys):
    table = write_folder(tmp_path)
    arguments = "--name s --kfold 3 --subsets 25 50 --manifest-lines 10 --seed 5"
    assert main([str(tmp_path), *arguments.split()]) == 0
    found = members(tmp_path, table, "s")
    assert sorted(idx for fold in range(3) for idx in found[f"fold-{fold}/valid"]) == list(range(40))
    assert set(found["fold-1/train_25"]) < set(found["fold-1/train_50"]) < set(found["fold-1/train"])
    assert (tmp_path / "splits" / "s" / "fold-0" / "train-00002-of-00003.tsv").is_file()
    assert "fold-2/train_50" in capsys.readouterr().out


def write_labels(folder):
    """Labels of too few recordings, a table of definitions without y.npy, and a y.npy of other labels."""
    for name, rows, labels in (("short", 39, 2), ("none", 0, 2), ("other", 40, 3)):
        path = folder / "labels" / name
        path.mkdir(parents=True)
        (path / "label_def.csv").write_text("name\na\nb\n")
        if rows:
            np.save(path / "y.npy", np.zeros((rows, labels)))
    (folder / "labels" / "empty").mkdir()
    (folder / "labels" / "empty" / "y.npy").write_bytes(b"")


COLUMN = "--by column --column strat_fold"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--by chance", "by 'chance': no such choice; choose from random, patient, time"),
        ("--by patient-time --crossing none", "crossing 'none': no such choice; choose from later, drop"),
        ("--name ../up", "name '../up': use letters"),
        ("--seed -1", "seed -1: give a number from 0"),
        ("--fractions 0.8 0.2", "fractions 0.8 0.2: give one per subset (train, valid, test)"),
        ("--fractions 0.5 0.1 0.1", "fractions 0.5 0.1 0.1: they add up to 0.7; they must add up to 1"),
        ("--fractions 1.2 -0.1 -0.1", "fractions 1.2 -0.1 -0.1: give one per subset"),
        ("--fractions nan 0.5 0.5", "fractions nan 0.5 0.5: give one per subset"),
        (
            "--fractions 0.98 0.01 0.01",
            "recordings.parquet: valid would be empty (40 recordings in 13 groups that cannot be divided)",
        ),
        ("--subsets 0.1", "train_0.1 would be empty"),
        ("--subsets 0 10", "subsets 0 10: give different percentages"),
        ("--subsets 10 100", "subsets 10 100: give different percentages"),
        ("--subsets 10 10", "subsets 10 10: give different percentages"),
        ("--kfold 1", "kfold 1: give 2 folds or more"),
        ("--kfold 14", "/valid would be empty"),
        ("--kfold 5 --fractions 0.8 0.1 0.1", "kfold 5: give 2 folds or more, and no fractions"),
        ("--kfold 5 --by time", "kfold: does not go with by time, only with by random, patient"),
        ("--cuts 2019-01-01 2020-01-01", "cuts: does not go with the default for by, only with by time, patient-time"),
        ("--by time --cuts 2019-01-01", "cuts 2019-01-01: give two times"),
        ("--by time --cuts 2020-01-01 2019-01-01", "cuts 2020-01-01 2019-01-01: give two times"),
        ("--by time --cuts 2019-02-30 2020-01-01", "'2019-02-30' is not a time; write 2019-12-31"),
        ("--by time --cuts 2019-01-01T00:00+01:00 2020-01-01", "'2019-01-01T00:00+01:00' is not a time"),
        ("--by time --cuts 2030-01-01 2031-01-01", "valid would be empty"),
        ("--by time --cuts 2019-01-02 2019-01-09 --fractions 1 0 0", "give cuts or fractions, not both"),
        ("--by time --where idx < 0", "no recording is left (left out: 40 not idx < 0); use fewer"),
        ("--by column", "by column: name the column with --column"),
        (COLUMN, "column 'strat_fold': give its values with --train, --valid and --test"),
        (f"{COLUMN} --train 1 --test 77", "test would be empty"),
        (f"{COLUMN} --train 77", "no recording is left (left out: 40 with strat_fold in none of the lists)"),
        (f"{COLUMN} --train 1-8 --test 8-10", "column 'strat_fold': value 8.0 is given for two subsets"),
        (f"{COLUMN} --train one", "column 'strat_fold': holds numbers, but 'one' is neither a number nor a range"),
        (f"{COLUMN} --train 1 --fractions 1 0 0", "fractions: does not go with by column"),
        ("--by column --column mixed --train 0 --test 1 2", "column 'mixed': patient 'p0' is in two subsets"),
        ("--by column --column nosuch --train 1", "recordings.parquet: no column 'nosuch'; its columns are idx, "),
        ("--by column --column flags --train 1", "column 'flags': contains lists"),
        ("--by column --column start_time --train 1", "column 'start_time': contains times; split with --by time"),
        ("--by patient --column strat_fold --train 1", "column: does not go with by patient"),
        ("--train 1", "values: does not go with the default for by, only with by column"),
        ("--stratify labels/nosuch", "stratify labels/nosuch: no such labels; give one of empty, other, short"),
        ("--stratify othr", "stratify othr: no such labels; did you mean other?"),
        ("--stratify labels/none", "labels/none/y.npy: no such label file; give one of labels/empty, "),
        ("--stratify labels/empty", "labels/empty/y.npy: not a label file"),
        ("--stratify labels/short", "y.npy: has 39 rows, but there is a recording with idx 39"),
        ("--stratify labels/other", "label_def.csv: defines 2 labels, but y.npy beside it has 3"),
        ("--by time --stratify labels/short", "stratify: does not go with by time"),
        ("--without-flags noisy", "flag 'noisy': no such flag; flags are nan, constant"),
        ("--with-leads 13", "with leads 13: give a number of leads up to 12"),
        ("--needs-leads I,V9", "unknown lead 'V9'"),
        ("--min-seconds nan", "min seconds nan: give a length in s"),
        ("--min-seconds 5", "00000.index.npy: cannot be read"),
        ("--where age ~ 5", "where age ~ 5: no such operator; operators are == != < <= > >= in"),
        ("--where nosuch > 5", "no column 'nosuch'; its columns are idx, "),
        ("--where agee>=5", "no column 'agee'; did you mean age?"),
        ("--where age=5", "where age=5: give one column, operator and value, in quotes, such as 'age >= 18'"),
        ("--where age=>5", "where age=>5: give one column, operator and value"),
        ("--where age", "where age: give one column, operator and value"),
        ("--where age > 5 years", "where age > 5 years: give one column, operator and value"),
        ("--where age > old", "where age > old: the column contains numbers, but 'old' is none"),
        ("--where patient > p3", "where patient > p3: the column contains text"),
        ("--where start_time > soon", "where start_time > soon: 'soon' is not a time"),
        ("--where flags == nan", "column 'flags': contains lists"),
        ("--where shard == nope", "where shard == nope: no recording has this; the column's values are 'shards/"),
        ("--where age > 200", "no recording is left (left out: 40 not age > 200)"),
        ("--manifest-lines 0", "manifest lines 0: give at least 1"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, arguments, message):
    write_folder(tmp_path)
    write_labels(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main([".", "--name", "s", *arguments.split()])
    text = str(caught.value)
    assert text.startswith("error: ") and "\n" not in text
    assert message in text
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_that_is_not_prepared(tmp_path):
    done = script("manifests/split.py", tmp_path / "nowhere", "--name", "s")
    assert done.returncode == 1
    path = tmp_path / "nowhere" / "recordings.parquet"
    assert done.stderr.splitlines() == [f"error: {path}: no such file; run fairseq-signals-ext prepare first"]


def test_idx_that_occurs_twice(tmp_path):
    write_table(tmp_path, 4, idx=[0, 1, 1, 2])
    with pytest.raises(SystemExit, match="idx 1 occurs twice; prepare the folder again"):
        main([str(tmp_path), "--name", "s"])
