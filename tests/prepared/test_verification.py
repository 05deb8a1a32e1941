"""Verification: a good folder has no problems, and each kind of damage has its line."""

import csv
import json
import shutil
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.checksums import record_folder
from fairseq_signals_ext.data.shards import index_path, open_shard, read_counts
from fairseq_signals_ext.labelling.labels import Labels, write_labels
from fairseq_signals_ext.prepared import verify as verifying
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.prepared.plan import extended, read_plan, write_plan
from fairseq_signals_ext.prepared.split import split_recordings
from fairseq_signals_ext.prepared.split_settings import SplitSettings
from fairseq_signals_ext.prepared.verify_files import update_checksums
from fairseq_signals_ext.sources import SourceOptions, open_source

RECORDS, SHARD_SIZE = 11, 4


def write_records(folder, seed=0):
    """Eleven records of six patients; the third is truncated, the last is the first again."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    signals = [rng.integers(-2000, 2000, (500 + number, 12)) for number in range(RECORDS - 1)]
    for number, signal in enumerate([*signals, signals[0]]):
        write_wfdb(folder / f"r{number:02d}", signal.T, comments=[f"Patient: p{number // 2}"])
    shutil.copy(folder / "r02.dat", folder / "r02.whole")
    broken = folder / "r02.dat"
    broken.write_bytes(broken.read_bytes()[:-10])


def prepare_records(folder, out, storage="raw", **options):
    source = open_source("wfdb", folder, SourceOptions())
    prepare(source, out, options=RunOptions(shard_size=SHARD_SIZE, progress=False, **options), storage=storage)


@pytest.fixture(scope="session")
def good_folders(tmp_path_factory):
    """Prepared folders by storage, with a split, folds and labels."""
    base = tmp_path_factory.mktemp("verification")
    write_records(base / "records")
    for storage in ("raw", "flac"):
        out = base / storage
        prepare_records(base / "records", out, storage)
        split_recordings(out, SplitSettings(name="s", by="patient", fractions=[0.5, 0.25, 0.25], manifest_lines=2))
        split_recordings(out, SplitSettings(name="folds", by="patient", kfold=2))
        (out / "labels" / "l").mkdir(parents=True)
        np.save(out / "labels" / "l" / "y.npy", np.zeros((RECORDS, 2), np.float32))
        (out / "labels" / "l" / "label_def.csv").write_text("name\na\nb\n")
        record_folder(out / "labels" / "l", "label")
    return base


@pytest.fixture
def out(good_folders, tmp_path):
    return shutil.copytree(good_folders / "raw", tmp_path / "out")


@pytest.fixture
def flac(good_folders, tmp_path):
    return shutil.copytree(good_folders / "flac", tmp_path / "out")


def verify(folder, **options):
    """What is found where each file is what was recorded, as by a writer that is wrong; `test_flips` has the others."""
    if folder.is_dir():
        update_checksums(folder)
    return verifying.verify(folder, **options)


def problems(folder, **options):
    return verify(folder, progress=False, **options).problems


def only_problem(folder, **options):
    """The one line, without the folder's name."""
    found = problems(folder, **options)
    assert len(found) == 1, found
    assert "\n" not in found[0] and ";" in found[0], "one line, with a cure"
    assert found[0].startswith(f"{folder}/"), "the file comes first"
    return found[0][len(str(folder)) + 1 :]


def edit_index(folder, number, column, row, value):
    path = folder / "shards" / f"{number:05d}.index.npy"
    index = np.load(path)
    index[column][row] = value
    np.save(path, index)


