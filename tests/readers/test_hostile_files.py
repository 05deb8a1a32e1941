"""Files of a few bytes or megabytes that ask for gigabytes or minutes: one line, soon, and in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile
import hostile_parts  # noqa: F401 - more of them
import numpy as np
import pytest
from fuzz_seeds import wfdb_other

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import read_ecg

LONGEST = 10  # seconds for one file
MOST = 400  # MB for one file, with all libraries
# damaged in no way, only unusual
READ = {"wfdb_remark_of_control_characters", "aecg_of_many_series", "aecg_of_many_sets_in_one_series"}


@pytest.fixture(scope="module")
def outcomes():
    """Name of a sample: result, seconds, and megabytes."""
    command = [sys.executable, str(Path(hostile.__file__).with_name("hostile_reading.py"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: values for name, *values in rows}


@pytest.mark.parametrize("name", hostile.MAKERS)
def test_hostile_files_are_refused_before_memory_is_reserved(outcomes, name):
    result, seconds, megabytes = outcomes[name]
    if name in READ:
        assert result == "read"
    else:
        assert result.startswith("FOLDER/m.")
        assert "\n" not in result
        assert "; " in result
    assert len(result) < 600
    assert seconds < LONGEST
    assert megabytes < MOST


def test_a_chunk_that_is_not_there_gets_no_memory(outcomes):
    """HDF5 would first reserve 2 GB for it, and then raise "Can't read unprocessed chunk data"."""
    result, *_ = outcomes["hdf5_with_a_chunk_that_is_not_there"]
    assert "'/val' claims more bytes than the file has" in result


def test_a_gap_needs_a_layout(tmp_path):
    """In a record of fixed layout wfdb fails with "'NoneType' object has no attribute ..."."""
    seed = next(seed for seed in wfdb_other() if seed.main == "s.hea")
    for name, content in seed.files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="variable layout") as caught:
        read_ecg(tmp_path / "s.hea")
    assert "NoneType" not in str(caught.value)


def test_gaps_of_variable_layout_are_read(tmp_path):
    seed = next(seed for seed in wfdb_other() if seed.main == "v.hea")
    for name, content in seed.files.items():
        (tmp_path / name).write_bytes(content)
    signal = read_ecg(tmp_path / "v.hea").signal
    assert np.isnan(signal[0]).sum() == 30
    assert np.isnan(signal[0, 60:90]).all()


@pytest.mark.parametrize(("extra", "refused"), [(-1, True), (0, False), (1, False), (4, False), (5, True), (300, True)])
def test_format_212_has_the_length_in_its_header(tmp_path, extra, refused):
    """Four bytes may follow, as writers fill up the last group of samples."""
    (tmp_path / "r.hea").write_text("r 2 500 60\nr.dat 212 200 12 0 0 0 0 I\nr.dat 212 200 12 0 0 0 0 II\n")
    (tmp_path / "r.dat").write_bytes(b"\1" * (180 + extra))
    if not refused:
        assert read_ecg(tmp_path / "r.hea").samples == 60
        return
    with pytest.raises(UserError, match=f"{180 + extra} bytes, but 60 samples per lead need 180"):
        read_ecg(tmp_path / "r.hea")


def test_scales_too_far_apart_for_common_counts(tmp_path):
    (tmp_path / "r.hea").write_text("r 2 500 3\nr.dat 16 1e-30 16 0 0 0 0 I\nr.dat 16 1e30 16 0 0 0 0 II\n")
    np.arange(1, 7, dtype="<i2").tofile(tmp_path / "r.dat")
    recording = read_ecg(tmp_path / "r.hea")
    assert recording.stored is None
    np.testing.assert_allclose(recording.signal[2], -recording.signal[0], rtol=1e-12)


@pytest.mark.parametrize("leads", ["9" * 5000, "\u00b2", "I," + "x" * 5000, [10**5000], "I,I," * 1000], ids=range(5))
def test_unknown_lead_names_are_refused(tmp_path, leads):
    np.save(tmp_path / "r.npy", np.zeros((1, 5)))
    with pytest.raises(UserError) as caught:
        read_ecg(tmp_path / "r.npy", sample_rate=500, leads=leads)
    assert len(str(caught.value)) < 500
