"""Preparation: every item is stored or rejected, and the result depends on nothing but the sources."""

import dataclasses
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up import plain_recording, stored_recording
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.common.errors import MissingPackageError, UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.shards import index_path, open_shard, patient_key, read_counts
from fairseq_signals_ext.prepared.counts import Processing
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.sources import Item, Source, SourceOptions, open_source

QUIET = RunOptions(progress=False)
FOLDER = Path("source").absolute()


@dataclasses.dataclass
class FromMemory:
    """Reads recordings by the item's name; an exception is raised."""

    recordings: dict

    def __call__(self, folder, item):
        found = self.recordings[item.name]
        if isinstance(found, Exception):
            raise found
        return found


def memory_source(recordings, name="memory", facts=None, **others):
    items = [Item(key, facts=(facts or {}).get(key, {})) for key in recordings]
    return Source(name, FOLDER, items, FromMemory(recordings), **others)


def quiet(**options):
    return RunOptions(progress=False, **options)


def table_of(out):
    return pd.read_parquet(out / "recordings.parquet").to_dict("records")


def load(out, row):
    array, index = open_shard(out / row["shard"])
    return read_counts(array, index, row["row"]), index[row["row"]]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_record(folder, name, samples=50, **others):
    rng = np.random.default_rng(samples)
    write_wfdb(folder / name, rng.integers(-2000, 2000, (samples, 12)).T, **others)


