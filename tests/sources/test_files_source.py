"""Any mixture of files: each is in the table or rejected with a reason, and nothing is lost."""

import shutil
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg

FORMATS = {
    "dicom_12lead_1000hz.dcm": 1000,
    "example.scp": 500,
    "ge_muse_8lead.xml": 500,
    "hl7_aecg.xml": 500,
    "philips_sierra_1_04.xml": 500,
}
REASONS = {
    "README.md": "it is not an ECG, as it has neither columns named as leads nor lines of numbers",
    "a/empty.dat": "the file is empty",
    "a/without_rate.npy": "its sample rate is missing",
    "broken": "no such file",
    "formats/single_lead_300hz.edf": "none of its signals",
    "formats/unsupported.xml": "unsupported",
    "text.csv": "it is not an ECG, as it has neither",
    "w/short.hea": "bytes, but 2600 samples per lead need",
}


@pytest.fixture
def mixture(tmp_path, ecg_data, write_record, counts):
    folder = tmp_path / "mixture"
    for path in (ecg_data / "formats").iterdir():
        (folder / "formats").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / "formats" / path.name)
    write_record(folder / "w" / "rec", counts(1), ["#Age: 30"])
    write_record(folder / "w" / "mat", counts(2), mat=True)
    write_record(folder / "w" / "short", counts(3))
    (folder / "w" / "short.dat").write_bytes(b"12345")
    (folder / "a").mkdir()
    signal = counts(4).T / 1000
    lines = [",".join(LEADS)] + [",".join(map(str, row)) for row in signal.tolist()]
    (folder / "a" / "table.csv").write_text("\n".join([*lines, ""]))
    np.save(folder / "a" / "array.npy", counts(5))
    np.save(folder / "a" / "without_rate.npy", counts(6) / 1000)
    (folder / "a" / "empty.dat").write_bytes(b"")
    (folder / "README.md").write_text("# ECGs\n\nfrom two hospitals\n")
    (folder / "text.csv").write_text("name,phone\nX,1\n")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / "broken").symlink_to("nowhere")
    return folder


TABLE = """file,record_id,patient,age,start_time,codes,sample_rate,unit,source,ward,visit
table.csv,T1,p1,50,2020-01-02 03:04:05,I48.0;I10,500,,clinic,A,007
a/array.npy,,p2,,,,250,uV,,B,008
rec,R1,p1,,2020-01-02,,,,clinic,,009
dicom_12lead_1000hz.dcm,,,,,"1,2",,,,,010
"""


def test_every_file_is_read_or_rejected(mixture, prepare, counts):
    (mixture / "patients.csv").write_text(TABLE)
    found = prepare("files", mixture, "--table", mixture / "patients.csv", status=1)
    table = found.table
    good = {"w/rec.hea", "w/mat.hea", "a/table.csv", "a/array.npy", *(f"formats/{name}" for name in FORMATS)}
    assert set(table.index) == good
    assert set(found.rejected) == set(REASONS)
    for name, reason in REASONS.items():
        assert reason in found.rejected[name], name
    # the files are numbered by name
    assert table["idx"].tolist() == [sorted(good | set(REASONS)).index(name) for name in sorted(good)]


def test_table_gives_metadata_and_reading_options(mixture, prepare, counts):
    (mixture / "patients.csv").write_text(TABLE)
    found = prepare("files", mixture, "--table", mixture / "patients.csv", status=1)
    row = found.table.loc["a/table.csv"]
    assert (row["record_id"], row["patient"], row["age"], row["source"]) == ("T1", "p1", 50, "clinic")
    assert (row["start_time"], list(row["codes"])) == (datetime(2020, 1, 2, 3, 4, 5), ["I48.0", "I10"])
    assert (row["ward"], row["visit"], row["sample_rate"]) == ("A", "007", 500)
    signal = np.stack(list(found.signal("a/table.csv").values()))
    np.testing.assert_allclose(signal, counts(4) / 1000, rtol=0, atol=row["rounding_error_mv"] * 1.001 + 1e-12)

    row = found.table.loc["a/array.npy"]
    assert (row["record_id"], row["patient"], row["source"], row["visit"]) == ("array", "p2", "mixture", "008")
    assert (row["sample_rate"], row["samples"]) == (250, 5200)

    row = found.table.loc["w/rec.hea"]
    assert (row["record_id"], row["age"], row["patient"]) == ("R1", 30, "p1")  # what the table leaves out stays
    assert (row["ward"], row["sample_rate"]) == (None, 500)
    signal = np.stack(list(found.signal("w/rec.hea").values()))
    np.testing.assert_allclose(signal, counts(1) / 1000, rtol=0, atol=1e-12)

    row = found.table.loc["formats/dicom_12lead_1000hz.dcm"]
    assert (row["patient"], row["age"], list(row["codes"])) == ("642341", 42, ["1", "2"])