def edit_table(folder, edit):
    path = folder / "recordings.parquet"
    table = pq.ParquetFile(path).read()
    rows = edit(table.to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def edit_lines(path, edit):
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")


def set_in_table(folder, at_row, values):
    edit_table(folder, lambda rows: [{**one, **(values if at == at_row else {})} for at, one in enumerate(rows)])


# the fixture's one record that is truncated
REJECTED = (
    "records: 1 rejected: its file 'r02.dat' has 12038 bytes, but 502 samples per lead need 12048; get the record again"
)


def test_reasons_of_one_kind_are_counted_together_with_one_example(out):
    path, long = out / "rejected.csv", "a reason that is long " * 10 + "to its very end"
    reason = REJECTED.split("rejected: ")[1]
    with open(path, newline="") as file:
        ((source, name, _),) = list(csv.reader(file))[1:]
    rows = [(source, name, reason), (source, "x", reason.replace("r02", "r03").replace("502", "9")), ("b", "y", long)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("source", "source_file", "reason"), *rows])
    told = [note for note in verify(out, progress=False).notes if "rejected" in note]
    assert told == [f"b: 1 rejected: {long}", f"records: 2 rejected: {reason} (and the like)"]


def test_amplitudes_that_are_not_plausible_are_a_note(out):
    edit_table(out, lambda rows: [{**row, "amplitude_mv": row["amplitude_mv"] * 1000} for row in rows])
    notes = verify(out, progress=False).notes
    assert any("are not plausible for an ECG in mV; the likely factor is 0.001 (--gain-fix)" in note for note in notes)


@pytest.mark.parametrize("storage", ["raw", "flac"])
def test_a_good_folder_has_no_problems(good_folders, storage):
    found = verify(good_folders / storage, progress=False)
    assert (found.problems, found.notes) == ([], [REJECTED])
    assert (found.recordings, found.shards, found.labels) == (RECORDS - 1, 3, 1)
    assert found.manifests == len(list((good_folders / storage).rglob("*.tsv"))) > 6
    assert found.hours == pytest.approx(sum(500 + n for n in [0, 1, 3, 4, 5, 6, 7, 8, 9, 0]) / 500 / 3600)
    assert verify(good_folders / storage, quick=True, progress=False) == found.__class__(
        **{**vars(found), "quick": True}
    )


def test_processes_find_the_same(out):
    for number in range(3):
        edit_index(out, number, "crc", 0, 0)
    found = problems(out, jobs=2)
    assert found == problems(out) and len(found) == 3


def test_real_recordings_have_no_problems(ecg_data, tmp_path):
    source = open_source("physionet2021", ecg_data / "cinc2021", SourceOptions())
    prepare(source, tmp_path, options=RunOptions(shard_size=64, progress=False))
    found = verify(tmp_path, progress=False)
    assert found.recordings > 100 and found.problems == []


def test_every_changed_byte_of_a_shard_is_found(out):
    path = out / "shards" / "00001.npy"
    content = bytearray(path.read_bytes())
    for at in np.random.default_rng(0).integers(128, len(content), 20):
        damaged = bytearray(content)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert "checksum differs" in only_problem(out)
        assert problems(out, quick=True) == [], "quick does not read the counts"


def test_changed_counts_name_item_checksums_and_hint(out):
    path = out / "shards" / "00001.npy"
    counts = np.load(path)
    counts[500 * 12 + 10] += 1  # of row 0, which is the longest in the front: r04 has 504 samples
    np.save(path, counts)
    stored = np.load(index_path(path))["crc"][0]
    read = zlib.crc32(counts[: 504 * 12].tobytes())
    assert only_problem(out) == (
        f"shards/00001.npy: item 'r04.hea' (row 0, idx 4): checksum differs (stored {stored:08x}, read {read:08x}); "
        "delete this shard with its index and prepare again with --resume"
    )


def test_damage_of_many_recordings_is_one_line_a_shard(out):
    path = out / "shards" / "00001.npy"
    np.save(path, np.load(path) ^ 1)
    assert "item 'r04.hea'" in only_problem(out) and "(and 3 more of this shard)" in only_problem(out)


