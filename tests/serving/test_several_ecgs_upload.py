"""An upload with several ECGs: the answer has their number and a hint."""

import shutil

import numpy as np
import pytest

from fairseq_signals_ext.serving.limits import Limits, UploadError
from fairseq_signals_ext.serving.reading import read_upload
from fairseq_signals_ext.serving.upload import Upload


def test_several_ecgs_are_reported(tmp_path):
    signal = np.random.default_rng(0).normal(0, 0.3, (2, 12, 2000))
    np.save(tmp_path / "0.npy", signal)
    upload = Upload(tmp_path, {"0.npy": "ecgs.npy"}, sample_rate=500.0)
    with pytest.raises(UploadError) as caught:
        read_upload(upload, Limits(), 500.0)
    assert upload.in_senders_words(str(caught.value)) == "ecgs.npy: contains 2 ECGs; send each as a file of its own"
    np.save(tmp_path / "0.npy", signal[:1])
    assert read_upload(upload, Limits(), 500.0).recording.samples == 2000


@pytest.mark.parametrize("name", ["dicom/d30_15leads_halves.dcm", "muse/m06_two_rhythm_halves.xml"])
def test_files_of_devices_with_two_ecgs_are_reported(tmp_path, cases, name):
    shutil.copy(cases / name, tmp_path / "0")
    with pytest.raises(UploadError, match="contains 2 ECGs; send each as a file of its own"):
        read_upload(Upload(tmp_path, {"0": "ecg"}), Limits(), 500.0)
