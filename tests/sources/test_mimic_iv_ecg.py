"""MIMIC-IV-ECG: a small made-up copy of its tree and tables."""

from datetime import datetime

import numpy as np
import pytest

# as its files store them: aVF before aVL
STORED = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
RECORDS = (
    (10000032, 40689238, "2180-07-23 08:44:00"),
    (10000032, 44458630, "2180-07-23 09:54:00"),
    (10000117, 48835147, "2181-11-15 18:47:00"),
)
REPORTS = [f"report_{number}" for number in range(18)]
MEASUREMENTS = [
    "subject_id,study_id,cart_id,ecg_time," + ",".join(REPORTS) + ",bandwidth,filtering,rr_interval,p_onset"
]
MEASUREMENTS += [
    '10000032,40689238,6848296,2180-07-23 08:44:00,Sinus rhythm,"Possible right atrial abnormality, borderline",'
    + "," * 14
    + ",Summary: Borderline ECG,0.005-150 Hz,60 Hz notch Baseline filter,659,40",
    "10000117,48835147,5,2181-11-15 18:47:00,," + "," * 16 + ",,,29999,",
]


def path_of(subject, study):
    return f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"


@pytest.fixture
def collection(tmp_path, write_record, counts):
    folder = tmp_path / "mimic-iv-ecg"
    lines = ["subject_id,study_id,file_name,ecg_time,path"]
    for subject, study, taken in RECORDS:
        path = path_of(subject, study)
        first = f" {taken[11:]} {taken[8:10]}/{taken[5:7]}/{taken[:4]}"
        write_record(folder / path, counts(study), names=STORED, gain="200.0(0)/mV", first=first)
        lines.append(f"{subject},{study},{study},{taken},{path}")
    (folder / "record_list.csv").write_text("\n".join([*lines, ""]))
    (folder / "machine_measurements.csv").write_text("\n".join([*MEASUREMENTS, ""]))
    return folder


def test_leads_go_by_name(collection, prepare, counts):
    found = prepare("mimic_iv_ecg", collection)
    for subject, study, _ in RECORDS:
        signal = found.signal(path_of(subject, study) + ".hea")
        assert list(signal)[4:6] == ["aVL", "aVF"]
        for name, stored in zip(STORED, counts(study)):
            np.testing.assert_allclose(signal[name], stored / 200, rtol=0, atol=1e-12)


def test_tables(collection, prepare):
    found = prepare("mimic_iv_ecg", collection)
    table = found.table
    assert not found.notes
    assert table.index.tolist() == [path_of(subject, study) + ".hea" for subject, study, _ in RECORDS]
    assert table["record_id"].tolist() == [str(study) for _, study, _ in RECORDS]
    assert table["patient"].tolist() == [str(subject) for subject, _, _ in RECORDS]
    assert table["start_time"].tolist() == [datetime.fromisoformat(taken) for _, _, taken in RECORDS]
    assert [list(statements) for statements in table["statements"]] == [
        ["Sinus rhythm", "Possible right atrial abnormality, borderline", "Summary: Borderline ECG"],
        [],
        [],
    ]
    np.testing.assert_array_equal(table["rr_interval"], [659, np.nan, 29999])
    np.testing.assert_array_equal(table["p_onset"], [40, np.nan, np.nan])
    np.testing.assert_array_equal(table["cart_id"], [6848296, np.nan, 5])
    assert table["bandwidth"].tolist() == ["0.005-150 Hz", None, None]
    assert not {"report_0", "study_id", "subject_id", "ecg_time"} & set(table.columns)


def test_patients_are_those_of_this_source(collection, prepare):
    first, second, third = prepare("mimic_iv_ecg", collection).patients()
    assert first == second != third
    other = prepare("mimic_iv_ecg", collection, "--source", "other", out="second")
    assert not set(other.patients()) & {first, third}


def test_without_measurements(collection, prepare):
    (collection / "machine_measurements.csv").unlink()
    found = prepare("mimic_iv_ecg", collection)
    assert found.notes == ["machine_measurements.csv is not there: recordings are without statements"]
    assert [len(statements) for statements in found.table["statements"]] == [0, 0, 0]
    assert found.table["patient"].tolist() == ["10000032", "10000032", "10000117"]


def test_records_that_are_not_there_are_rejected(collection, prepare):
    gone = path_of(*RECORDS[1][:2])
    for suffix in (".hea", ".dat"):
        (collection / (gone + suffix)).unlink()
    found = prepare("mimic_iv_ecg", collection, status=1)
    assert list(found.rejected) == [f"{gone}.hea"]
    assert "no such file" in found.rejected[f"{gone}.hea"]
    assert found.table["idx"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10000032,44458630,44458630", "10000032,44458630,4445,8630", "cannot be read (Error tokenizing"),
        ("2180-07-23 09:54:00", "yesterday", "study 44458630: ecg_time: 'yesterday' is not a time"),
        (path_of(*RECORDS[1][:2]), path_of(*RECORDS[0][:2]), "40689238.hea' is listed twice"),
        (",path", ",waveform", "record_list.csv: no column 'path'"),
    ],
)
def test_damaged_table(collection, refusal, old, new, message):
    path = collection / "record_list.csv"
    path.write_text(path.read_text().replace(old, new))
    assert message in refusal("mimic_iv_ecg", collection)


def test_wrong_folder(collection, refusal):
    assert "files/record_list.csv: no such file" in refusal("mimic_iv_ecg", collection / "files")
