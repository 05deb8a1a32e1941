"""Preparation: counts come back exactly, and the result depends on nothing but the source."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.preparation import Source, prepare, resample_linear, to_counts
from fairseq_signals_ext.data.shards import index_path, patient_key
from fairseq_signals_ext.data.splitting import split_manifest
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS, mask_to_leads
from fairseq_signals_ext.readers import Recording, StoredCounts, read_ecg


class FromMemory:
    """A reader that gives recordings by file name; an exception is raised."""

    def __init__(self, recordings):
        self.recordings = recordings

    def __call__(self, path):
        found = self.recordings[path.name]
        if isinstance(found, Exception):
            raise found
        return found

    def source(self, folder=Path("source")):
        return Source(folder, [folder / name for name in reversed(sorted(self.recordings))], self)


def stored_recording(counts, scale=0.001, zero=0.0, **facts):
    scales, zeros = np.full(len(counts), scale), np.full(len(counts), zero)
    signal = (counts - zeros[:, None]) * scales[:, None]
    facts = {"record_id": "r", "leads": tuple(range(len(counts))), "sample_rate": 500.0, **facts}
    return Recording(signal=signal, stored=StoredCounts(counts, scales, zeros), **facts)


def plain_recording(signal, rate=500.0):
    return Recording("r", np.asarray(signal, float), tuple(range(len(signal))), rate)


def load(out, row):
    counts, index = np.load(out / row["shard"]), np.load(index_path(out / row["shard"]))[row["row"]]
    leads = list(mask_to_leads(int(index["leads"])))
    start = int(index["offset"])
    return counts[start : start + len(leads) * index["samples"]].reshape(len(leads), -1), leads, index


def table_of(out):
    return [row for _, row in pd.read_parquet(out / "recordings.parquet").iterrows()]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def wfdb_folder(tmp_path):
    """Seven records of four patients, the fourth of which is truncated."""
    folder = tmp_path / "source"
    rng = np.random.default_rng(0)
    for number in range(7):
        below = folder / f"g{number % 2}"
        below.mkdir(parents=True, exist_ok=True)
        wfdb.wrsamp(
            f"r{number}",
            fs=500 if number else 400,
            units=["mV"] * 12,
            sig_name=list(LEADS),
            d_signal=rng.integers(-2000, 2000, (50 + number, 12)),
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            comments=[f"Patient: p{number // 2}", f"Age: {40 + number}", "Sex: Male", "Dx: 1,2"],
            write_dir=str(below),
        )
    broken = folder / "g1" / "r3.dat"
    broken.write_bytes(broken.read_bytes()[:-10])
    return Source(folder, sorted(folder.rglob("*.hea")))


def test_resampling_is_that_of_ecg_fm(ecg_data):
    folder = ecg_data / "code15_ecg_fm"
    files = sorted((folder / "preprocessed").glob("*.mat"))
    assert len(files) == 4
    for file in files:
        expected, source = scipy.io.loadmat(file), scipy.io.loadmat(folder / "org" / file.name)
        found = resample_linear(source["feats"], 400, 500)
        assert found.shape == expected["feats"].shape
        np.testing.assert_allclose(found.mean(axis=1), expected["mean"].ravel(), atol=1e-6)
        standardised = (found - expected["mean"]) / expected["std"]
        assert np.abs(standardised - expected["feats"]).max() < 1e-6


def test_length_of_resampled():
    assert resample_linear(np.zeros((1, 2934)), 400, 500).shape == (1, 3667)
    assert resample_linear(np.zeros((2, 5000)), 1000, 500).shape == (2, 2500)
    line = resample_linear(np.arange(101.0)[None], 500, 250)
    np.testing.assert_allclose(line[0], np.linspace(0, 100, 50))


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 40)).flatmap(lambda shape: arrays(np.int16, shape)),
        min_size=1,
        max_size=5,
    ),
    shard_size=st.integers(1, 3),
)
def test_any_counts_come_back_exactly(tmp_path_factory, blocks, shard_size):
    out = tmp_path_factory.mktemp("out")
    reader = FromMemory({f"{number}": stored_recording(counts) for number, counts in enumerate(blocks)})
    prepare(reader.source(), out, shard_size=shard_size, progress=False)
    rows = table_of(out)
    assert [row["idx"] for row in rows] == list(range(len(blocks)))
    for row, expected in zip(rows, blocks):
        counts, leads, index = load(out, row)
        assert (counts == expected).all()
        assert row["leads"] == ",".join(LEADS[: len(expected)])
        assert row["rounding_error_mv"] == 0
        physical = expected * 0.001
        np.testing.assert_allclose(index["mean"][leads], physical.mean(axis=1), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(index["std"][leads], physical.std(axis=1), rtol=1e-6, atol=1e-7)
        assert index["patient"] == patient_key(row["source_file"])
    manifest = read_manifests(find_manifests(out, "all"))
    assert manifest.samples.tolist() == [counts.shape[1] for counts in blocks]


@settings(max_examples=200)
@given(
    signal=arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(1, 30)),
        elements=st.floats(-1e6, 1e6, allow_subnormal=True),
    )
)
def test_any_signal_is_stored_to_half_a_count(signal):
    counts, scale, zero, error = to_counts(plain_recording(signal), 500.0)
    assert counts.dtype == np.int16
    back = (counts - zero[:, None]) * scale[:, None]
    spread, largest = np.ptp(signal, axis=1), np.abs(signal).max(axis=1)
    allowed = spread / 65533 * 0.5001 + 2e-9 * largest + 1e-12
    assert (np.abs(back - signal).max(axis=1) <= allowed).all()
    assert error == np.abs(back - signal).max()


def test_constant_leads_and_zeros_are_exact():
    signal = np.array([[1.7] * 5, [0.0] * 5, [0.0, 0.3, -1.1, 0.0, 2.0]])
    counts, scale, zero, _ = to_counts(plain_recording(signal), 500.0)
    back = (counts - zero[:, None]) * scale[:, None]
    assert (back[:2] == signal[:2]).all()
    assert scale[:2].tolist() == [1, 1]
    assert back[2, [0, 3]].tolist() == [0, 0]
    assert int(counts[2].max()) - int(counts[2].min()) >= 65532


def test_own_counts_are_left_only_when_the_rate_changes():
    counts = np.random.default_rng(0).integers(-100, 100, (12, 40)).astype(np.int16)
    recording = stored_recording(counts, zero=3.0, sample_rate=400.0)
    kept, scale, zero, error = to_counts(recording, 400.0)
    assert (kept == counts).all()
    assert (set(scale), set(zero), error) == ({0.001}, {3.0}, 0.0)
    made, scale, zero, error = to_counts(recording, 500.0)
    expected = resample_linear(recording.signal, 400, 500)
    assert made.shape == (12, 50)
    assert 0 < error < 0.2 / 65533
    np.testing.assert_allclose((made - zero[:, None]) * scale[:, None], expected, atol=error)
    wide = stored_recording(counts.astype(np.int64) * 1000)
    assert to_counts(wide, 500.0)[3] > 0


def test_rejected_recordings_are_named_and_the_rest_goes_on(tmp_path):
    good = np.ones((2, 10)) * np.arange(10)
    invalid = good.copy()
    invalid[1, 3:5] = np.nan
    reader = FromMemory(
        {
            "a": UserError("source/a: is broken"),
            "b": UserError("without, its name"),
            "c": plain_recording(invalid),
            "d": plain_recording(good),
            "e": plain_recording(np.zeros((2, 0))),
            "f": plain_recording(good, rate=0.0),
            "g": plain_recording(good[:, :1], rate=5000.0),
        }
    )
    summary = prepare(reader.source(), tmp_path, shard_size=2, progress=False)
    assert (summary.recordings, summary.rejected, summary.shards) == (1, 6, 4)
    rejected = pd.read_csv(tmp_path / "rejected.csv")
    assert dict(zip(rejected["source_file"], rejected["reason"])) == {
        "a": "is broken",
        "b": "without, its name",
        "c": "lead II: 2 of 10 samples are invalid",
        "e": "it has no samples",
        "f": "its sample rate is 0.0 Hz",
        "g": "too short: nothing is left of it at 500 Hz",
    }
    (row,) = table_of(tmp_path)
    assert (row["idx"], row["source_file"], row["shard"], row["row"]) == (3, "d", "shards/00001.npy", 0)
    assert (tmp_path / "all.tsv").read_text() == ".\nshards/00001.npy\t0\t10\n"
    assert len(np.load(tmp_path / "shards" / "00000.npy")) == 0


def test_strict_stops_at_the_first(tmp_path):
    reader = FromMemory({"a": UserError("is broken"), "b": UserError("too")})
    with pytest.raises(UserError, match="^source/a: is broken$"):
        prepare(reader.source(), tmp_path, strict=True, progress=False)
    assert not (tmp_path / "all.tsv").exists()


def test_nothing_usable(tmp_path):
    with pytest.raises(UserError, match="no recordings found"):
        prepare(Source(tmp_path, []), tmp_path / "out")
    reader = FromMemory({"a": UserError("is broken")})
    with pytest.raises(UserError, match=r"rejected\.csv: all 1 files were rejected; the first, a: is broken"):
        prepare(reader.source(), tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "rejected.csv").read_text() == "source_file,reason\na,is broken\n"


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": float("nan")}, {"shard_size": 0}, {"jobs": 0}])
def test_wrong_settings(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong)).split("_")[0]):
        prepare(FromMemory({"a": UserError("?")}).source(), tmp_path, **wrong)


def test_result_is_the_same_whatever_the_jobs_and_after_resuming(tmp_path, wfdb_folder):
    one, two, resumed = tmp_path / "1", tmp_path / "2", tmp_path / "r"
    prepare(wfdb_folder, one, shard_size=2, progress=False)
    prepare(wfdb_folder, two, shard_size=2, jobs=2, progress=False)
    expected = contents(one)
    assert contents(two) == expected
    assert {Path(name).suffix for name in expected} == {".npy", ".json", ".parquet", ".csv", ".tsv"}

    prepare(wfdb_folder, resumed, shard_size=2, progress=False)
    (resumed / "shards" / "00001.npy").unlink()
    index_path(resumed / "shards" / "00002.npy").unlink()
    (resumed / "recordings.parquet").unlink()
    kept = (resumed / "shards" / "00000.npy").stat().st_mtime_ns
    with pytest.raises(UserError, match="exists already; go on with --resume"):
        prepare(wfdb_folder, resumed, shard_size=2, progress=False)
    prepare(wfdb_folder, resumed, shard_size=2, resume=True, progress=False)
    assert contents(resumed) == expected
    assert (resumed / "shards" / "00000.npy").stat().st_mtime_ns == kept


def test_resuming_needs_the_same_source_and_settings(tmp_path, wfdb_folder):
    out = tmp_path / "out"
    prepare(wfdb_folder, out, shard_size=4, progress=False)
    fewer = Source(wfdb_folder.folder, wfdb_folder.files[1:])
    for source, settings_ in ((fewer, {}), (wfdb_folder, {"rate": 250.0}), (wfdb_folder, {"shard_size": 3})):
        with pytest.raises(UserError, match="was made from other files or with another rate or shard size"):
            prepare(source, out, resume=True, progress=False, **{"shard_size": 4, **settings_})
    part = out / "shards" / "00000.part.json"
    part.write_text("{")
    with pytest.raises(UserError, match=r"00000\.part\.json: cannot be read"):
        prepare(wfdb_folder, out, shard_size=4, resume=True, progress=False)


def test_table_has_what_the_source_says(tmp_path, wfdb_folder):
    prepare(wfdb_folder, tmp_path / "out", shard_size=2, progress=False)
    rows = table_of(tmp_path / "out")
    assert [row["source_file"] for row in rows] == [f"g{n % 2}/r{n}.hea" for n in (0, 2, 4, 6, 1, 5)]
    first = rows[0]
    assert (first["record_id"], first["patient"], first["age"], first["sex"]) == ("r0", "p0", 40, "male")
    assert (first["sample_rate"], first["samples"], first["statements"]) == (400, 62, "1;2")
    for row in rows:
        counts, _, index = load(tmp_path / "out", row)
        recording = read_ecg(wfdb_folder.folder / row["source_file"])
        assert (index["idx"], index["sample_rate"]) == (row["idx"], 500)
        assert index["patient"] == patient_key(row["patient"])
        assert row["sample_rate"] == 400 or (counts == recording.stored.counts).all()
    part = json.loads((tmp_path / "out" / "shards" / "00002.part.json").read_text())
    assert [name for name, _ in part["rejected"]] == ["g1/r3.hea"]


def members(out, name="random"):
    found = {}
    for split in ("train", "valid", "test"):
        path = out / "splits" / name / f"{split}.tsv"
        found[split] = path.read_text().splitlines()[1:] if path.exists() else []
    return found


def many_patients(out, patients):
    counts = np.ones((1, 3), np.int16)
    reader = FromMemory({f"{n:04d}": stored_recording(counts, patient=name) for n, name in enumerate(patients)})
    prepare(reader.source(), out, shard_size=100, progress=False)


def test_split_keeps_patients_together(tmp_path):
    patients = [f"p{number % 97}" if number % 3 else None for number in range(600)]
    many_patients(tmp_path, patients)
    counts = split_manifest(tmp_path)
    found = members(tmp_path)
    assert counts == {split: len(lines) for split, lines in found.items()}
    assert sorted(sum(found.values(), [])) == sorted((tmp_path / "all.tsv").read_text().splitlines()[1:])
    assert abs(counts["train"] - 480) < 10
    assert abs(counts["valid"] - 60) < 10
    where = {line: split for split, lines in found.items() for line in lines}
    splits_of = {}
    for row in table_of(tmp_path):
        line = f"{row['shard']}\t{row['row']}\t{row['samples']}"
        splits_of.setdefault(row["patient"] or row["source_file"], set()).add(where[line])
    assert all(len(splits) == 1 for splits in splits_of.values())
    manifest = read_manifests(find_manifests(tmp_path / "splits" / "random", "test"))
    assert all(shard.is_file() for shard in manifest.shards)


def test_split_repeats_with_its_seed(tmp_path):
    many_patients(tmp_path, [None] * 50)
    split_manifest(tmp_path, (0.5, 0.25, 0.25), seed=3, name="a")
    split_manifest(tmp_path, (0.5, 0.25, 0.25), seed=3, name="b")
    split_manifest(tmp_path, (0.5, 0.25, 0.25), seed=4, name="c")
    assert members(tmp_path, "a") == members(tmp_path, "b") != members(tmp_path, "c")
    assert split_manifest(tmp_path, (1, 0, 0), name="d") == {"train": 50, "valid": 0, "test": 0}


def test_wrong_splits(tmp_path):
    with pytest.raises(UserError, match=r"all\.tsv: .*run manifests/prepare.py first"):
        split_manifest(tmp_path)
    many_patients(tmp_path, ["p"] * 5)
    with pytest.raises(UserError, match="would be empty"):
        split_manifest(tmp_path)
    for fractions in ((0.8, 0.2), (1.2, -0.1, -0.1), (0.5, 0.1, 0.1), (float("nan"), 0.5, 0.5)):
        with pytest.raises(UserError, match="^fractions "):
            split_manifest(tmp_path, fractions)
    assert not (tmp_path / "splits").exists()