@pytest.mark.parametrize("name", ["00001.npy", "00001.index.npy"])
@pytest.mark.parametrize("storage", ["raw", "flac"])
def test_truncated_files(good_folders, tmp_path, storage, name):
    out = shutil.copytree(good_folders / storage, tmp_path / "out")
    path = out / "shards" / name
    path.write_bytes(path.read_bytes()[:-7])
    assert only_problem(out).startswith(f"shards/{name}: truncated or not a .npy file; delete this shard")


@pytest.mark.parametrize("name", ["00001.npy", "00001.index.npy"])
@pytest.mark.parametrize("damage", [(b"'descr'", b"(descr'"), (b"'descr'", b"'descr "), (b"'shape'", b"'shap5'")])
def test_a_damaged_header(out, name, damage):
    path = out / "shards" / name
    path.write_bytes(path.read_bytes().replace(*damage, 1))
    assert only_problem(out).startswith("shards/00001.")


@pytest.mark.parametrize("name", ["00001.npy", "00001.index.npy", "00001.part.parquet"])
def test_missing_files(out, name):
    (out / "shards" / name).unlink()
    expected = f"shards/{name}: no such file, though the plan has it; prepare again with --resume"
    assert only_problem(out) == expected


def test_a_damaged_part_of_the_table(out):
    path = out / "shards" / "00000.part.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert only_problem(out).startswith("shards/00000.part.parquet: cannot be read (")


@pytest.mark.parametrize("damage", ["byte", "offset"])
def test_a_damaged_compressed_shard(flac, damage):
    path = flac / "shards" / "00002.npy"
    if damage == "byte":
        streams = np.load(path)
        streams[len(streams) // 2] ^= 255
        np.save(path, streams)
        assert only_problem(flac).startswith("shards/00002.npy: item 'r0")
    else:
        edit_index(flac, 2, "offset", 1, 0)
        found = problems(flac)
        assert "item 'r09.hea' (row 1, idx 9): its offset 0 is not where the recording before it ends" in found[0]
        assert "item 'r08.hea' (row 0, idx 8): its counts cannot be read where the index has them" in found[1]


@pytest.mark.parametrize("storage", ["flac", "rav"])
def test_storage_that_is_not_the_plans(out, storage):
    edit_lines(out / "plan.jsonl", lambda lines: [line.replace('"raw"', f'"{storage}"') for line in lines])
    assert len(problems(out)) == 3
    assert f"shards/00000.npy: not stored as {storage}, as the plan has it" in problems(out)[0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("offset", 6000, "its offset 6000 is not where the recording before it ends"),
        ("offset", -1, "its offset -1 is not where the recording before it ends"),
        ("sample_rate", 400, "it has 400 Hz, the plan 500 Hz"),
        ("scale", [0] * 12, "its scale or zero of lead I is not a usable number"),
        ("scale", [0.001] * 11 + [np.nan], "its scale or zero of lead V6 is not a usable number"),
        ("zero", [0, np.inf, *[0] * 10], "its scale or zero of lead II is not a usable number"),
        ("mean", [1.0] + [0] * 11, "mean or std in the index is not that of its counts"),
        ("std", [np.nan] * 12, "mean or std in the index is not that of its counts"),
        ("leads", 0, "it has no leads, or unknown ones (mask 0)"),
        ("samples", 0, "it has 0 samples"),
        ("idx", 99, "its idx is not one of the plan's for this shard (4...), ascending"),
    ],
)
def test_a_wrong_index(out, column, value, message):
    edit_index(out, 1, column, 1, value)
    found = problems(out)
    named = "(row 1, idx 99)" if column == "idx" else "item 'r05.hea' (row 1, idx 5)"
    assert any(line.startswith(f"{out}/shards/00001.npy: {named}: {message}") for line in found), found
    assert all("\n" not in line for line in found)


def test_another_patient_in_the_index(out):
    edit_index(out, 1, "patient", 1, 5)
    assert only_problem(out).startswith("recordings.parquet: item 'r05.hea' (row 1, idx 5): patient_key is ")


def test_an_item_is_there_twice(out):
    plan = [json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines()]
    plan[1]["items"][0] = plan[0]["items"][0]
    (out / "plan.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in plan))
    name = plan[0]["items"][0]
    assert any(f"item {name!r} of source" in line and "appears twice" in line for line in problems(out))


def test_mean_and_std_to_the_accuracy_of_float32(out):
    stored = np.load(out / "shards" / "00001.index.npy")["std"][1, 0]
    edit_index(out, 1, "std", 1, [stored * 1.000002, *np.load(out / "shards" / "00001.index.npy")["std"][1, 1:]])
    assert "mean or std" in only_problem(out)


def test_a_row_of_the_table_is_missing(out):
    edit_table(out, lambda rows: rows[:4] + rows[5:])  # r05
    found = [line for line in problems(out) if "recordings.parquet" in line]
    assert found == [
        f"{out}/recordings.parquet: item 'r05.hea' (row 1, idx 5): it has no row here; "
        "prepare again with --resume, which writes it again"
    ]
    lost = [line for line in problems(out) if "rejected.csv" in line]
    assert len(lost) == 1 and "item 'r05.hea' of source 'records', planned for shard 1, is neither" in lost[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 3}, "(row 1, idx 5): samples is 3 here, 505 in the shard and the plan"),
        ({"leads": "I,II"}, "(row 1, idx 5): leads is 'I,II' here, 'I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6' in the"),
        ({"source_file": "x"}, "(row 1, idx 5): source_file is 'x' here, 'r05.hea' in the shard and the plan"),
        ({"row": 0}, "item 'r04.hea' (row 0, idx 4): it has two rows here"),
        ({"row": 7}, "item 'r05.hea' (idx 5): shards/00001.npy has no row 7"),
        ({"shard": "shards/9.npy"}, "item 'r05.hea' (idx 5): its shard is not in the plan"),
        ({"flags": ["odd"]}, "item 'r05.hea' (idx 5): it has a flag other than nan, constant"),
        ({"duplicate_of": 6}, "item 'r05.hea' (idx 5): its duplicate_of is not the idx of an earlier one"),
        ({"duplicate_of": 2}, "item 'r05.hea' (idx 5): its duplicate_of is not the idx of an earlier one"),
        ({"idx": 4}, "item 'r05.hea' (idx 4): its idx is not above that of the row before it"),
    ],
)
def test_a_wrong_row_of_the_table(out, values, message):
    set_in_table(out, 4, values)
    found = problems(out)
    assert any(line.startswith(f"{out}/recordings.parquet: ") and message in line for line in found), found


