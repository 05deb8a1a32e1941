"""The average of weights that fairseq keeps (EMA): in checkpoints, gone on with, and usable."""

import numpy as np
import pytest
import torch
from fairseq.checkpoint_utils import save_ema_as_checkpoint
from fine_tuning import CONFIGS, SMALL_RUN
from in_process import saved, train_here
from made_up import write_label_file, write_shards
from running import SMALL

import fairseq_signals_ext

AVERAGE = ["++ema.store_ema=true", "++ema.ema_decay=0.9", "optimization.lr=[0.01]", "++ema.ema_fp32=true"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid"):
        write_shards(folder, [5000] * 8, split=split)
    write_label_file(folder / "labels", np.random.default_rng(0).integers(0, 2, (8, 2)).astype(float))
    return folder


def pretrain(data, out, epochs, *overrides):
    return train_here(data, out, *SMALL, f"++optimization.max_epoch={epochs}", *overrides)


@pytest.mark.slow
def test_a_resumed_average_equals_an_unbroken_one(data, tmp_path):
    whole = saved(pretrain(data, tmp_path / "whole", 2, *AVERAGE))
    pretrain(data, tmp_path / "broken", 1, *AVERAGE)
    broken = saved(pretrain(data, tmp_path / "broken", 2, *AVERAGE))
    averages, resumed = whole["extra_state"]["ema"], broken["extra_state"]["ema"]
    assert averages.keys() == whole["model"].keys()
    assert not all(torch.equal(value, whole["model"][name]) for name, value in averages.items())
    assert all(torch.equal(value, resumed[name]) for name, value in averages.items())


@pytest.mark.slow
def test_an_average_that_is_not_there_is_no_traceback(data, tmp_path):
    pretrain(data, tmp_path / "run", 1)
    with pytest.raises(SystemExit, match="checkpoint_last.pt: has no average of weights.*ema.store_ema=false"):
        pretrain(data, tmp_path / "run", 2, *AVERAGE)


def test_the_average_of_a_classifier_can_be_used(data, tmp_path):
    pretrained = pretrain(data, tmp_path / "pretrained", 1, "++optimization.max_update=1") / "checkpoint_last.pt"
    options = [f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}", *SMALL_RUN, *AVERAGE]
    folder = train_here(data, tmp_path / "run", *options, "++optimization.max_epoch=2", configs=CONFIGS)
    save_ema_as_checkpoint(str(folder / "checkpoint_last.pt"), str(tmp_path / "average.pt"))
    signal = np.random.default_rng(0).normal(size=(12, 2500))
    models = [fairseq_signals_ext.load(path) for path in (folder / "checkpoint_last.pt", tmp_path / "average.pt")]
    first, second = (model.predict(signal, sample_rate=500).scores for model in models)
    assert np.isfinite(second).all() and abs(first - second).max() > 1e-6
