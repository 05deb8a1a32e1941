"""The attention head: it is the classifier's, in another order, and tells what single frames say."""

import numpy as np
import pytest
import torch
from made_up_benchmark import benchmark, write_labelled

from fairseq_signals_ext.benchmarking.attention_probe import AttentionProbe
from fairseq_signals_ext.benchmarking.cross_fitting import fast_auroc
from fairseq_signals_ext.benchmarking.folds import TEST, TRAIN, VALID
from fairseq_signals_ext.benchmarking.targets import known_of
from fairseq_signals_ext.benchmarking.task_files import read_task
from fairseq_signals_ext.benchmarking.trained_probes import Crops, Training, train_probe


def test_it_gives_what_the_classifiers_pooling_gives():
    torch.manual_seed(1)
    probe = AttentionProbe(24, 3, heads=8).double()
    x, padding = torch.randn(5, 7, 24).double(), torch.arange(7) >= torch.tensor([7, 3, 1, 5, 7])[:, None]
    for mask in (None, padding):
        assert torch.allclose(probe(x, mask), probe.output(probe.pooling(x, mask)), atol=1e-12)


def test_heads_divide_the_dimensions():
    assert AttentionProbe(24, 1, heads=16).pooling.heads == 8


def test_it_finds_the_frame_that_tells(tmp_path):
    write_labelled(tmp_path)
    known = known_of(tmp_path, read_task("ptbxl-super"))
    rng = np.random.default_rng(1)
    frames = rng.normal(size=(240, 12, 16)).astype(np.float16)
    lengths = rng.integers(6, 13, 240)
    where = rng.integers(0, lengths)
    frames[np.arange(240), where, 5:10] += 3 * known.targets.astype(np.float16)
    frames[np.arange(240), where, 10] += 6
    part = np.where(np.arange(240) < 160, TRAIN, np.where(np.arange(240) < 200, VALID, TEST))
    how = Training(epochs=60, rate=0.01)
    scores, _ = train_probe(Crops(frames, np.arange(240), lengths), known, part, seed=1, how=how)
    assert fast_auroc(scores[part == TEST], known.targets[part == TEST]).mean() > 0.7
    frames[np.arange(12) >= lengths[:, None]] = 100  # padding changes nothing
    again, _ = train_probe(Crops(frames, np.arange(240), lengths), known, part, seed=1, how=how)
    assert again == pytest.approx(scores, abs=1e-5, nan_ok=True)


def test_it_is_a_probe_of_a_benchmark(tmp_path):
    has = write_labelled(tmp_path / "data")
    found = benchmark(
        tmp_path / "data", tmp_path / "out", has, ["ptbxl-super"], probes=("attention",), protocol="iclr2026"
    )
    assert found.macro("ptbxl-super", "attention")["told"].point > 0.6
