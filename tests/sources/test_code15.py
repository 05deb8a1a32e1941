"""CODE-15%: made-up trace files, padded as the real ones are."""

import numpy as np
import pytest

from fairseq_signals_ext.common.leads import LEADS

h5py = pytest.importorskip("h5py")

COLUMNS = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"
# exam -> (rest of its row, (zeros before, samples, zeros after))
EXAMS = {
    1169160: ("38,True,40.160,False,False,False,False,False,False,523632,False,2.098,True,part0", (647, 2800, 649)),
    2873686: ("73,False,67.05,False,True,False,False,False,True,1724173,False,6.657,False,part0", (0, 4096, 0)),
    168405: ("67,True,79.6,False,False,False,False,False,False,51421,,,False,part1", (548, 3000, 548)),
    271011: ("41,False,69.7,True,False,False,True,False,False,1737282,False,4.05,False,part1", (1000, 1000, 2096)),
}


def trace(exam):
    """samples x leads without padding; lead I starts with zeros inside, and one sample is zero on all leads."""
    signal = np.random.default_rng(exam).normal(0, 0.3, (EXAMS[exam][1][1], 12)).astype(np.float32)
    signal[:30, 0] = 0
    signal[500] = 0
    return signal


def write_file(path, exams, trailing=0):
    tracings = np.zeros((len(exams) + trailing, 4096, 12), np.float32)
    for row, exam in enumerate(exams):
        first, samples, _ = EXAMS[exam][1]
        tracings[row, first : first + samples] = trace(exam)
    with h5py.File(path, "w") as file:
        file["exam_id"] = np.array([*exams, *[0] * trailing])
        file["tracings"] = tracings


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "code15"
    folder.mkdir()
    lines = [f"{exam},{row.replace('part', 'exams_part')}.hdf5" for exam, (row, _) in EXAMS.items()]
    lines += ["99,50,True,50,False,False,False,False,False,False,7,False,1,True,exams_part17.hdf5"]
    (folder / "exams.csv").write_text("\n".join([COLUMNS, *lines, ""]))
    write_file(folder / "exams_part0.hdf5", [2873686, 1169160], trailing=3)
    write_file(folder / "exams_part1.hdf5", [168405, 271011], trailing=1)
    return folder


NAMES = ["exams_part0.hdf5#2873686", "exams_part0.hdf5#1169160", "exams_part1.hdf5#168405", "exams_part1.hdf5#271011"]


def test_table(collection, prepare):
    found = prepare("code15", collection, "--rate", 400)
    table = found.table
    # in the order of the files
    assert table.index.tolist() == NAMES
    assert found.notes == ["1 of 5 exams in exams.csv are not in the trace files that are here"]
    assert table["record_id"].tolist() == ["2873686", "1169160", "168405", "271011"]
    assert table["patient"].tolist() == ["1724173", "523632", "51421", "1737282"]
    assert table["sex"].tolist() == ["female", "male", "male", "female"]
    assert table["age"].tolist() == [73, 38, 67, 41]
    assert [list(codes) for codes in table["codes"]] == [
        ["RBBB", "AF"],
        ["normal_ecg"],
        ["none_of_the_six"],
        ["1dAVb", "SB"],
    ]
    np.testing.assert_allclose(table["timey"], [6.657, 2.098, np.nan, 4.05])
    assert table["sample_rate"].tolist() == [400] * 4


def test_only_the_padding_is_cut_off(collection, prepare):
    found = prepare("code15", collection, "--rate", 400)
    assert found.table["samples"].tolist() == [4096, 2800, 3000, 1000]
    assert found.table["leads"].tolist() == [",".join(LEADS)] * 4
    for name in NAMES:
        signal, expected = found.signal(name), trace(int(name.split("#")[1])).T
        error = found.table.loc[name, "rounding_error_mv"]
        assert error < 1e-4
        np.testing.assert_allclose(np.stack(list(signal.values())), expected, rtol=0, atol=error * 1.001)