def test_formats_are_read_as_by_read_ecg(mixture, prepare):
    found = prepare("files", mixture, "--rate", 500, status=1)
    for name, rate in FORMATS.items():
        recording = read_ecg(mixture / "formats" / name)
        row = found.table.loc[f"formats/{name}"]
        assert (row["sample_rate"], row["patient"]) == (rate, recording.patient)
        if rate == 500:
            for lead, signal in zip(recording.leads, recording.signal):
                stored = found.signal(f"formats/{name}")[LEADS[lead]]
                np.testing.assert_allclose(stored, signal, rtol=0, atol=row["rounding_error_mv"] * 1.001 + 1e-9)


def test_options_are_used_for_reading(tmp_path, prepare, counts):
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "x.npy", counts(0)[:2])
    found = prepare("files", folder, "--input-rate", 500, "--input-unit", "uV", "--input-leads", "V1,II")
    assert found.table.loc["x.npy", "leads"] == "II,V1"
    np.testing.assert_allclose(found.signal("x.npy")["V1"], counts(0)[0] / 1000, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.signal("x.npy")["II"], counts(0)[1] / 1000, rtol=0, atol=1e-12)


def signal_files(folder):
    """Files that the headers of a folder name in the first word of a signal's line."""
    named = set()
    for header in folder.rglob("*.hea"):
        lines = [line for line in header.read_text().splitlines() if line and not line.startswith("#")]
        named |= {header.parent / line.split()[0] for line in lines[1:]}
    return named


def test_real_data_of_each_kind(each_kind, prepare):
    files = {path for path in each_kind.rglob("*") if path.is_file()}
    named = signal_files(each_kind)
    assert named < files
    found = prepare("files", each_kind, status=1)
    expected = {path.relative_to(each_kind).as_posix() for path in files - named}
    assert set(found.table.index) | set(found.rejected) == expected
    assert not set(found.table.index) & set(found.rejected)
    headers = {path.relative_to(each_kind).as_posix() for path in files if path.suffix == ".hea"}
    assert headers <= set(found.table.index)
    assert all(found.rejected.values())


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\0\n\0\0 1\n", b"x.hea 1 500\nx.hea 16\n", b"\n\n# only\n", "é 1 500 5\nö.dat 16\n".encode()],
)
def test_damaged_headers_hide_nothing(tmp_path, prepare, write_record, counts, content):
    folder = tmp_path / "records"
    write_record(folder / "good", counts(0))
    (folder / "x.hea").write_bytes(content)
    (folder / "x.txt").write_text("note\n")
    assert set(prepare("files", folder, status=1).rejected) == {"x.hea", "x.txt"}


def test_parquet_table(tmp_path, prepare, write_record, counts):
    for seed in (1, 2):
        write_record(tmp_path / "records" / f"r{seed}", counts(seed))
    table = pd.DataFrame(
        {
            "path": ["r1.hea", "r2.hea"],
            "patient": pd.array([5, None], "Int64"),
            "codes": [np.array(["a b", "c"]), np.array([], object)],
            "start_time": [pd.Timestamp("2020-02-03 04:05:06"), pd.NaT],
            "potassium": [4.5, np.nan],
            "visit": ["01", "2"],
        }
    )
    table.to_parquet(tmp_path / "known.parquet")
    found = prepare("files", tmp_path / "records", "--table", tmp_path / "known.parquet").table
    assert found["patient"].tolist() == ["5", None]
    assert [list(codes) for codes in found["codes"]] == [["a b", "c"], []]
    assert found["start_time"].tolist() == [datetime(2020, 2, 3, 4, 5, 6), pd.NaT]
    np.testing.assert_array_equal(found["potassium"], [4.5, np.nan])
    assert found["visit"].tolist() == ["01", "2"]


def test_wrong_folder(tmp_path, refusal):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").write_text("x")
    assert "empty: no files here or below" in refusal("files", tmp_path / "empty")
    assert "nowhere: no such folder" in refusal("files", tmp_path / "nowhere")


def test_options_apply_only_to_files_without_this_metadata(tmp_path, prepare, ecg_data):
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(ecg_data / "formats" / "dicom_12lead_1000hz.dcm", folder / "a.dcm")
    np.save(folder / "b.npy", np.arange(12 * 1300, dtype=np.int16).reshape(12, 1300))
    (folder / "c.csv").write_text("time (s),I (uV)\n" + "".join(f"{row / 250},{row}\n" for row in range(1300)))
    found = prepare("files", folder, "--input-rate", "250", "--input-unit", "mV").table
    assert found["sample_rate"].to_dict() == {"a.dcm": 1000, "b.npy": 250, "c.csv": 250}
    assert found.loc["c.csv", "amplitude_mv"] == pytest.approx(1.299, rel=1e-4)


def test_the_whole_name_of_a_file_goes_before_a_short_one(tmp_path, prepare):
    folder, table = tmp_path / "files", tmp_path / "table.csv"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.csv", "sub/a.csv", "sub/b.csv"):
        (folder / name).write_text("I\n0.5\n\n1.5\n")
    table.write_text("file;patient\n./a.csv;1\nsub\\b.csv;2.0\n")
    found = prepare("files", folder, "--input-rate", "500", "--table", table).table
    assert found["patient"].to_dict() == {"a.csv": "1", "sub/a.csv": None, "sub/b.csv": "2"}