def test_items_that_rejected_csv_has_lost(out):
    edit_lines(out / "rejected.csv", lambda lines: lines[:1])
    assert only_problem(out) == (
        "rejected.csv: item 'r02.hea' of source 'records', planned for shard 0, is neither in the table nor here; "
        "prepare again with --resume, which writes it again"
    )


@pytest.mark.parametrize("name", ["r02.hea", "r05.hea", "r99.hea"])
def test_items_that_rejected_csv_has_too_often(out, name):
    edit_lines(out / "rejected.csv", lambda lines: [*lines, f"records,{name},wrong"])
    assert f"rejected.csv: item {name!r} is here, though it is in the table, here twice or not" in only_problem(out)


def test_no_rejected_csv(out):
    (out / "rejected.csv").unlink()
    assert "rejected.csv: cannot be read (FileNotFoundError" in only_problem(out)


def test_a_run_that_was_stopped_is_one_line_a_shard_that_is_missing(out):
    plan = read_plan(out)
    write_plan(out, extended(plan, "more", ["x.hea", "y.hea", "z.hea"], plan[0].settings, 2))
    assert [line[len(str(out)) + 1 :] for line in problems(out)] == [
        "shards/00003.npy: no such file, though the plan has it; prepare again with --resume",
        "shards/00004.npy: no such file, though the plan has it; prepare again with --resume",
    ]