def test_missing_file_is_noted(collection, prepare):
    (collection / "exams_part1.hdf5").unlink()
    found = prepare("code15", collection)
    assert found.notes == ["3 of 5 exams in exams.csv are not in the trace files that are here"]
    assert found.table.index.tolist() == NAMES[:2]


def test_exam_that_the_table_lacks_has_no_facts(collection, prepare):
    path = collection / "exams.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("168405")))
    found = prepare("code15", collection)
    assert "1 exams in the trace files are not in exams.csv" in found.notes
    row = found.table.loc[NAMES[2]]
    assert (row["record_id"], row["patient"], row["sex"], len(row["codes"])) == ("168405", None, None, 0)


def test_an_unknown_abnormality_is_not_negative(collection, prepare):
    path = collection / "exams.csv"
    path.write_text(path.read_text().replace("79.6,False", "79.6,"))
    assert list(prepare("code15", collection).table.loc[NAMES[2], "codes"]) == []


def test_empty_exam_and_many_files(collection, prepare):
    with h5py.File(collection / "exams_part1.hdf5", "a") as file:
        file["tracings"][0] = 0
    for number in (10, 2, 3):
        write_file(collection / f"exams_part{number}.hdf5", [271011] if number != 3 else [])
    found = prepare("code15", collection, "--jobs", 2, "--shard-size", 1, status=1)
    assert found.rejected == {NAMES[2]: "all its samples are zero"}
    further = ["exams_part2.hdf5#271011", "exams_part10.hdf5#271011"]
    assert found.table.index.tolist() == [*NAMES[:2], NAMES[3], *further]
    assert found.table.loc[further, "duplicate_of"].tolist() == [3, 3]


def test_patients_are_those_of_this_source(collection, prepare):
    path = collection / "exams.csv"
    path.write_text(path.read_text().replace("1724173", "523632"))
    first, second, *others = prepare("code15", collection).patients()
    assert first == second not in others
    other = prepare("code15", collection, "--source", "other", out="second")
    assert not set(other.patients()) & {first, *others}


def no_tracings(path):
    with h5py.File(path, "w") as file:
        file["exam_id"] = [1]


def other_shape(path):
    with h5py.File(path, "w") as file:
        file["exam_id"], file["tracings"] = [1], np.zeros((1, 12, 4096))


def group(path):
    with h5py.File(path, "w") as file:
        file["exam_id"] = [1]
        file.create_group("tracings")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_tracings, "exams_part0.hdf5: not a file of CODE-15%"),
        (group, "exams_part0.hdf5: not a file of CODE-15%"),
        (other_shape, "exams_part0.hdf5: tracings (1, 12, 4096) of 1 exams are not exams x samples x 12"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "exams_part0.hdf5: not a file of CODE-15%"),
        (lambda path: path.write_text("<html>"), "exams_part0.hdf5: not a file of CODE-15%"),
    ],
)
def test_damaged_file(collection, refusal, damage, message):
    damage(collection / "exams_part0.hdf5")
    text = refusal("code15", collection)
    assert message in text
    assert "doi:10.5281/zenodo.4916206" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("168405,", "x168405,", "exams.csv: its exam_id are not whole numbers, each once"),
        ("168405,", "271011,", "exams.csv: its exam_id are not whole numbers, each once"),
        ("LBBB", "CLBBB", "exams.csv: no column 'LBBB'"),
    ],
)
def test_damaged_table(collection, refusal, old, new, message):
    path = collection / "exams.csv"
    path.write_text(path.read_text().replace(old, new))
    assert message in refusal("code15", collection)


def test_wrong_folder(collection, refusal):
    for path in collection.glob("*.hdf5"):
        path.unlink()
    assert "code15: no exams_part*.hdf5 here; get exams.csv" in refusal("code15", collection)
    (collection / "exams.csv").unlink()
    assert "exams.csv: no such file" in refusal("code15", collection)
