"""Criterions on labels: unknown ones take no part, weights, what is logged."""

import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from fairseq_signals_ext.criterions.binary_cross_entropy_with_logits import (
    BinaryCrossEntropyWithLogitsConfig,
    BinaryCrossEntropyWithLogitsCriterion,
)
from fairseq_signals_ext.criterions.regression import RegressionConfig, RegressionCriterion


class Given:
    """A model whose outputs are given."""

    def __init__(self, outputs):
        self.outputs = outputs

    def __call__(self):
        return {"out": self.outputs}

    def get_logits(self, net_output):
        return net_output["out"]

    def get_targets(self, sample, net_output):
        return sample["label"].float()


def bce(**options):
    return BinaryCrossEntropyWithLogitsCriterion(BinaryCrossEntropyWithLogitsConfig(**options), task=None)


def run(criterion, outputs, labels, **options):
    return criterion(Given(outputs), {"net_input": {}, "label": labels}, **options)


def batch(segments=40, labels=4, unknown=0.3, seed=0):
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.normal(size=(segments, labels))).float().requires_grad_()
    values = rng.integers(0, 2, (segments, labels)).astype(float)
    values[rng.random((segments, labels)) < unknown] = np.nan
    return outputs, torch.from_numpy(values)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    unknown=st.sampled_from([0.0, 0.5, 1.0]),
    kind=st.sampled_from(["cross_entropy", "focal", "asymmetric"]),
)
def test_unknown_labels_take_no_part(seed, unknown, kind):
    """Loss, gradient and counts are those of the known labels alone, whatever the model says of the others."""
    outputs, labels = batch(seed=seed, unknown=unknown)
    known = ~labels.isnan()
    criterion = bce(loss=kind, pos_weight=[1.0, 2.0, 3.0, 4.0])
    loss, sample_size, log = run(criterion, outputs, labels)
    loss.backward()
    assert sample_size == int(known.sum()) == log["sample_size"]
    assert not outputs.grad[~known].any()
    assert torch.isfinite(outputs.grad).all() and torch.isfinite(loss)
    other = torch.where(known, outputs.detach(), outputs.detach() + 100)
    again, _, other_log = run(criterion, other, labels)
    torch.testing.assert_close(loss.detach(), again)
    assert {key: log[key] for key in log if key != "scores"} == pytest.approx(
        {key: other_log[key] for key in other_log if key != "scores"}
    )


def test_loss_is_torch_s_over_known_labels():
    outputs, labels = batch()
    known, weight = ~labels.isnan(), torch.tensor([1.0, 2.0, 3.0, 4.0])
    loss, *_ = run(bce(pos_weight=weight.tolist(), weight=[1, 0.5, 2, 1]), outputs, labels)
    each = F.binary_cross_entropy_with_logits(outputs, labels.nan_to_num().float(), pos_weight=weight, reduction="none")
    expected = (each * torch.tensor([1, 0.5, 2, 1]))[known].sum()
    torch.testing.assert_close(loss, expected)


def test_counts_are_scikit_learn_s():
    outputs, labels = batch()
    known = ~labels.isnan()
    criterion = bce(threshold=0.4)
    *_, log = run(criterion, outputs, labels)
    found = (torch.sigmoid(outputs.detach().double()) >= 0.4)[known]
    assert log["correct"] / log["count"] == pytest.approx(accuracy_score(labels[known], found))
    f1 = 2 * log["tp"] / (2 * log["tp"] + log["fp"] + log["fn"])
    assert f1 == pytest.approx(f1_score(labels[known], found))
    whole = known.all(1)
    right = ((torch.sigmoid(outputs.double()) >= 0.4) == (labels == 1)).all(1) & whole
    assert (log["exact"], log["items"]) == (int(right.sum()), int(whole.sum())) and log["items"] > 0


def test_scores_are_for_evaluation_only():
    outputs, labels = batch()
    criterion = bce()
    assert "scores" not in run(criterion.train(), outputs, labels)[2]
    scores = run(criterion.eval(), outputs, labels)[2]["scores"]
    assert scores.dtype == torch.float64
    # in float32 all of these would be 1, and their order lost
    sure = torch.tensor([[20.0, 25.0, 30.0, 35.0]])
    scores = run(criterion, sure, torch.ones(1, 4))[2]["scores"][0]
    assert (scores.diff() > 0).all()


def test_without_reduction_losses_are_those_of_the_labels():
    outputs, labels = batch()
    losses, *_ = run(bce(), outputs, labels, reduce=False)
    assert losses.shape == labels.shape and not losses[labels.isnan()].any()


def test_half_precision_leaves_weights_and_loss_exact():
    outputs, labels = batch()
    criterion = bce(pos_weight=[9.71429, 2, 3, 4])
    expected, *_ = run(criterion, outputs.detach().bfloat16().float(), labels)
    found, *_ = run(criterion.bfloat16(), outputs.detach().bfloat16(), labels)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["mse", "mae"])
def test_regression_is_in_units_of_the_training_set_s_spread(kind):
    task = types.SimpleNamespace(target_scale=lambda: ((60.0, 120.0), (15.0, 20.0)))
    criterion = RegressionCriterion(RegressionConfig(loss=kind), task)
    outputs, labels = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[75.0, float("nan")], [60.0, 160.0]])
    loss, sample_size, log = run(criterion.eval(), outputs, labels.double())
    assert sample_size == 3
    assert float(loss) == pytest.approx({"mse": 0 + 4 + 1, "mae": 0 + 2 + 1}[kind])
    assert log["scores"].tolist() == [[75.0, 120.0], [90.0, 140.0]]