@pytest.mark.parametrize("mended", [True, False])
def test_an_item_that_was_tried_again_is_in_one_place(tmp_path, mended):
    write_records(tmp_path / "records")
    prepare_records(tmp_path / "records", tmp_path / "out")
    if mended:
        shutil.copy(tmp_path / "records" / "r02.whole", tmp_path / "records" / "r02.dat")
    prepare_records(tmp_path / "records", tmp_path / "out", resume=True, retry_rejected=True)
    found = verify(tmp_path / "out", progress=False)
    assert (found.problems, found.shards, found.recordings) == ([], 4, RECORDS if mended else RECORDS - 1)


def test_a_source_of_which_nothing_in_a_shard_is_usable(tmp_path):
    write_records(tmp_path / "records")
    for number in range(4):
        (tmp_path / "records" / f"r{number:02d}.dat").unlink()
    prepare_records(tmp_path / "records", tmp_path / "out")
    assert verify(tmp_path / "out", progress=False).problems == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [*lines[:2], "shards/00000.npy\tx\t501", *lines[3:]], "all.tsv: line 3 is malformed"),
        (lambda lines: [*lines[:2], "shards/7.npy\t1\t501", *lines[3:]], "all.tsv: line 3: 7.npy is not a shard of"),
        (lambda lines: [*lines[:2], "shards/00000.npy\t9\t501", *lines[3:]], "all.tsv: line 3: row 9 of its shard is"),
        (
            lambda lines: [*lines[:2], "shards/00000.npy\t1\t7", *lines[3:]],
            "all.tsv: line 3: item 'r01.hea' (idx 1) has 501 samples, not 7",
        ),
        (lambda lines: [*lines, lines[2]], "all.tsv: item 'r01.hea' (idx 1) is listed 2 times"),
        (lambda lines: [*lines[:2], *lines[4:]], "all.tsv: item 'r01.hea' (idx 1) and 1 more are not in it"),
        (lambda lines: lines[:1], "all.tsv: the manifest is empty"),
    ],
)
def test_a_wrong_manifest(out, edit, message):
    edit_lines(out / "all.tsv", edit)
    assert only_problem(out).startswith(message)


def test_no_manifest_of_all(out):
    (out / "all.tsv").unlink()
    assert only_problem(out).startswith("all.tsv: no such file; prepare again")


def test_a_manifest_that_is_no_text(out):
    (out / "all.tsv").write_bytes(b"\xff\xfe\x00\t\n\xff\n")
    assert only_problem(out).startswith("all.tsv: cannot be read (")


def test_a_piece_of_a_manifest_is_missing(out):
    pieces = sorted((out / "splits" / "s").glob("train-*-of-*.tsv"))
    assert len(pieces) > 1
    pieces[0].unlink()
    assert only_problem(out).startswith(f"splits/s/{pieces[0].name}: the set of {len(pieces)} manifests is not whole")


def move_recording(out, split, source, target, idx):
    """Take the line of recording idx from one manifest of a split to another."""
    table = pd.read_parquet(out / "recordings.parquet").set_index("idx").loc[idx]
    wanted = f"{table['shard']}\t{table['row']}\t{table['samples']}"
    folder = out / "splits" / split
    edit_lines(folder / source, lambda lines: [line for line in lines if line != wanted])
    edit_lines(folder / target, lambda lines: [*lines, wanted])


@pytest.fixture
def apart(out):
    """A split of known members: train 0 1 10, valid 4 5, test 6 7."""
    shutil.rmtree(out / "splits")
    folder = out / "splits" / "own"
    folder.mkdir(parents=True)
    table = pd.read_parquet(out / "recordings.parquet").set_index("idx")
    for name, members in (("train", [0, 1, 10]), ("valid", [4, 5]), ("test", [6, 7])):
        rows = table.loc[members]
        lines = [f"{shard}\t{row}\t{samples}" for shard, row, samples in rows[["shard", "row", "samples"]].to_numpy()]
        (folder / f"{name}.tsv").write_text("\n".join(["../..", *lines, ""]))
    assert problems(out) == []
    return out


