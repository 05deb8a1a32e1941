"""Kinds of text tables: lines of units, remarks, time stamps, chest leads C1-C6, exports of one lead."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg

SIGNAL = np.random.default_rng(0).normal(0, 0.3, size=(12, 60)).round(3)
LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")


def write(folder, lines, encoding="utf-8"):
    path = folder / "r.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def rows(separator=",", first=None, signal=SIGNAL):
    for number, values in enumerate(signal.T.tolist()):
        cells = [f"{value:.3f}" for value in values]
        cells = [cell.replace(".", ",") for cell in cells] if separator != "," else cells
        yield separator.join(cells if first is None else [first(number), *cells])


def test_physionets_export(cases):
    recording = read_ecg(cases / "csv" / "c05_atm.csv")
    truth = np.load(cases / "csv" / "truth.npz")["truth"]
    np.testing.assert_allclose(recording.signal, truth[:, : recording.samples], atol=0.00051)
    assert (recording.sample_rate, recording.assumed, recording.samples) == (500, (), 5000)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("unit", ["mV", "uV", "[µV]", "(mV)"])
def test_a_line_of_units(tmp_path, separator, unit):
    path = write(tmp_path, [separator.join(LEADS), separator.join([unit] * 12), *rows(separator)])
    recording = read_ecg(path, sample_rate=500)
    np.testing.assert_allclose(recording.signal, SIGNAL * (1 if "m" in unit else 1e-3), atol=1e-12)
    assert recording.assumed == ()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("form", ["{}_mV", "{} (mV)", "{}", "Lead {} [mV]"])
def test_two_leads_with_their_units(tmp_path, separator, form):
    names = separator.join(form.format(lead) for lead in ("I", "II"))
    rows = [f"{value / 10:.1f}{separator}{-value / 10:.1f}" for value in range(60)]
    (tmp_path / "a.csv").write_text("\n".join([names, *rows]))
    recording = read_ecg(tmp_path / "a.csv", sample_rate=500)
    np.testing.assert_allclose(recording.signal[:2], np.arange(60) / 10 * np.array([[1], [-1]]), atol=1e-12)


def test_minus_signs_of_missing_samples_and_times_since_the_beginning(tmp_path):
    lines = ["'Elapsed time','I','II'", "'hh:mm:ss.mmm','mV','mV'"]
    lines += [f"'0:{number / 250:06.3f}',{'-' if number == 3 else number / 10},-0.5" for number in range(50)]
    recording = read_ecg(write(tmp_path, lines))
    assert (recording.sample_rate, recording.samples) == (250, 50)
    assert np.isnan(recording.signal[0]).tolist() == [number == 3 for number in range(50)]


STAMPS = {
    "%Y-%m-%dT%H:%M:%S.%f": "",
    "%Y-%m-%d %H:%M:%S.%f": "+01:00",
    "%Y-%m-%dT%H:%M:%S.%fZ": "",
    "[%H:%M:%S.%f %d/%m/%Y]": "",
}


@pytest.mark.parametrize("name", ["time", "timestamp", "Recorded at", ""])
@pytest.mark.parametrize("form", STAMPS)
def test_time_stamps_give_rate_and_start(tmp_path, form, name):
    start = datetime(2024, 2, 28, 23, 59, 59, 900000)
    stamps = [(start + timedelta(seconds=number / 250)).strftime(form) + STAMPS[form] for number in range(60)]
    recording = read_ecg(write(tmp_path, [",".join([name, *LEADS]), *rows(first=stamps.__getitem__)]))
    assert (recording.sample_rate, recording.start_time) == (250, start)
    np.testing.assert_allclose(recording.signal, SIGNAL, atol=1e-12)


def test_remarks_above_time_stamps(tmp_path):
    stamps = [f"2024-01-01 00:00:{number / 250:09.6f}" for number in range(60)]
    lines = ["# a remark that is long and has no mark in it", ",".join(["at", *LEADS]), *rows(first=stamps.__getitem__)]
    assert read_ecg(write(tmp_path, lines)).sample_rate == 250


def test_times_of_the_day_past_midnight(tmp_path):
    start = datetime(2024, 2, 28, 23, 59, 59, 900000)
    stamps = [(start + timedelta(seconds=number / 250)).strftime("%H:%M:%S.%f") for number in range(60)]
    recording = read_ecg(write(tmp_path, [";".join(["clock", *LEADS]), *rows(";", stamps.__getitem__)]))
    assert (recording.sample_rate, recording.start_time) == (250, None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("remarks", "rate"),
    [
        (["# recorded on a ward, by a device whose name is long; and with a filter of 150 Hz"], None),
        (["Patient: Jane Roe", "", "Sampling rate: 250 Hz", "Filter: 0.05-150 Hz"], 250),
        (["# fs=250", "# I am a remark"], 250),
        (["Export", "patient,Jane Roe,1961-02-03"], None),
        (["Abtastrate [Hz];250"], 250),
    ],
)
def test_remarks_first(tmp_path, remarks, rate, encoding):
    path = write(tmp_path, [*remarks, ",".join(LEADS), *rows()], encoding)
    recording = read_ecg(path, sample_rate=None if rate else 250)
    assert recording.sample_rate == 250
    np.testing.assert_allclose(recording.signal, SIGNAL, atol=1e-12)


@pytest.mark.parametrize("chest", ["C{}", "V{}+", "c{}", "Lead C{}", "C{} (mV)"])
def test_other_names_of_chest_leads(tmp_path, chest):
    names = [*LIMB, *(chest.format(number) for number in range(1, 7))]
    recording = read_ecg(write(tmp_path, [",".join(names), *rows()]), sample_rate=500)
    assert recording.leads == tuple(range(12))
    np.testing.assert_allclose(recording.signal, SIGNAL, atol=1e-12)


@pytest.mark.parametrize("names", [["I", "II", "C3", "C4"], ["C1", "C2", "C3"], ["I", "C1", "C2", "Cz"]])
def test_electrodes_of_an_eeg_are_no_chest_leads(tmp_path, names):
    path = write(tmp_path, [",".join(names), *rows(signal=SIGNAL[: len(names)])])
    if "I" in names:
        assert read_ecg(path, sample_rate=500).leads[:1] == (0,)
        assert not {6, 7, 8, 9} & set(read_ecg(path, sample_rate=500).leads)
    else:
        with pytest.raises(UserError, match="none of its signals"):
            read_ecg(path, sample_rate=500)


def apple(*facts, comma=False):
    values = SIGNAL[0].tolist()
    return [*facts, "", *(f"{1000 * value:.3f}".replace(".", "," if comma else ".") for value in values)]


GERMAN = ("Ableitung,Ableitung I", "Einheit,µV")
EXPORTS = {
    "English": apple('Name,"Jane I. Roe"', "Sample Rate,512.5 hertz", "", "", "Lead,Lead I", "Unit,µV"),
    "German": apple("Name,Jane Roe", "Abtastrate,512.5 Hertz", "", *GERMAN),
    "German, decimal commas": apple('Name,"Roe, I."', "Abtastrate,512,5 Hertz", "", *GERMAN, comma=True),
    "French": apple("Nom,Jane Roe", 'Fréquence,"512,5 hertz"', "", "Dérivation,Dérivation I", "Unité,µV", comma=True),
    "Japanese": apple("名前,患者", "サンプルレート,512.5 ヘルツ", "", "誘導,誘導I", "単位,µV"),
    "unknown word": apple(
        "Név,Jane", 'X,"Watch6,1"', "Mintavétel,512.5 herc", "", "Elvezetés,I elvezetés", "Egység,μV"
    ),
    "semicolons": apple("Name;Jane Roe", "Abtastrate;512,5 Hz", "", "Ableitung;I", "Einheit;µV", comma=True),
}


@pytest.mark.parametrize("language", EXPORTS)
def test_exports_of_one_lead(tmp_path, language):
    recording = read_ecg(write(tmp_path, EXPORTS[language]))
    assert (recording.leads, recording.sample_rate, recording.patient) == ((0,), 512.5, None)
    np.testing.assert_allclose(recording.signal, SIGNAL[:1], atol=1e-9)


def test_apples_export(cases):
    recording = read_ecg(cases / "csv" / "c01_apple_en.csv")
    assert (recording.leads, recording.sample_rate, recording.samples) == ((0,), 512.5, 5000)
    assert recording.start_time == datetime(2024, 1, 31, 12, 34, 56)
    np.testing.assert_allclose(recording.signal, np.load(cases / "csv" / "truth.npz")["truth"][:1], atol=1e-6)


@pytest.mark.parametrize(
    "lines",
    [
        ["Name,Jane Roe", "Unit,µV", "", "1.5", "2.5", "3.5"],
        ["Name,Jane Roe", "Sample Rate,512 hertz", "Lead,X", "Unit,µV", "", "1.5", "2.5", "3.5"],
        ["Name,Jane Roe", "Sample Rate,512 hertz", "Lead,Lead I", "Unit,µV", "", "1.5", "2.5", "3.5", "Jane Roe"],
        ["Jane Roe;born 1961", "1,5;2"],
        ["Jane Roe"],
        ["# Jane Roe"],
        ["Jane Roe,born 1961", "ward 3,Jane Roe"],
        ["time,I", "Jane Roe,2", "0.002,3"],
        ["I", "1.5", "1.5 Jane Roe"],
        ["I (Jane Roe)", "1.5", "2.5"],
        ["I,Jane Roe", "mV,mV", "1.5,2.5", "x Jane Roe,2"],
    ],
)
def test_no_message_contains_a_possible_name(tmp_path, lines):
    with pytest.raises(UserError) as caught:
        read_ecg(write(tmp_path, lines), sample_rate=500, unit="mV" if "µV" not in str(lines) else None)
    assert "Jane" not in str(caught.value) and "Roe" not in str(caught.value) and "1961" not in str(caught.value)
    assert "; " in str(caught.value)
