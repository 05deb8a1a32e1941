"""Checkpoints are read without running anything that is in them."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch

from fairseq_signals_ext.checkpoints.reading import read_checkpoint, with_own_architecture
from fairseq_signals_ext.common.errors import UserError


class Evil:
    def __init__(self, function, argument):
        self.what = (function, (argument,))

    def __reduce__(self):
        return self.what


def state(**extra):
    """A small checkpoint of a pretraining."""
    first = {"feature_extractor.conv_layers.0.0.weight": torch.zeros(4, 12, 2)}
    return {"model": first, "cfg": {"model": {"_name": "wav2vec2_cmsc"}, "task": {"_name": "ecg_pretraining"}}, **extra}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("function", [print, eval, os.system, os.mkdir])
def test_what_would_run_code_is_not_made(tmp_path, function):
    path = saved(tmp_path / "evil.pt", state(extra_state=Evil(function, str(tmp_path / "executed"))))
    with pytest.raises(UserError, match=f"evil.pt: holds more than data .*{function.__name__}.*which could run code"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_plain_pickle_is_refused(tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(state(extra_state=Evil(os.mkdir, str(tmp_path / "executed")))))
    with pytest.raises(UserError, match="evil.pt: "):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_numbers_of_numpy_and_namespaces_are_data(tmp_path):
    extra = {"val_loss": np.float64(0.25), "best": np.float32(0.5), "updates": np.int64(7)}
    checkpoint = read_checkpoint(saved(tmp_path / "a.pt", state(extra_state=extra, args=argparse.Namespace(seed=1))))
    assert checkpoint.state["extra_state"] == extra
    assert checkpoint.state["args"].seed == 1


def test_numbers_of_numpy_1_are_data(tmp_path, monkeypatch):
    """numpy 1 called its module otherwise, and so do the files that it wrote."""
    path = saved(tmp_path / "a.pt", state(extra_state={"best": np.float64(0.25)}), pickle_protocol=2)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    import zipfile

    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert read_checkpoint(tmp_path / "b.pt").state["extra_state"]["best"] == 0.25


@pytest.mark.parametrize("kept, told", [(0, "empty"), (1, "a text"), (100, "damaged or cut short"), (-1, "damaged or")])
def test_cut_short(tmp_path, kept, told):
    path = saved(tmp_path / "a.pt", state())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=f"a.pt: is {told}.*; "):
        read_checkpoint(path)


def test_old_file_format(tmp_path):
    path = saved(tmp_path / "a.pt", state(), _use_new_zipfile_serialization=False)
    assert list(read_checkpoint(path).parameters) == ["feature_extractor.conv_layers.0.0.weight"]


@pytest.mark.parametrize(
    "content, told",
    [
        ([1, 2], "it has no 'model'"),
        ({"state_dict": {}}, "it has no 'model'"),
        ({"model": {}}, "its 'model' is not made of tensors"),
        ({"model": {"a": 3}}, "its 'model' is not made of tensors"),
        ({"model": {"a": torch.zeros(1)}}, "it has no config"),
        ({"model": {"a": torch.zeros(1)}, "cfg": {"model": 3}}, "it has no config"),
    ],
)
def test_other_contents(tmp_path, content, told):
    with pytest.raises(UserError, match=f"a.pt: not a checkpoint of .*{told}"):
        read_checkpoint(saved(tmp_path / "a.pt", content))


def test_audio_model(tmp_path):
    audio = state()
    audio["model"] = {"w2v_encoder.w2v_model.feature_extractor.conv_layers.0.0.weight": torch.zeros(4, 1, 10)}
    with pytest.raises(UserError, match="a.pt: is fairseq's audio wav2vec 2.0"):
        read_checkpoint(saved(tmp_path / "a.pt", audio))


def test_one_lead_is_no_audio(tmp_path):
    one = state()
    one["model"] = {"feature_extractor.conv_layers.0.0.weight": torch.zeros(4, 1, 2)}
    one["cfg"]["model"]["in_d"] = 1
    assert read_checkpoint(saved(tmp_path / "a.pt", one)).model_config["in_d"] == 1


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere.pt: no such checkpoint; fix it"):
        read_checkpoint(tmp_path / "nowhere.pt", "fix it")
    with pytest.raises(UserError, match="is a folder; give a file in it"):
        read_checkpoint(tmp_path)


def test_architecture_of_the_pretrained_file_counts():
    fine_tuned = {"_name": "ecg_transformer_classifier", "encoder_layers": 12, "dropout": 0.0, "num_labels": 17}
    pretrained = {"encoder_layers": 4, "layer_norm_first": True, "dropout": 0.1, "num_negatives": 100}
    found = with_own_architecture({**fine_tuned, "args": {"model": pretrained, "criterion": None}})
    assert found == {**fine_tuned, "encoder_layers": 4, "layer_norm_first": True}
    assert with_own_architecture({**fine_tuned, "args": None}) == fine_tuned