@pytest.fixture
def records(tmp_path):
    """Seven records of four patients; the fourth record is truncated."""
    folder = tmp_path / "source"
    for number in range(7):
        comments = [f"Patient: p{number // 2}", f"Age: {40 + number}", "Sex: Male", "Dx: 1,2"]
        rate = 500 if number else 400
        write_record(folder / f"g{number % 2}", f"r{number}", 50 + number, rate=rate, comments=comments)
    broken = folder / "g1" / "r3.dat"
    broken.write_bytes(broken.read_bytes()[:-10])
    return folder


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 40)).flatmap(lambda shape: arrays(np.int16, shape)),
        min_size=1,
        max_size=5,
    ),
    shard_size=st.integers(1, 3),
    storage=st.sampled_from(["raw", "flac"]),
)
def test_any_counts_come_back_exactly(tmp_path_factory, blocks, shard_size, storage):
    out = tmp_path_factory.mktemp("out")
    source = memory_source({f"{number}": stored_recording(counts) for number, counts in enumerate(blocks)})
    prepare(source, out, options=quiet(shard_size=shard_size), storage=storage)
    rows = table_of(out)
    assert [row["idx"] for row in rows] == list(range(len(blocks)))
    for row, expected in zip(rows, blocks):
        counts, index = load(out, row)
        assert (counts == expected).all()
        assert row["leads"] == ",".join(LEADS[: len(expected)])
        assert row["rounding_error_mv"] == 0
        physical = expected * 0.001
        leads = range(len(expected))
        np.testing.assert_allclose(index["mean"][leads], physical.mean(axis=1), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(index["std"][leads], physical.std(axis=1), rtol=1e-6, atol=1e-7)
        assert index["patient"] == patient_key(f"memory {row['source_file']}")
    manifest = read_manifests(find_manifests(out, "all"))
    assert manifest.samples.tolist() == [counts.shape[1] for counts in blocks]


def test_rejected_recordings_are_named_and_the_rest_continues(tmp_path):
    good = np.ones((2, 10)) * np.arange(10)
    source = memory_source(
        {
            "a": UserError(f"{FOLDER}/a: is broken"),
            "b": UserError("without, its name"),
            "c": ZeroDivisionError("a reader's own\nfault"),
            "d": plain_recording(good),
            "e": plain_recording(np.zeros((2, 0))),
            "f": plain_recording(good, rate=0.0),
            "g": plain_recording(good[:, :1], rate=5000.0),
        }
    )
    summary = prepare(source, tmp_path, options=quiet(shard_size=2))
    assert (summary.recordings, summary.rejected, summary.shards) == (1, 6, 4)
    rejected = pd.read_csv(tmp_path / "rejected.csv")
    assert set(rejected["source"]) == {"memory"}
    assert dict(zip(rejected["source_file"], rejected["reason"])) == {
        "a": "is broken",
        "b": "without, its name",
        "c": "cannot be used (ZeroDivisionError: a reader's own fault)",
        "e": "it has no samples",
        "f": "its sample rate is 0.0 Hz",
        "g": "too short: nothing is left of it at 500 Hz",
    }
    (row,) = table_of(tmp_path)
    assert (row["idx"], row["source_file"], row["shard"], row["row"]) == (3, "d", "shards/00001.npy", 0)
    assert (tmp_path / "all.tsv").read_text() == ".\nshards/00001.npy\t0\t10\n"
    assert len(np.load(tmp_path / "shards" / "00000.npy")) == 0


def test_strict_stops_at_the_first(tmp_path):
    source = memory_source({"a": UserError("is broken"), "b": UserError("too")})
    with pytest.raises(UserError, match="/source/a: is broken$"):
        prepare(source, tmp_path, options=quiet(strict=True))
    assert not (tmp_path / "all.tsv").exists()
    assert [path.name for path in (tmp_path / "shards").iterdir()] == []


def test_a_missing_package_stops_the_run_and_rejects_nothing(tmp_path):
    source = memory_source({"a": MissingPackageError("pip install it")})
    with pytest.raises(UserError, match="^pip install it$"):
        prepare(source, tmp_path, options=QUIET)
    prepare(memory_source({"a": plain_recording([[1.0, 2]])}), tmp_path, options=quiet(resume=True))
    assert len(table_of(tmp_path)) == 1


def test_nothing_usable(tmp_path):
    with pytest.raises(UserError, match="no recordings found"):
        prepare(memory_source({}), tmp_path / "out")
    with pytest.raises(UserError, match=r"rejected\.csv: all 1 items were rejected; the first, a: is broken"):
        prepare(memory_source({"a": UserError("is broken")}), tmp_path / "out", options=QUIET)
    assert (tmp_path / "out" / "rejected.csv").read_text() == "source,source_file,reason\nmemory,a,is broken\n"


@pytest.mark.parametrize("wrong", [{"shard_size": 0}, {"jobs": 0}, {"backend": "slurm"}])
def test_wrong_options(wrong):
    with pytest.raises(UserError, match=next(iter(wrong)).replace("_", "-")):
        RunOptions(**wrong)


def test_result_is_the_same_with_any_jobs_and_after_resuming(tmp_path, records):
    source = open_source("wfdb", records)
    one, two, resumed = tmp_path / "1", tmp_path / "2", tmp_path / "r"
    prepare(source, one, options=quiet(shard_size=2))
    prepare(source, two, options=quiet(shard_size=2, jobs=2))
    expected = contents(one)
    assert contents(two) == expected
    assert {Path(name).suffix for name in expected} == {".npy", ".parquet", ".csv", ".tsv", ".jsonl", ".json"}

    prepare(source, resumed, options=quiet(shard_size=2))
    (resumed / "shards" / "00001.npy").unlink()
    index_path(resumed / "shards" / "00002.npy").unlink()
    (resumed / "recordings.parquet").unlink()
    (resumed / "shards" / ".00001.npy.123-0123abcd.tmp").write_bytes(b"left by a process that was killed")
    kept = (resumed / "shards" / "00000.npy").stat().st_mtime_ns
    with pytest.raises(UserError, match="has source 'source' already; continue with --resume"):
        prepare(source, resumed, options=quiet(shard_size=2))
    prepare(source, resumed, options=quiet(shard_size=2, resume=True))
    assert contents(resumed) == expected
    assert (resumed / "shards" / "00000.npy").stat().st_mtime_ns == kept


def test_resuming_needs_the_same_settings(tmp_path, records):
    out = tmp_path / "out"
    source = open_source("wfdb", records)
    prepare(source, out, options=QUIET)
    resume = quiet(resume=True)
    for difference, message in (
        ({"processing": Processing(rate=250)}, "rate 500.0, not 250"),
        ({"processing": Processing(resample="polyphase")}, "resample linear, not polyphase"),
        ({"storage": "flac"}, "storage raw, not flac"),
        ({"gain_fix": {"source": 2.0}}, "gain-fix"),
    ):
        with pytest.raises(UserError, match=f"was prepared with {message}"):
            prepare(source, out, options=resume, **difference)
    (out / "shards" / "00000.part.parquet").write_text("{")
    with pytest.raises(UserError, match=r"00000\.part\.parquet: checksum differs"):
        prepare(source, out, options=resume)
    (out / "plan.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"plan\.jsonl: checksum differs"):
        prepare(source, out, options=resume)
    (out / "plan.jsonl").unlink()
    with pytest.raises(UserError, match=r"plan\.jsonl: no such file, though there are shards"):
        prepare(source, out, options=resume)


def test_sources_and_records_that_are_added_keep_every_number(tmp_path, records):
    out = tmp_path / "out"
    first = open_source("wfdb", records)
    prepare(first, out, options=quiet(shard_size=4))
    before = {row["source_file"]: row for row in table_of(out)}
    write_record(records / "g0", "a-new-one", 70)
    other = tmp_path / "other"
    write_record(other, "r0", 80)
    prepare(open_source("wfdb", other), out, options=quiet(shard_size=4))
    prepare(open_source("wfdb", records), out, options=quiet(shard_size=4, resume=True))
    rows = table_of(out)
    assert [row["idx"] for row in rows] == [0, 1, 2, 3, 4, 6, 7, 8]
    assert [row["source"] for row in rows] == ["source"] * 6 + ["other", "source"]
    assert rows[-1]["source_file"] == "g0/a-new-one.hea"
    assert {name: before[name]["idx"] for name in before} == {row["source_file"]: row["idx"] for row in rows[:6]}
    for row in rows[1:]:  # the first was resampled
        expected = read_ecg(tmp_path / row["source"] / row["source_file"]).stored.counts
        assert (load(out, row)[0] == expected).all()


def test_a_source_is_added_only_to_a_complete_folder_of_its_rate(tmp_path, records):
    out = tmp_path / "out"
    prepare(open_source("wfdb", records), out, options=QUIET)
    other = open_source("wfdb", records, SourceOptions(name="other"))
    with pytest.raises(UserError, match="has recordings at 500 Hz; prepare this source with --rate 500"):
        prepare(other, out, Processing(rate=250), QUIET)
    index_path(out / "shards" / "00000.npy").unlink()
    with pytest.raises(UserError, match="source 'source' is not complete; finish it with --resume first"):
        prepare(other, out, options=QUIET)


def test_rejected_items_are_tried_again_only_if_requested(tmp_path, records):
    out = tmp_path / "out"
    source = open_source("wfdb", records)
    prepare(source, out, options=QUIET)
    write_record(records / "g1", "r3", 60)
    write_record(records / "g1", "r9", 60)
    (records / "g1" / "r9.dat").unlink()
    assert prepare(source, out, options=quiet(resume=True)).rejected == 1
    source = open_source("wfdb", records)
    summary = prepare(source, out, options=quiet(resume=True, retry_rejected=True))
    assert (summary.recordings, summary.rejected, summary.shards) == (7, 1, 2)
    assert [(row["idx"], row["source_file"]) for row in table_of(out)][-1] == (7, "g1/r3.hea")
    assert list(pd.read_csv(out / "rejected.csv")["source_file"]) == ["g1/r9.hea"]


def test_trying_again_after_a_kill_stores_nothing_twice(tmp_path, records):
    out = tmp_path / "out"
    prepare(open_source("wfdb", records), out, options=QUIET)
    write_record(records / "g1", "r3", 60)
    again = quiet(resume=True, retry_rejected=True)
    prepare(open_source("wfdb", records), out, options=again)
    index_path(out / "shards" / "00001.npy").unlink()  # as if killed after the plan was written
    assert prepare(open_source("wfdb", records), out, options=again).recordings == 7
    assert [row["idx"] for row in table_of(out)] == [0, 1, 2, 3, 4, 6, 7]


def test_removed_items_are_rejected_or_kept_if_stored(tmp_path, records):
    out = tmp_path / "out"
    prepare(open_source("wfdb", records), out, options=quiet(shard_size=4))
    (out / "shards" / "00001.npy").unlink()
    shutil.rmtree(records / "g1")
    summary = prepare(open_source("wfdb", records), out, options=quiet(shard_size=4, resume=True))
    assert (summary.recordings, summary.rejected) == (4, 3)
    assert "no such file" in pd.read_csv(out / "rejected.csv")["reason"][0]


def test_one_recording_never_stops_the_others(tmp_path, monkeypatch):
    """Neither one that would not fit into memory at the new rate, nor one that makes our own code fail."""
    flat = np.zeros((12, 500_000))
    recordings = {
        "a": plain_recording(flat, rate=1.0),
        "b": plain_recording([[1.0, 2, 3]]),
        "c": dataclasses.replace(plain_recording([[1.0, 2, 3]]), leads=(0, 1)),
    }
    assert prepare(memory_source(recordings), tmp_path, options=QUIET, gain_fix="auto").recordings == 1
    reasons = list(pd.read_csv(tmp_path / "rejected.csv")["reason"])
    assert reasons[0].startswith("too long: 500000 samples at 1 Hz would be 3e+09 numbers at 500 Hz; cut it")
    assert reasons[1] == "cannot be used (ValueError: 1 rows for 2 leads)"


def test_out_is_a_file(tmp_path, records):
    (tmp_path / "out").write_text("?")
    with pytest.raises(UserError, match="out: is a file; give a folder"):
        prepare(open_source("wfdb", records), tmp_path / "out", options=QUIET)


def test_only_one_preparation_at_a_time(tmp_path, records):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(UserError, match="another run is writing"):
        prepare(open_source("wfdb", records), tmp_path / "out", options=QUIET)


def test_a_full_disk_is_one_line(tmp_path, records, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "shards/00000.npy")

    monkeypatch.setattr("fairseq_signals_ext.prepared.pipeline.write_part", full)
    with pytest.raises(UserError, match="^shards/00000.npy: No space left on device; fix it, then continue with"):
        prepare(open_source("wfdb", records), tmp_path / "out", options=QUIET)


def test_table_has_metadata_of_the_source(tmp_path, records):
    out = tmp_path / "out"
    prepare(open_source("wfdb", records), out, options=quiet(shard_size=2))
    rows = table_of(out)
    assert [row["source_file"] for row in rows] == [f"g{n % 2}/r{n}.hea" for n in (0, 2, 4, 6, 1, 5)]
    first = rows[0]
    assert (first["record_id"], first["patient"], first["age"], first["sex"]) == ("r0", "p0", 40, "male")
    assert (first["sample_rate"], first["samples"], list(first["codes"])) == (400, 62, ["1", "2"])
    assert list(first["flags"]) == ["short", "einthoven"]
    for row in rows:
        counts, index = load(out, row)
        assert (index["idx"], index["sample_rate"]) == (row["idx"], 500)
        assert index["patient"] == row["patient_key"] == patient_key(row["patient"])
        recording = read_ecg(records / row["source_file"])
        assert row["sample_rate"] == 400 or (counts == recording.stored.counts).all()


def test_facts_of_the_source_go_before_those_of_the_file(tmp_path):
    facts = {
        "a": {"patient": "007", "codes": ("X",), "start_time": datetime(2020, 1, 2), "age": None, "fold": 3},
        "b": {"fold": None, "word": 5},
        "c": {"fold": 1.5, "word": "w"},
    }
    counts = np.eye(2, 4, dtype=np.int16)
    recordings = {name: stored_recording(counts * factor, age=50.0) for factor, name in enumerate("abc", 3)}
    source = memory_source(recordings, facts=facts, own_patients=True)
    prepare(source, tmp_path, options=quiet(shard_size=2))
    first, second, third = table_of(tmp_path)
    assert (first["patient"], list(first["codes"]), first["age"], first["fold"]) == ("007", ["X"], 50, 3)
    assert first["start_time"] == pd.Timestamp(2020, 1, 2)
    assert [row["word"] for row in (first, second, third)] == [None, "5", "w"]
    assert np.isnan(second["fold"]) and third["fold"] == 1.5
    assert load(tmp_path, first)[1]["patient"] == patient_key("memory 007")
    with pytest.raises(UserError, match="has a column 'flags', which is ours"):
        prepare(memory_source(recordings, "x", {"a": {"flags": "?"}}), tmp_path, options=QUIET)


def test_duplicates_are_found_across_sources(tmp_path):
    counts = np.random.default_rng(0).integers(-100, 100, (3, 12, 50)).astype(np.int16)
    zeros = np.zeros((12, 50), np.int16)
    first = {"a": stored_recording(counts[0]), "b": stored_recording(counts[1]), "z": stored_recording(zeros)}
    second = {
        "c": stored_recording(counts[2]),
        "d": stored_recording(counts[1], scale=0.005),
        "e": stored_recording(counts[1][:6]),
        "y": stored_recording(zeros),
    }
    prepare(memory_source(first, "one"), tmp_path, options=QUIET)
    summary = prepare(memory_source(second, "two"), tmp_path, options=QUIET)
    found = {row["source_file"]: row["duplicate_of"] for row in table_of(tmp_path) if row["duplicate_of"] >= 0}
    assert found == {"d": 1}
    assert summary.flags["duplicate"] == 1
    assert [row["source_file"] for row in table_of(tmp_path) if "duplicate" in row["flags"]] == ["d"]


def test_a_wrong_gain_is_reported_and_corrected(tmp_path, ecg_data):
    wrong = tmp_path / "wrong" / "georgia"
    shutil.copytree(ecg_data / "cinc2021" / "georgia", wrong)
    for header in wrong.glob("*.hea"):
        text = header.read_text()
        header.chmod(0o644)
        header.write_text(text.replace("1000.0(0)/mV", "4880.0(0)/mV").replace("1000/mV", "4880/mV"))
    source = open_source("physionet2021", tmp_path / "wrong")
    summary = prepare(source, tmp_path / "as-it-is", options=QUIET)
    assert summary.likely_factors == {"georgia": 4.88}
    for gain_fix in ("auto", {"georgia": 4.88}):
        out = tmp_path / str(type(gain_fix).__name__)
        summary = prepare(source, out, options=QUIET, gain_fix=gain_fix)
        assert summary.likely_factors == {}
        rows = table_of(out)
        assert {row["gain_fix"] for row in rows} == {4.88}
        counts, index = load(out, rows[0])
        right = read_ecg(ecg_data / "cinc2021" / rows[0]["source_file"])
        physical = (counts - index["zero"][:, None]) * index["scale"][:, None]
        np.testing.assert_allclose(physical, right.signal, atol=1e-9)
    assert prepare(source, out, options=quiet(resume=True), gain_fix="auto").likely_factors == {}
    with pytest.raises(UserError, match="gain-fix nosuch=2: no such part of this source; it has georgia"):
        prepare(source, tmp_path / "x", options=QUIET, gain_fix={"nosuch": 2.0})
    with pytest.raises(UserError, match="gain-fix georgia=-1: give a factor above 0"):
        prepare(source, tmp_path / "x", options=QUIET, gain_fix={"georgia": -1.0})


def test_items_listed_twice(tmp_path):
    recording = plain_recording([[1.0, 2]])
    source = Source("s", FOLDER, [Item("a"), Item("a")], FromMemory({"a": recording}))
    with pytest.raises(UserError, match="'a' is listed twice"):
        prepare(source, tmp_path, options=QUIET)


def test_real_records_are_stored_as_wfdb_reads_them(tmp_path, ecg_data):
    out = tmp_path / "out"
    folders = [*sorted(path for path in (ecg_data / "cinc2021").iterdir() if any(path.glob("*.hea")))]
    folders.append(ecg_data / "ptbxl" / "records500")
    for folder in folders:
        prepare(open_source("wfdb", folder), out, options=QUIET)
    prepare(open_source("wfdb", ecg_data / "code15_wfdb"), tmp_path / "400", Processing(rate=400), QUIET)
    rows = [(out, row) for row in table_of(out)] + [(tmp_path / "400", row) for row in table_of(tmp_path / "400")]
    assert len(rows) > 200
    folder_of = {folder.name: folder for folder in [*folders, ecg_data / "code15_wfdb"]}
    for prepared, row in rows:
        counts, index = load(prepared, row)
        physical = (counts - index["zero"][:, None]) * index["scale"][:, None]
        reference = wfdb.rdrecord(str(folder_of[row["source"]] / row["source_file"])[:-4])
        columns = {name.lower(): column for column, name in enumerate(reference.sig_name)}
        expected = reference.p_signal[:, [columns[name.lower()] for name in LEADS]].T
        np.testing.assert_allclose(physical, expected, rtol=0, atol=1e-3 * 1e-3, err_msg=row["source_file"])
