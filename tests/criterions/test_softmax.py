"""Criterion `softmax`: the loss that people expect, unknown classes, what is logged."""

import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_label_criterions import run

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.softmax import SoftmaxConfig, SoftmaxCriterion
from fairseq_signals_ext.evaluation.predictions import Predictions


def softmax(task=None, **options):
    return SoftmaxCriterion(SoftmaxConfig(**options), task)


def batch(segments=40, classes=4, unknown=0.3, seed=0):
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.normal(size=(segments, classes))).float().requires_grad_()
    targets = torch.from_numpy(np.eye(classes)[rng.integers(0, classes, segments)])
    targets[torch.from_numpy(rng.random(segments) < unknown)] = torch.nan
    return outputs, targets


@pytest.mark.parametrize("options", [{}, {"weight": [1, 2, 3, 4]}, {"label_smoothing": 0.1, "weight": [4, 1, 1, 1]}])
def test_the_loss_is_that_of_torch_on_the_known_rows(options):
    outputs, targets = batch()
    known = ~targets.isnan().any(1)
    loss, number, log = run(softmax(**options), outputs, targets)
    loss.backward()
    weight = torch.tensor(options["weight"]).float() if "weight" in options else None
    smoothing = options.get("label_smoothing", 0.0)
    expected = F.cross_entropy(
        outputs[known], targets[known].argmax(1), weight, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(loss, expected)
    assert number == int(known.sum()) == log["sample_size"] == log["count"]
    assert not outputs.grad[~known].any() and outputs.grad[known].abs().min() > 0
    assert log["correct"] == int((outputs.argmax(1) == targets.argmax(1))[known].sum())


def test_a_known_class_is_enough():
    """Of a row with a 1 the others are 0, whether that is said or not; without a 1 nothing is known."""
    outputs, _ = batch(3, 3)
    said = torch.tensor([[1.0, 0, 0], [0, 0, 1], [torch.nan] * 3])
    half = torch.tensor([[1.0, torch.nan, torch.nan], [0, torch.nan, 1], [0, torch.nan, torch.nan]])
    found = [run(softmax(), outputs, labels)[:2] for labels in (said, half)]
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1] == 2


def test_no_known_row_has_no_loss():
    outputs, targets = batch(unknown=1.0)
    loss, number, _ = run(softmax(), outputs, targets)
    loss.backward()
    assert loss == 0 and number == 0 and not outputs.grad.any()


def test_scores_are_probabilities_of_classes():
    outputs, targets = batch()
    criterion = softmax().eval()
    scores = run(criterion, outputs, targets)[2]["scores"]
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, outputs.detach().double().softmax(-1))


def test_validation_metrics_are_areas_of_the_classes():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 30)
    targets = np.eye(3)[rng.integers(0, 3, 30)]
    criterion = softmax(types.SimpleNamespace(label_names=("a", "b", "c")), per_label=True)
    numbers = np.arange(30)
    found = criterion.validation_metrics(Predictions(scores, targets, numbers, numbers, ("a", "b", "c")))
    assert set(criterion.metric_names()) <= set(found)
    assert found["auroc"] == pytest.approx(np.mean([found[f"auroc_{name}"] for name in "abc"]))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_that_cannot_be(smoothing):
    with pytest.raises(UserError, match="label_smoothing"):
        softmax(label_smoothing=smoothing)
