"""Recordings found in files, folders and manifests given by a user, and their known facts."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_counts, write_mat, write_shards
from made_up_wfdb import write_wfdb

from fairseq_signals_ext import cli
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.inputs import find_inputs
from fairseq_signals_ext.readers import read_ecg


def prepare_command(arguments):
    return cli.main(["prepare", *arguments])


def write_record(folder, name, seed=0, samples=1000):
    return write_wfdb(folder / name, made_up_counts(np.random.default_rng(seed), samples))


def names(inputs):
    return [inputs.name(number) for number in range(len(inputs))]


def test_files_are_taken_in_their_order_and_signal_files_belong_to_headers(tmp_path):
    """As a shell expands `records/*`."""
    for number in (2, 1):
        write_record(tmp_path, f"r{number}", number)
    np.save(tmp_path / "a.npy", made_up_counts(np.random.default_rng(0), 1000))
    given = sorted(tmp_path.iterdir())
    inputs = find_inputs(given, sample_rate=500, unit="uV")
    assert names(inputs) == [str(tmp_path / name) for name in ("a.npy", "r1.hea", "r2.hea")]
    for number in range(3):
        expected = read_ecg(given[2 * number - 1]) if number else read_ecg(given[0], sample_rate=500, unit="uV")
        np.testing.assert_array_equal(inputs.recording(number).signal, expected.signal)
    assert names(find_inputs([tmp_path / "r1.dat"])) == [str(tmp_path / "r1.dat")]
    assert find_inputs([tmp_path / "r1.dat"]).recording(0).record_id == "r1"


def test_segments_are_read_with_their_record_only(tmp_path):
    """Given as `records/*`, as `records/*.hea`, or as the folder."""
    counts = made_up_counts(np.random.default_rng(0), 600)
    for name in ("m_1", "m_2", "single"):
        header = write_wfdb(tmp_path / name, counts)
        header.write_text(header.read_text().replace(f"{name} 12", f"x/{name}.mat 12", 1))
    (tmp_path / "m.hea").write_text("m/2 12 500 1200\nm_1 600\nm_2 600\n")
    wanted = ["m.hea", "single.hea"]
    for given in (sorted(tmp_path.iterdir()), sorted(tmp_path.glob("*.hea")), [tmp_path]):
        inputs = find_inputs(given)
        assert [os.path.basename(inputs.name(number)) for number in range(len(inputs))] == wanted
    assert find_inputs([tmp_path / "m_1.hea"]).recording(0).samples == 600


def test_a_folder_stands_for_every_file_below_it(tmp_path):
    (tmp_path / "below" / ".hidden").mkdir(parents=True)
    write_record(tmp_path / "below", "r")
    write_record(tmp_path / "below" / ".hidden", "h")
    (tmp_path / "notes.txt").write_text("no ECG, and not left out in silence")
    assert names(find_inputs([tmp_path])) == [str(tmp_path / name) for name in ("below/r.hea", "notes.txt")]


def test_metadata_options_apply_to_files_without_metadata(tmp_path):
    """The WFDB record has its own rate, and 250 Hz does not contradict it."""
    write_record(tmp_path, "r")
    np.save(tmp_path / "two.npy", made_up_counts(np.random.default_rng(0), 1000, 2))
    inputs = find_inputs([tmp_path / "r.hea", tmp_path / "two.npy"], sample_rate=250, leads="II,V1", unit="uV")
    assert [inputs.recording(number).sample_rate for number in (0, 1)] == [500, 250]
    assert {*inputs.recording(1).leads} == {1, 6}


@pytest.mark.parametrize("storage", ["raw", "flac"])
def test_a_manifest_of_shards(tmp_path, storage):
    counts = write_shards(tmp_path, [1000, 700, 900, 1200, 800], storage=storage)
    inputs = find_inputs([tmp_path / "train.tsv"])
    assert names(inputs)[3:] == [str(tmp_path / "shards/00000.npy#3"), str(tmp_path / "shards/00001.npy#0")]
    for number, expected in enumerate(counts):
        recording = inputs.recording(number)
        np.testing.assert_array_equal(recording.stored.counts, expected)
        scale, zero = 0.001 * (1 + np.arange(12) / 10), np.arange(12) * 3.0
        np.testing.assert_allclose(recording.signal, (expected - zero[:, None]) * scale[:, None], rtol=1e-12)
        assert (recording.record_id, recording.sample_rate) == (f"idx {number}", 500)


def test_a_prepared_folder_knows_more_than_its_shards(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("first", "second"):
        write_record(source, name, len(name))
        with open(source / f"{name}.hea", "a") as header:
            header.write(f"#Age: {len(name) * 10}\n#Sex: Female\n")
    pd.DataFrame({"record_id": ["first"], "patient": ["P1"]}).to_csv(tmp_path / "t.csv", index=False)
    prepare_command(["wfdb", str(source), "--out", str(tmp_path / "data"), "--table", str(tmp_path / "t.csv")])
    for given in (tmp_path / "data", tmp_path / "data" / "all.tsv"):
        inputs = find_inputs([given])
        first, second = (inputs.recording(number) for number in (0, 1))
        assert (first.record_id, first.patient, first.age, first.sex) == ("first", "P1", 50, "female")
        assert (second.record_id, second.patient, second.age) == ("second", None, 60)


def test_a_manifest_of_ecg_fm(tmp_path):
    """Its files are standardised, and taken as they are."""
    feats = np.random.default_rng(0).normal(3, 2, (12, 1000)).astype(np.float32)
    write_mat(tmp_path / "a.mat", feats[:, :500], 0)
    write_mat(tmp_path / "b_0.mat", feats[:, :500], 1)
    write_mat(tmp_path / "b_1.mat", feats[:, 500:], 1)
    (tmp_path / "test.tsv").write_text(f"{tmp_path}\na.mat\t500\n")
    (tmp_path / "pairs.tsv").write_text(f"{tmp_path}\nmat\nb\t500\t0\t0,1\n")
    inputs = find_inputs([tmp_path / "test.tsv", tmp_path / "pairs.tsv"])
    assert names(inputs) == [str(tmp_path / "a.mat"), str(tmp_path / "b_0.mat")]
    for number, expected in enumerate((feats[:, :500], feats)):
        recording, is_standardised, _ = inputs.read(number)
        assert is_standardised
        np.testing.assert_array_equal(recording.signal, expected)


def test_leads_that_were_filled_with_zeros_are_missing(tmp_path):
    """As if the file itself were given."""
    two = made_up_counts(np.random.default_rng(0), 3000, 2) / 1000
    (tmp_path / "source").mkdir()
    pd.DataFrame(two.T, columns=["II", "V1"]).to_csv(tmp_path / "source" / "two.csv", index=False)
    options = ["--input-rate", "500", "--input-unit", "mV", "--fill-leads"]
    prepare_command(["files", str(tmp_path / "source"), "--out", str(tmp_path / "data"), *options])
    inputs = find_inputs([tmp_path / "data"])
    assert inputs.read(0).recording.leads == (1, 6)
    np.testing.assert_allclose(inputs.recording(0).signal, two, atol=1e-4)


def test_names_that_are_no_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.npy")
    with open(path, "wb") as file:
        np.save(file, made_up_counts(np.random.default_rng(0), 1000) / 1000)
    inputs = find_inputs([os.fsdecode(path)], sample_rate=500)
    assert inputs.name(0).encode() == os.fsencode(tmp_path) + b"/caf\\xe9.npy"
    assert inputs.recording(0).samples == 1000


def test_fingerprint_differs_for_other_lists(tmp_path):
    files = [write_record(tmp_path, name) for name in "abc"]
    assert find_inputs(files).fingerprint() == find_inputs(list(files)).fingerprint()
    others = (files[:2], files[::-1], [*files, files[0]])
    assert len({find_inputs(some).fingerprint() for some in (files, *others)}) == 4


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda path: [], "no recordings are given"),
        (lambda path: [path / "no.tsv"], "no.tsv: no such file or folder"),
        (lambda path: [path / "no", path / "such"], "no: no such file or folder"),
    ],
)
def test_errors_that_stop_a_run(tmp_path, make, told):
    with pytest.raises(UserError, match=told):
        find_inputs(make(tmp_path))


def test_a_shard_that_was_changed_is_refused(tmp_path):
    write_shards(tmp_path, [1000, 1000])
    shutil.copy(tmp_path / "shards/00000.npy", tmp_path / "copy.npy")
    counts = np.load(tmp_path / "copy.npy")
    counts[5] += 1
    np.save(tmp_path / "shards/00000.npy", counts)
    inputs = find_inputs([tmp_path / "train.tsv"])
    with pytest.raises(UserError, match="checksum differs"):
        inputs.read(0)
    inputs.read(1)
