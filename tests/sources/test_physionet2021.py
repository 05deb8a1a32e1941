"""The Challenge's folders, nested and flat: names of sources, and metadata of headers."""

import numpy as np
import pytest

from fairseq_signals_ext.common.leads import LEADS

RECORDS = {
    "georgia/g1/E00001": ["#Age: 74", "#Sex: Male", "#Dx: 426783006,164889003", "#Rx: Unknown"],
    "georgia/g2/E00002": ["# Age: NaN", "# Sex: Female", "# Dx: AFIB, LBBB", "# Hx: Unknown"],
    "cpsc_2018/g1/A0001": ["#Age: 9", "#Sex: F", "#Dx: Unknown"],
    "cpsc_2018/g10/A0002": ["#Age: 60", "#Sex: M", "#Dx:59118001"],
}


@pytest.fixture
def training(tmp_path, write_record, counts):
    for seed, (name, comments) in enumerate(RECORDS.items()):
        write_record(tmp_path / "training" / name, counts(seed), comments, mat=True, gain="1000/mV")
    (tmp_path / "training" / "georgia" / "g1" / "RECORDS").write_text("E00001\n")
    return tmp_path / "training"


def test_nested(training, prepare, counts):
    found = prepare("physionet2021", training)
    table = found.table
    # sorted by their path
    assert table.index.tolist() == [f"{name}.hea" for name in sorted(RECORDS)]
    assert table["source"].tolist() == ["cpsc_2018", "cpsc_2018", "georgia", "georgia"]
    assert table["record_id"].tolist() == ["A0001", "A0002", "E00001", "E00002"]
    assert [list(codes) for codes in table["codes"]] == [
        [],
        ["59118001"],
        ["426783006", "164889003"],
        ["AFIB", "LBBB"],
    ]
    assert table["sex"].tolist() == ["female", "male", "male", "female"]
    np.testing.assert_array_equal(table["age"], [9, 60, 74, np.nan])
    assert table["patient"].isna().all()
    for seed, name in enumerate(RECORDS):
        signal = found.signal(f"{name}.hea")
        assert list(signal) == list(LEADS)
        np.testing.assert_allclose(np.stack(list(signal.values())), counts(seed) / 1000, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("below", "sources"),
    [
        ("..", {"cpsc_2018", "georgia"}),  # the whole collection
        ("georgia", {"georgia"}),
        ("georgia/g1", {"georgia"}),
        ("cpsc_2018/g10", {"cpsc_2018"}),
    ],
)
def test_name_of_the_source_does_not_depend_on_the_start_folder(training, prepare, below, sources):
    assert set(prepare("physionet2021", training / below).table["source"]) == sources


def test_flat(tmp_path, prepare, write_record, counts):
    for seed, name in enumerate(["E1", "E2"]):
        write_record(tmp_path / "ningbo" / name, counts(seed), mat=True)
    found = prepare("physionet2021", tmp_path / "ningbo")
    assert found.table["source"].tolist() == ["ningbo", "ningbo"]


def test_real_records(ecg_data, prepare):
    folder = ecg_data / "cinc2021"
    headers = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.hea"))
    found = prepare("physionet2021", folder)
    assert found.table.index.tolist() == headers
    assert found.table["source"].tolist() == [name.split("/")[0] for name in headers]
    for name, codes in found.table["codes"].items():
        lines = (folder / name).read_text().splitlines()
        written = next(line for line in lines if line.replace(" ", "").startswith("#Dx:"))
        assert list(codes) == written.split(":")[1].strip().split(",")


def test_a_name_twice_is_no_clash(tmp_path, prepare, write_record, counts):
    """Two sources may use the same name for a record."""
    for seed, name in enumerate(["a/g1/R1", "b/g1/R1"]):
        write_record(tmp_path / "training" / name, counts(seed), mat=True)
    assert prepare("physionet2021", tmp_path / "training").table["record_id"].tolist() == ["R1", "R1"]


def test_wrong_folder(tmp_path, refusal):
    assert "training: no such folder; give the folder" in refusal("physionet2021", tmp_path / "training")
    (tmp_path / "empty").mkdir()
    assert "empty: no .hea file here or below" in refusal("physionet2021", tmp_path / "empty")