def test_recordings_in_no_subset_are_noted(apart):
    recordings = len(pd.read_parquet(apart / "recordings.parquet"))
    missing = f"{recordings - 7} of {recordings} recordings are in none of its subsets (left out when it was made, or"
    assert verify(apart, progress=False).notes[1].startswith(f"{apart / 'splits' / 'own'}: {missing}")


def test_a_patient_in_two_subsets(apart):
    move_recording(apart, "own", "test.tsv", "valid.tsv", 7)
    assert only_problem(apart) == (
        "splits/own: patient 'p3' is in valid and in test (and 0 more patients); "
        "make the split again with fairseq-signals-ext split --overwrite"
    )


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"settings": {"allow_shared_patients": True}, "by": "column"}, True),
        ({"settings": {}, "by": "random"}, True),
        ({"settings": {}, "by": "time"}, True),
        ({"settings": {}, "by": "column"}, False),
        ({"settings": {}, "by": "patient"}, False),
    ],
)
@pytest.mark.parametrize("below", ["", "fold-0"])
def test_split_json_may_allow_shared_patients(apart, settings, allowed, below):
    move_recording(apart, "own", "test.tsv", "valid.tsv", 7)
    folder = apart / "splits" / "own"
    if below:
        shutil.move(str(folder), str(apart / "moved"))
        folder.mkdir()
        shutil.move(str(apart / "moved"), str(folder / below))
        for path in (folder / below).glob("*.tsv"):
            edit_lines(path, lambda lines: ["../../..", *lines[1:]])
    (folder / "split.json").write_text(json.dumps({"subsets": {}, **settings}))
    found = verify(apart, progress=False)
    notes = [note for note in found.notes if "are in none of its subsets" not in note]
    assert notes[0] == REJECTED
    lines = notes[1:] if allowed else found.problems
    assert (len(found.problems), len(notes)) == ((0, 2) if allowed else (1, 1))
    assert lines[0].startswith(f"{folder / below if below else folder}: patient 'p3' is in valid and in test")


@pytest.mark.parametrize("name", ["s", "folds"])
def test_a_line_of_a_split_is_lost(out, name):
    path = sorted((out / "splits" / name).rglob("valid*.tsv"))[0]
    edit_lines(path, lambda lines: lines[:-1])
    message = only_problem(out)
    assert message.startswith(path.relative_to(out).as_posix().split(".tsv")[0].split("-0")[0])
    assert " recordings, but split.json has " in message


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"settings": [], "by": 1, "subsets": 3}'])
def test_a_split_json_that_cannot_be_read(out, content):
    (out / "splits" / "s" / "split.json").write_text(content)
    assert only_problem(out).startswith("splits/s: its split.json cannot be read; make the split again")


def test_a_recording_in_two_subsets(apart):
    folder = apart / "splits" / "own"
    edit_lines(folder / "valid.tsv", lambda lines: [*lines, (folder / "test.tsv").read_text().splitlines()[1]])
    found = problems(apart)
    assert found[0].startswith(f"{folder}: item 'r06.hea' (idx 6) is in valid and in test (and 0 more); make the split")


def test_a_subset_of_train_counts_as_train(apart):
    folder = apart / "splits" / "own"
    shutil.copy(folder / "train.tsv", folder / "train_50.tsv")
    assert problems(apart) == []
    edit_lines(folder / "train_50.tsv", lambda lines: [*lines, *(folder / "test.tsv").read_text().splitlines()[1:]])
    assert "item 'r06.hea' (idx 6) is in train and in test (and 1 more)" in only_problem(apart)


