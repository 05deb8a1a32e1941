"""Text tables: leads by the header, rate by the time column, units by header or argument."""

import numpy as np
import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg


@pytest.fixture
def signal():
    return np.random.default_rng(0).normal(size=(3, 40)).round(4)


def table(folder, header, columns, separator=",", decimals=None):
    lines = [] if header is None else [separator.join(header)]
    for values in zip(*columns):
        cells = [str(value) if decimals is None else f"{value:.{decimals}f}" for value in values]
        lines.append(separator.join(cell.replace(".", ",") if separator == ";" else cell for cell in cells))
    path = folder / "r.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_header_in_any_order_and_case(tmp_path, signal, separator):
    path = table(
        tmp_path, ["v6", "Lead I", "heart rate", "AVF"], [signal[2], signal[0], signal[1], signal[1]], separator
    )
    recording = read_ecg(path, sample_rate=500)
    assert [LEADS[lead] for lead in recording.leads] == ["I", "aVF", "V6"]
    np.testing.assert_allclose(recording.signal, signal, rtol=1e-12)
    assert (recording.record_id, recording.sample_rate, recording.stored) == ("r", 500, None)


@pytest.mark.parametrize(
    ("name", "scale"),
    [("I", 1), ("I (uV)", 1e-3), ("I [mV]", 1), ("I_uV", 1e-3), ("i/V", 1e3), ("ECG I (µV)", 1e-3), ("I volts", 1e3)],
)
def test_unit_in_the_header(tmp_path, signal, name, scale):
    recording = read_ecg(table(tmp_path, [name], signal[:1]), sample_rate=500)
    np.testing.assert_allclose(recording.signal, signal[:1] * scale, rtol=1e-12)


def test_each_column_has_its_unit(tmp_path, signal):
    recording = read_ecg(table(tmp_path, ["V1 (uV)", "V2 (mV)", "V3"], signal), sample_rate=500)
    np.testing.assert_allclose(recording.signal, signal * [[1e-3], [1], [1]], rtol=1e-12)
    with pytest.raises(UserError, match="a column's unit is uV, not mV"):
        read_ecg(tmp_path / "r.csv", sample_rate=500, unit="mV")


def test_integers_need_a_unit_and_are_kept(tmp_path):
    counts = np.random.default_rng(0).integers(-3000, 3000, (2, 40))
    path = table(tmp_path, ["I", "V1"], counts)
    with pytest.raises(UserError, match="it contains integers and no unit"):
        read_ecg(path, sample_rate=500)
    for recording in (
        read_ecg(path, sample_rate=500, unit="uV"),
        read_ecg(table(tmp_path, ["I (uV)", "V1 (uV)"], counts), sample_rate=500),
    ):
        np.testing.assert_array_equal(recording.stored.counts, counts)
        np.testing.assert_allclose(recording.signal, counts / 1000, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [100, 128, 250, 257.5, 360, 400, 500, 1000])
@pytest.mark.parametrize(
    ("name", "unit", "decimals"),
    [("time", 1, 6), ("Time (s)", 1, 6), ("t", 1e3, 4), ("time_ms", 1e3, 3), ("ms", 1e3, 3), ("seconds", 1, 6)],
)
def test_time_column_gives_the_rate(tmp_path, rate, name, unit, decimals):
    time = (3 + np.arange(2000) / rate) * unit
    path = table(tmp_path, ["V1", name], [np.sin(time), time], decimals=decimals)
    assert read_ecg(path).sample_rate == pytest.approx(rate, rel=1e-6 if rate != 257.5 else 1e-5)
    if rate == round(rate):
        assert read_ecg(path).sample_rate == rate


