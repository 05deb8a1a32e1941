"""Folders of WFDB records: compressed and packed formats, segments, several rates."""

import numpy as np
import pandas as pd
import pytest
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.sources import open_source

# format -> largest count
PLAIN = {"16": 2**15 - 1, "24": 2**23 - 1, "32": 2**31 - 1, "80": 127, "212": 2047}
FLAC = {"508": ("80", 127), "516": ("16", 2**15 - 1), "524": ("24", 2**23 - 1)}


def write(folder, name, counts, fmt, **more):
    scale = {"gain": [0.2 * (1 + lead) for lead in range(12)], "baseline": [3 - lead for lead in range(12)]}
    write_wfdb(folder / name, counts, unit="uV", fmt=fmt, **scale, **more)


def random_counts(largest, seed=0):
    counts = np.random.default_rng(seed).integers(-largest, largest, (12, 2600), endpoint=True)
    counts[:, :2] = largest, -largest
    return counts


def millivolts(counts):
    lead = np.arange(12)[:, None]
    return (counts - (3 - lead)) / (0.2 * (1 + lead)) / 1000


def stacked(signal):
    assert list(signal) == list(LEADS)
    return np.stack(list(signal.values()))


@pytest.mark.parametrize("fmt", PLAIN)
def test_formats(tmp_path, prepare, fmt):
    counts = random_counts(PLAIN[fmt])
    write(tmp_path / "records", "r", counts, fmt)
    found = prepare("wfdb", tmp_path / "records")
    row = found.table.loc["r.hea"]
    exact = PLAIN[fmt] < 2**15
    assert (row["rounding_error_mv"] == 0) == exact
    allowed = 1e-12 if exact else row["rounding_error_mv"] * 1.001
    assert allowed <= millivolts(counts).max() / 2**15
    np.testing.assert_allclose(stacked(found.signal("r.hea")), millivolts(counts), rtol=1e-12, atol=allowed)


@pytest.mark.parametrize("fmt", FLAC)
def test_flac_equals_uncompressed_data(tmp_path, prepare, fmt):
    plain, largest = FLAC[fmt]
    counts = random_counts(largest)
    write(tmp_path / "records", "flac", counts, fmt, comments=["Age: 50", "Dx: 1,2"])
    write(tmp_path / "records", "plain", counts, plain, comments=["Age: 50", "Dx: 1,2"])
    # a FLAC file holds eight signals at most
    assert [(tmp_path / "records" / f"flac_{part}.dat").read_bytes()[:4] for part in (1, 2)] == [b"fLaC"] * 2
    found = prepare("wfdb", tmp_path / "records")
    one, other = (stacked(found.signal(f"{name}.hea")) for name in ("flac", "plain"))
    np.testing.assert_array_equal(one, other)
    allowed = found.table["rounding_error_mv"].max() * 1.001 + 1e-12
    np.testing.assert_allclose(one, millivolts(counts), rtol=1e-12, atol=allowed)
    rows = found.table.drop(columns=["idx", "record_id", "row", "flags", "patient_key"])
    assert rows.loc["flac.hea", "age"] == 50
    assert rows.loc["plain.hea", "duplicate_of"] == 0
    rows = rows.drop(columns="duplicate_of").astype(str)
    assert rows.loc["flac.hea"].tolist() == rows.loc["plain.hea"].tolist()


def test_damaged_flac_is_rejected(tmp_path, prepare, write_record, counts):
    write(tmp_path / "records", "flac", random_counts(1000), "516")
    path = tmp_path / "records" / "flac_2.dat"
    path.write_bytes(path.read_bytes()[:3000])
    write_record(tmp_path / "records" / "good", counts(0))
    found = prepare("wfdb", tmp_path / "records", status=1)
    assert list(found.rejected) == ["flac.hea"]
    assert "its file 'flac_2.dat' cannot be read" in found.rejected["flac.hea"]


def test_several_rates(tmp_path, prepare):
    folder = tmp_path / "records"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, frames in (("same", [2, 2]), ("different", [2, 1])):
        signals = [rng.integers(-900, 900, 1300 * frame) for frame in frames]
        write_wfdb(folder / name, signals, ["I", "V1"], rate=250, samps_per_frame=frames)
        if name == "same":
            expected = signals
    found = prepare("wfdb", folder, status=1)
    assert found.rejected == {"different.hea": "its leads have different sample rates; resample them to one rate"}
    row = found.table.loc["same.hea"]
    assert (row["sample_rate"], row["samples"], row["leads"]) == (500, 2600, "I,V1")
    for lead, counts in zip(("I", "V1"), expected):
        np.testing.assert_allclose(found.signal("same.hea")[lead], counts / 1000, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["wfdb", "files"])
