"""MATLAB files: text and structs of every version, CPSC 2018's struct, and damage that is one line."""

import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import write_mat_7_3

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import read_ecg, read_ecgs
from fairseq_signals_ext.readers.matlab import MatFile

SIGNAL = np.random.default_rng(0).normal(size=(12, 400))
STRUCT = {"sex": "Male", "age": 74.0, "data": SIGNAL}


def save_5(path, content):
    scipy.io.savemat(path, content)


def save_5_compressed(path, content):
    scipy.io.savemat(path, content, do_compression=True)


def save_7_3(path, content):
    write_mat_7_3(path, **content)


SAVERS = [save_5, save_5_compressed, save_7_3]


def opened(path, save):
    return MatFile(path)


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("text", ["p7", "Müller", "患者", "a" * 300, "MALE"])
def test_text(tmp_path, save, text):
    save(tmp_path / "r.mat", {"who": text, "signal": SIGNAL})
    with opened(tmp_path / "r.mat", save) as file:
        assert (file.texts, set(file.shapes)) == ({"who"}, {"signal"})
        assert file.written("who") == text
        np.testing.assert_array_equal(file.read("signal"), SIGNAL)


def test_text_of_version_4(tmp_path):
    scipy.io.savemat(tmp_path / "r.mat", {"who": "p7", "signal": SIGNAL}, format="4")
    with MatFile(tmp_path / "r.mat") as file:
        assert (file.written("who"), file.shapes) == ("p7", {"signal": (12, 400)})


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("order", [["sex", "age", "data"], ["data", "age", "sex"]])
def test_struct(tmp_path, save, order):
    save(tmp_path / "r.mat", {"before": 1.0, "ECG": {name: STRUCT[name] for name in order}, "after": SIGNAL[:3]})
    with opened(tmp_path / "r.mat", save) as file:
        assert (file.written("ECG.sex"), file.written("ECG.age"), file.written("ECG.no")) == ("Male", 74, None)
        np.testing.assert_array_equal(file.read("ECG.data"), SIGNAL)
        np.testing.assert_array_equal(file.read("after"), SIGNAL[:3])


@pytest.mark.parametrize("content", [[1.0, 2.0], np.array(["ab", "cd"]), np.array(["p", 3], object), {"a": 1}])
def test_several_values_are_one_line(tmp_path, content):
    scipy.io.savemat(tmp_path / "r.mat", {"patient_id": content, "val": SIGNAL})
    if isinstance(content, dict):  # a struct is another variable
        assert read_ecg(tmp_path / "r.mat", sample_rate=500).patient is None
        return
    with pytest.raises(UserError, match=r"r\.mat: cannot be read as a MATLAB file \('patient_id' is "):
        read_ecg(tmp_path / "r.mat", sample_rate=500)


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize(
    ("patient", "known"), [("p7", "p7"), (7.0, "7"), ("X X X X", None), (0.0, None), (123456.0, None)]
)
def test_the_patient_beside_the_signal(tmp_path, save, patient, known):
    save(tmp_path / "r.mat", {"feats": SIGNAL, "curr_sample_rate": 500.0, "patient_id": patient})
    (recording,) = read_ecgs(tmp_path / "r.mat")
    assert recording.patient == known


def test_cpsc_2018(cases):
    truth = np.load(cases / "mat" / "truth.npz")["truth"]
    recording = read_ecg(cases / "mat" / "t01_cpsc_struct.mat")
    np.testing.assert_allclose(recording.signal, truth, atol=2e-7)
    assert (recording.age, recording.sex, recording.sample_rate) == (74, "male", 500)
    assert recording.assumed == ("leads", "unit", "sample_rate")
    assert read_ecg(cases / "mat" / "t01_cpsc_struct.mat", sample_rate=500).assumed == ("leads", "unit")


@pytest.mark.parametrize("save", SAVERS)
def test_structs_like_cpscs(tmp_path, save):
    save(tmp_path / "r.mat", {"record": {**STRUCT, "sex": "F"}})
    with pytest.raises(UserError, match="its sample rate is missing"):
        read_ecg(tmp_path / "r.mat")
    recording = read_ecg(tmp_path / "r.mat", sample_rate=250)
    assert (recording.age, recording.sex, recording.sample_rate) == (74, "female", 250)
    np.testing.assert_array_equal(recording.signal, SIGNAL)


def test_a_struct_that_expands_to_more_than_a_file_can_hold(tmp_path):
    save_5_compressed(tmp_path / "r.mat", {"ECG": STRUCT})
    content = (tmp_path / "r.mat").read_bytes()
    expanded = bytearray(zlib.decompress(content[136:]))
    expanded[4:8] = (2**31 - 16).to_bytes(4, "little")
    packed = zlib.compress(bytes(expanded))
    (tmp_path / "r.mat").write_bytes(content[:132] + len(packed).to_bytes(4, "little") + packed)
    with pytest.raises(UserError, match="claims"):
        read_ecg(tmp_path / "r.mat", sample_rate=500)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_one_line_or_still_a_recording(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    save = data.draw(st.sampled_from(SAVERS))
    save(folder / "r.mat", {"ECG": {**STRUCT, "data": SIGNAL[:, :20]}, "patient_id": "p7"})
    content = bytearray((folder / "r.mat").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "r.mat").write_bytes(bytes(content[: data.draw(st.integers(200, len(content)))]))
    try:
        read_ecg(folder / "r.mat", sample_rate=500)
    except UserError as error:
        assert "\n" not in str(error)