def test_times_in_whole_milliseconds(tmp_path):
    time = np.arange(3000) / 360
    path = table(tmp_path, ["time (s)", "V1"], [time, np.sin(time)], decimals=3)
    assert read_ecg(path).sample_rate == 360
    with pytest.raises(UserError, match="its sample rate is 360 Hz, not 500 Hz"):
        read_ecg(path, sample_rate=500)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (
            [0.0, 0.002, 0.004, 0.008, 0.01],
            r"steps in column 'time' are not even \(0.004 from sample 3 to the next, elsewhere 0.002\); write a row",
        ),
        ([0.0, 0.002, 0.002, 0.004, 0.006], "do not increase"),
        ([0.0, 0.002, float("nan"), 0.006, 0.008], "do not increase"),
        ([0.0, 100.0, 200.0, 300.0, 400.0], "neither in s nor in ms"),
        ([0.5], "do not increase"),
    ],
)
def test_invalid_times(tmp_path, time, message):
    path = table(tmp_path, ["time", "V1"], [time, np.arange(len(time)) + 0.5])
    with pytest.raises(UserError, match=message):
        read_ecg(path)


def test_without_a_header_leads_have_to_be_given(tmp_path, signal):
    path = table(tmp_path, None, signal)
    with pytest.raises(UserError, match="no header with lead names"):
        read_ecg(path, sample_rate=500)
    with pytest.raises(UserError, match="it has 3 signals, but 2 leads are given"):
        read_ecg(path, sample_rate=500, leads=["I", "V1"])
    recording = read_ecg(path, sample_rate=500, leads=["V1", "aVL", "V2"])
    np.testing.assert_allclose(recording.signal, signal[[1, 0, 2]], rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I,V1,i\n1.5,2,3\n", "lead 'i' appears twice"),
        (
            "a,b\n1.5,2\n",
            r"none of its signals \(a, b\) is a standard lead; .*, or give their names \(leads, --input-leads\)$",
        ),
        ("I,V1\n1.5,2\n3\n", "line 3 has 1 values, not 2"),
        ("I,V1\n1.5,2\n3,4,5\n", "line 3 has 3 values, not 2"),
        ("I,V1\n1.5,x\n", "contains values that are not numbers"),
        ("I,V1\n", "no samples"),
        ("I,V1\n1.5,inf\n", "infinite"),
        ("I (mmHg),V1\n1.5,2\n", "unit 'mmHg' is not a voltage"),
        ("time,t,V1\n1.5,2,3\n", "2 time columns"),
        ("some words, and more\n", "it is not an ECG, as it has neither columns named as leads nor lines of numbers"),
    ],
)
def test_wrong_tables_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_ecg(path, sample_rate=500)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


def test_no_rate(tmp_path, signal):
    with pytest.raises(UserError, match="no time column; give its sample rate"):
        read_ecg(table(tmp_path, ["I", "II", "V1"], signal))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets(tmp_path, encoding):
    path = tmp_path / "r.csv"
    path.write_text('"I","V1"\r\n0.5,1\r\n0.25,2\r\n\r\n', encoding=encoding)
    np.testing.assert_array_equal(read_ecg(path, sample_rate=500).signal, [[0.5, 0.25], [1, 2]])


def test_invalid_samples_are_nan(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("V1\n0.5\nnan\n")
    assert np.isnan(read_ecg(path, sample_rate=500).signal).tolist() == [[False, True]]


def test_an_empty_cell_is_a_sample_that_is_missing(tmp_path):
    path = tmp_path / "gaps.csv"
    path.write_text("time (s),I,II\n0,0.5,\n0.002,,1.5\n0.004,0.25,2.5\n")
    np.testing.assert_array_equal(read_ecg(path).signal[:2], [[0.5, np.nan, 0.25], [np.nan, 1.5, 2.5]])


def test_tabs_with_decimal_commas(tmp_path):
    path = tmp_path / "tab.csv"
    path.write_text("I\tV1\n0,5\t1,25\n-0,5\t2,0\n")
    np.testing.assert_array_equal(read_ecg(path, sample_rate=500).signal, [[0.5, -0.5], [1.25, 2.0]])


def test_a_file_with_only_missing_samples(tmp_path):
    path = tmp_path / "gap.csv"
    path.write_text("time (s),I,II\n0,,\n0.002,-,nan\n0.004,,\n")
    with pytest.raises(UserError, match="all its samples are marked as missing, so there is no ECG; leave it out"):
        read_ecg(path, unit="mV")
