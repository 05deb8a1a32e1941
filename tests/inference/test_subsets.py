"""`evaluate` uses the same segments, targets and scores as fairseq's validation."""

import numpy as np
import pytest
import torch
from fairseq_batches import validated
from made_up import write_label_file, write_shards
from made_up_checkpoints import SAMPLES, made_up_checkpoint

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.export import export
from fairseq_signals_ext.inference.loading import load_model
from fairseq_signals_ext.inference.running import RunOptions
from fairseq_signals_ext.inference.subsets import Subset, predict_subset

LENGTHS = [5000, 400, 2500, 7600, 2499, 600]


def saved(path, kind="classification", **task):
    checkpoint = made_up_checkpoint(kind, path)
    checkpoint.state["cfg"]["task"].update(data=".", **task)
    # required by fairseq in a checkpoint
    history = [{"best_loss": 1.0, "optimizer_name": "FairseqAdam", "num_updates": 1, "lr_scheduler_state": {}}]
    extra = {"extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 1.0}, "last_optimizer_state": None}
    torch.save({**checkpoint.state, "optimizer_history": history, **extra}, path)
    return path


@pytest.fixture
def labels(tmp_path):
    write_shards(tmp_path, LENGTHS, patients=[f"p{row // 2}" for row in range(len(LENGTHS))], split="test")
    values = np.random.default_rng(0).integers(0, 2, (len(LENGTHS), 3)).astype(np.float32)
    values[1, 2] = np.nan
    return write_label_file(tmp_path / "labels", values, ["A", "B", "C"])


@pytest.mark.parametrize(
    "task, recordings",
    [
        ({}, 6),
        ({"enable_padding": False}, 3),
        ({"min_sample_size": 500}, 5),
        ({"normalize": True}, 6),
        ({"max_sample_size": None, "enable_padding_leads": True, "leads_to_load": "I,V1"}, 6),
        ({"segment_seconds": 1.0}, 6),
    ],
)
def test_segments_targets_and_scores_are_those_of_validation(labels, tmp_path, task, recordings):
    checkpoint = saved(tmp_path / "a.pt", **task)
    model = load_model(checkpoint)
    expected = validated(checkpoint, tmp_path, "test", labels)
    found = predict_subset(model, Subset(model, tmp_path, "test", str(labels)), RunOptions(batch_size=3))
    assert len(np.unique(found.idx)) == recordings
    for name in ("idx", "patient", "targets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("label_names", "kind", "aggregation", "exclusive", "label_file"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-6)


def test_a_regression(labels, tmp_path):
    checkpoint = saved(tmp_path / "a.pt", "regression")
    model = load_model(checkpoint)
    expected = validated(checkpoint, tmp_path, "test", labels)
    found = predict_subset(model, Subset(model, tmp_path, "test", str(labels)))
    np.testing.assert_array_equal(found.targets, expected.targets)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize("kind", ["safetensors", "torchscript", "onnx"])
def test_exports(labels, tmp_path, kind):
    checkpoint = saved(tmp_path / "a.pt", enable_padding=False)
    model, exported = load_model(checkpoint), load_model(export(checkpoint, kind, tmp_path / kind).folder)
    of_checkpoint, of_export = (
        predict_subset(one, Subset(one, tmp_path, "test", str(labels))) for one in (model, exported)
    )
    # the training's options show which recordings training drops
    drops = kind == "safetensors"
    assert len(np.unique(of_export.idx)) == (3 if drops else 6)
    kept = np.isin(of_export.idx, of_checkpoint.idx)
    np.testing.assert_array_equal(of_export.targets[kept], of_checkpoint.targets)
    np.testing.assert_allclose(of_export.scores[kept], of_checkpoint.scores, rtol=0, atol=1e-5)


def test_unusable_inputs_are_one_line(labels, tmp_path):
    model = load_model(saved(tmp_path / "a.pt"))
    with pytest.raises(UserError, match="no labels for these recordings; give --labels"):
        Subset(model, tmp_path, "test")
    with pytest.raises(UserError, match="no such manifest"):
        Subset(model, tmp_path, "other", str(labels))
    shard = next((tmp_path / "shards").glob("[0-9]*.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"idx 5 \(row 1\): checksum differs"):
        predict_subset(model, Subset(model, tmp_path, "test", str(labels)))
    pretrained = load_model(saved(tmp_path / "p.pt", "pretraining"))
    with pytest.raises(UserError, match="a pretrained model, which has no labels; fine-tune it"):
        Subset(pretrained, tmp_path, "test", str(labels))


def test_model_and_data_of_different_rates_are_refused(labels, tmp_path):
    model = load_model(saved(tmp_path / "a.pt", sample_rate=250.0))
    model.description.preprocessing.__dict__["sample_rate"] = 250.0
    with pytest.raises(UserError, match="500 Hz where 250 Hz is wanted"):
        predict_subset(model, Subset(model, tmp_path, "test", str(labels)))
    assert model.preprocessing.segment_samples == SAMPLES
