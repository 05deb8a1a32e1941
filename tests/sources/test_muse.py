"""GE MUSE: the real file, and copies of it with other facts."""

import re
import shutil

import numpy as np
import pytest

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg


@pytest.fixture
def original(ecg_data):
    return ecg_data / "formats" / "ge_muse_8lead.xml"


@pytest.fixture
def export(original, tmp_path):
    """The real file in a folder, and three patients made of it."""
    folder = tmp_path / "export"
    (folder / "2024").mkdir(parents=True)
    shutil.copyfile(original, folder / "original.xml")
    content = original.read_bytes().decode("latin-1")
    for number in (1, 2, 3):
        changed, times = re.subn(r"(<PatientID>)[^<]*", rf"\g<1>00{number}", content)
        assert times >= 1
        changed, times = re.subn(r"(<PatientAge>)[^<]*", rf"\g<1>{40 + number}", changed)
        assert times == 1
        changed, times = re.subn(r"(<LeadAmplitudeUnitsPerBit>)[^<]*", rf"\g<1>{number}.5", changed)
        assert times >= 8
        (folder / "2024" / f"ecg{number}{'.XML' if number == 3 else '.xml'}").write_bytes(changed.encode("latin-1"))
    return folder


def test_export(export, original, prepare):
    found = prepare("muse", export)
    table = found.table
    names = ["2024/ecg1.xml", "2024/ecg2.xml", "2024/ecg3.XML", "original.xml"]
    assert table.index.tolist() == names
    assert table["patient"].tolist() == ["001", "002", "003", None]
    assert table["age"].tolist() == [41, 42, 43, 11]
    assert table["source"].tolist() == ["export"] * 4
    assert set(table["derived_leads"]) == {"III,aVR,aVL,aVF"}
    assert set(table["leads"]) == {",".join(LEADS)}
    assert all("窦性心律" in statements for statements in table["statements"])
    expected = dict(zip(LEADS, read_ecg(original).signal))
    scale = float(re.search(r"<LeadAmplitudeUnitsPerBit>([\d.]+)", original.read_text("latin-1")).group(1))
    for number, name in enumerate(names, start=1):
        factor = (number + 0.5) / scale if number < 4 else 1
        for lead, signal in found.signal(name).items():
            np.testing.assert_allclose(signal, expected[lead] * factor, rtol=0, atol=1e-9)


def test_other_files_are_rejected(export, ecg_data, prepare):
    (export / "2024" / "ecg1.xml").write_bytes((export / "2024" / "ecg1.xml").read_bytes()[:9000])
    shutil.copyfile(ecg_data / "formats" / "unsupported.xml", export / "other.xml")
    (export / "ecg.pdf").write_bytes(b"%PDF")
    found = prepare("muse", export, status=1)
    assert set(found.rejected) == {"2024/ecg1.xml", "other.xml"}
    assert "cannot be read as GE MUSE XML" in found.rejected["2024/ecg1.xml"]
    assert "cannot be read as Philips Sierra XML" in found.rejected["other.xml"]


def test_table(export, prepare, tmp_path):
    table = tmp_path / "known.csv"
    table.write_text("file,patient,codes\necg2.xml,P2,I48.0; I10\noriginal.xml,,\n")
    found = prepare("muse", export, "--table", table).table
    assert found["patient"].tolist() == ["001", "P2", "003", None]
    assert list(found.loc["2024/ecg2.xml", "codes"]) == ["I48.0", "I10"]


def test_wrong_folder(tmp_path, refusal):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "a.txt").write_text("x")
    assert "export: no .xml file here or below" in refusal("muse", tmp_path / "export")


def test_linked_folders_are_entered(tmp_path, prepare, ecg_data):
    away = tmp_path / "away"
    away.mkdir()
    shutil.copy(ecg_data / "formats" / "ge_muse_8lead.xml", away / "a.XML")
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "linked").symlink_to(away)
    assert prepare("muse", tmp_path / "exports").table.index.tolist() == ["linked/a.XML"]