def test_segments_are_one_recording(tmp_path, prepare, write_record, counts, kind):
    folder = tmp_path / "records"
    for number in (1, 2):
        write_record(folder / f"long_{number}", counts(number))
    write_record(folder / "single", counts(3))
    segments = "long_layout 0\nlong_1 2600\n~ 100\nlong_2 2600\n"
    (folder / "long.hea").write_text(f"long/4 12 500 5300\n{segments}# Age: 60\n")
    layout = "".join(f"~ 0 1000/mV 16 0 0 0 0 {lead}\n" for lead in LEADS)
    (folder / "long_layout.hea").write_text(f"long_layout 12 500 0\n{layout}")
    found = prepare(kind, folder)
    assert found.table.index.tolist() == ["long.hea", "single.hea"]
    row = found.table.loc["long.hea"]
    assert (row["samples"], row["age"]) == (5300, 60)
    assert (row["nan_samples"], list(row["flags"])[0]) == (12 * 100, "nan")
    signal = stacked(found.signal("long.hea"))
    allowed = row["rounding_error_mv"] * 1.001 + 1e-12
    assert allowed < 1e-4
    np.testing.assert_allclose(signal[:, :2600], counts(1) / 1000, rtol=0, atol=allowed)
    np.testing.assert_allclose(signal[:, 2700:], counts(2) / 1000, rtol=0, atol=allowed)


def test_table_joins(tmp_path, prepare, write_record, counts):
    for seed, name in enumerate(["a/1", "a/2"]):
        write_record(tmp_path / "records" / name, counts(seed), ["#Age: 20", "#Sex: Male", "#Dx: 7"])
    table = tmp_path / "patients.csv"
    table.write_text("record_id,patient,age,codes,ward\n2,007,,1;2,north\n1,7,33,,south\n")
    found = prepare("wfdb", tmp_path / "records", "--table", table).table
    assert found["patient"].tolist() == ["7", "007"]
    assert found["age"].tolist() == [33, 20]
    assert [list(codes) for codes in found["codes"]] == [["7"], ["1", "2"]]
    assert found["ward"].tolist() == ["south", "north"]
    assert found["sex"].tolist() == ["male", "male"]
    assert found["source"].tolist() == ["records", "records"]


def test_wrong_folder(tmp_path, refusal, write_record, counts):
    assert "nowhere: no such folder; give the folder with the recordings" in refusal("wfdb", tmp_path / "nowhere")
    write_record(tmp_path / "r" / "x", counts(0))
    assert "x.hea: is a file; give the folder that it is in" in refusal("wfdb", tmp_path / "r" / "x.hea")
    (tmp_path / "r" / "x.hea").unlink()
    assert "r: no .hea file here or below" in refusal("wfdb", tmp_path / "r")


def test_segments_of_any_name_and_lone_signals(tmp_path, prepare, write_record, counts):
    folder = tmp_path / "records"
    for number in (1, 2):
        write_record(folder / f"s{number}", counts(number))
    (folder / "whole.hea").write_text("whole/2 12 500 5200\ns1 2600\ns2 2600\n")
    (folder / "lone.dat").write_bytes(b"0" * 24)
    assert prepare("wfdb", folder).table.index.tolist() == ["whole.hea"]
    notes = open_source("wfdb", folder).notes
    assert list(notes) == ["1 .dat or .mat files have no header, the first is lone.dat: left out"]


@pytest.mark.parametrize("kind", ["wfdb", "files"])
def test_records_of_archives(tmp_path, prepare, write_record, counts, kind):
    """Record names with a suffix and a folder, and invalid dates, also in a record of segments."""
    folder = tmp_path / "records"
    for number in (1, 2, 3):
        write_record(folder / f"s{number}", counts(number))
    one = folder / "s3.hea"
    lines = one.read_text().splitlines()
    first = "WFDB/s3.mat 12 500 2600 05-May-2020 09:49:17"
    one.write_text("\n".join([first, *(f"WFDB/{line}" for line in lines[1:] if "#" not in line), ""]))
    (folder / "whole.hea").write_text("a/whole/2 12 500 5200 00:00:00 00/00/0000\nb/s1.hea 2600\nb/s2 2600\n")
    found = prepare(kind, folder)
    assert found.table.index.tolist() == ["s3.hea", "whole.hea"]
    assert found.table["samples"].tolist() == [2600, 5200]
    assert open_source(kind, folder).notes in ((), [])


def test_a_signal_file_of_another_name_is_not_lone(tmp_path, write_record, counts):
    folder = tmp_path / "records"
    write_record(folder / "x", counts(1))
    (folder / "x.dat").rename(folder / "signals.dat")
    header = folder / "x.hea"
    header.write_text(header.read_text().replace("x.dat", "signals.dat"))
    (folder / "copy.hea").write_text(header.read_text())
    (folder / "copy.dat").write_bytes(b"")  # so that its header would not be looked into
    header.unlink()
    assert list(open_source("wfdb", folder).notes) == []
    assert [item.name for item in open_source("wfdb", folder).items] == ["copy.hea"]
    assert [item.name for item in open_source("files", folder).items] == ["copy.dat", "copy.hea"]


def test_patient_1_of_another_source_is_another_person(tmp_path, prepare, write_record, counts):
    """As INCART counts its patients; ids of a hospital are the same person wherever they are."""
    for source in ("one", "other"):
        for number, remark in enumerate(["# patient 1", "#<age>: 65 <sex>: F", "# patient 1", "# Patient ID: 1331343"]):
            write_record(tmp_path / source / f"r{number}", counts(number), [remark])
    one, other = (prepare("wfdb", tmp_path / source).table for source in ("one", "other"))
    assert one["patient"].tolist() == ["1", None, "1", "1331343"]
    keys = pd.concat([one[one["source"] == "one"], other[other["source"] == "other"]])["patient_key"].tolist()
    assert len({*keys}) == 5
    assert (keys[0], keys[4], keys[3]) == (keys[2], keys[6], keys[7])