def test_the_same_content_in_two_subsets(apart):
    move_recording(apart, "own", "train.tsv", "test.tsv", 10)
    assert "item 'r00.hea' (idx 0) in train and item 'r10.hea' (idx 10) in test have the same content" in only_problem(
        apart
    )


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((RECORDS - 1, 2)), "has 10 rows, but idx goes to 10; make the labels again"),
        (np.zeros((RECORDS, 3)), "has 3 columns, but label_def.csv has 2 labels"),
        (np.zeros(()), "holds float64 of shape (), not numbers, recordings x labels"),
        (None, "not a label file ("),
    ],
)
def test_wrong_labels(out, y, message):
    path = out / "labels" / "l" / "y.npy"
    path.unlink()
    if y is not None:
        np.save(path, y)
    assert only_problem(out).startswith(f"labels/l/y.npy: {message}")


def test_numbers_to_predict_are_those_of_labels_csv(out):
    values = np.random.default_rng(0).normal(0, 100, (RECORDS, 400))
    names = [f"n{column}" for column in range(400)]
    folder = write_labels(out, "numbers", Labels(names, np.arange(RECORDS), values, regression=True))
    assert problems(out) == []
    y = np.load(folder / "y.npy")
    y[3, 7] *= 1.0001
    np.save(folder / "y.npy", y)
    assert only_problem(out).startswith("labels/numbers/labels.csv: idx 3, label 'n7': is ")


def test_files_of_a_stopped_run_are_noted(out):
    (out / "shards" / ".00003.npy.17.tmp").write_bytes(b"")
    (out / "splits" / ".t.17.tmp").mkdir()
    (out / "splits" / ".t.17.tmp" / "train.tsv").write_text("half")
    shutil.copy(out / "shards" / "00000.npy", out / "shards" / "00009.npy")
    found = verify(out, progress=False)
    assert found.problems == [] and found.notes[0] == REJECTED and len(found.notes) == 4
    assert found.notes[1].startswith(f"{out}/shards/.00003.npy.17.tmp: unfinished")
    assert found.notes[3].startswith(f"{out}/shards/00009.npy: not in the plan")


def test_other_folders_are_refused(out, tmp_path):
    with pytest.raises(UserError, match="run fairseq-signals-ext prepare first"):
        verify(tmp_path / "none", progress=False)
    with pytest.raises(UserError, match="jobs 0: give at least 1"):
        verify(out, jobs=0, progress=False)
    for damage in (b"PAR1", b""):
        (out / "recordings.parquet").write_bytes(damage)
        with pytest.raises(UserError, match=r"recordings.parquet: cannot be read \([^\n]+\); prepare again[^\n]+$"):
            verify(out, progress=False)
    pq.write_table(pa.table({"idx": [1]}), out / "recordings.parquet")
    with pytest.raises(UserError, match=r"recordings.parquet: no column 'source_file'; prepare again"):
        verify(out, progress=False)
    (out / "recordings.parquet").unlink()
    with pytest.raises(UserError, match=r"recordings.parquet: no such file; run fairseq-signals-ext prepare first"):
        verify(out, progress=False)


def test_checked_files_are_the_files_that_are_read(out):
    """The counts that training reads are those that the checksums are of."""
    array, index = open_shard(out / "shards" / "00000.npy")
    for row in range(len(index)):
        assert zlib.crc32(read_counts(array, index, row).tobytes()) == index["crc"][row]


@pytest.mark.parametrize("more", [7, -12])
def test_more_or_fewer_counts_than_the_index_has(out, more):
    path = out / "shards" / "00001.npy"
    counts = np.load(path)
    np.save(path, np.append(counts, np.zeros(7, np.int16)) if more > 0 else counts[:more])
    expected = f"{path}: it has {len(counts) + more} counts, its index {len(counts)}; delete this shard with its index"
    assert any(line.startswith(expected) for line in problems(out, quick=True))
