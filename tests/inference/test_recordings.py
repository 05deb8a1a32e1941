"""Recordings given in Python: files, `Recording`s and arrays; mistakes give one line."""

import numpy as np
import pytest
from made_up import made_up_counts, plain_recording, stored_recording

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.inference.recordings import recording_of
from fairseq_signals_ext.readers import Recording

COUNTS = made_up_counts(np.random.default_rng(0), 600)
MILLIVOLTS = COUNTS / 1000


def test_an_array_in_any_unit_type_and_order():
    leads = [*LEADS[6:], *LEADS[:6]]
    order = [*range(6, 12), *range(6)]
    for name, given in {
        "float": recording_of(MILLIVOLTS, 500),
        "counts": recording_of(COUNTS, 500, unit="uV"),
        "ordered": recording_of(MILLIVOLTS[order].astype(np.float32), 500, leads),
        "text": recording_of(MILLIVOLTS[order] / 1000, 500, ",".join(leads), "V"),
    }.items():
        assert (given[0], given[1].leads, given[1].sample_rate) == ("array", tuple(range(12)), 500), name
        np.testing.assert_allclose(given[1].signal, MILLIVOLTS, atol=1e-6, err_msg=name)


def test_masked_samples_are_invalid():
    masked = np.ma.masked_array(MILLIVOLTS.copy(), np.zeros(MILLIVOLTS.shape, bool))
    masked[2, 5:9] = 50
    masked[2, 5:9] = np.ma.masked
    signal = recording_of(masked, 500)[1].signal
    assert np.isnan(signal[2, 5:9]).all() and np.isnan(signal).sum() == 4


def test_metadata_missing_from_a_file_can_be_given(tmp_path):
    np.save(tmp_path / "x.npy", COUNTS)
    name, recording = recording_of(tmp_path / "x.npy", 500, unit="uV")
    assert name == str(tmp_path / "x.npy")
    np.testing.assert_allclose(recording.signal, MILLIVOLTS)


@pytest.mark.parametrize(
    "given, said, told",
    [
        (COUNTS, {"sample_rate": 500}, "contains integers; give the unit of one count with unit="),
        (MILLIVOLTS, {"sample_rate": 500, "unit": "furlong"}, "unit 'furlong' is not a voltage"),
        (MILLIVOLTS, {}, "its sample rate is missing"),
        (MILLIVOLTS.T, {"sample_rate": 500}, "give its transpose"),
        (MILLIVOLTS[0], {"sample_rate": 500}, "its shape is 600; give numbers"),
        (plain_recording(MILLIVOLTS), {"unit": "mV"}, "of its own; leave these out"),
        (Recording("r", MILLIVOLTS, (0, 1), 500.0), {}, "its shape is 12 x 600, but it has 2 leads"),
        (Recording("r", MILLIVOLTS.T, tuple(range(12)), 500.0), {}, "its shape is 600 x 12, but it has 12 leads"),
        (Recording("r", MILLIVOLTS[:2], ("I", "II"), 500.0), {}, "give positions in leads.LEADS"),
        (Recording("r", MILLIVOLTS[:2], (1, 0), 500.0), {}, "ascending"),
        (stored_recording(COUNTS, leads=(0, 3)), {}, "but it has 2 leads"),
    ],
)
def test_wrong_arguments_are_one_line(given, said, told):
    with pytest.raises(UserError, match=told) as found:
        recording_of(given, **said)
    assert "\n" not in str(found.value)
