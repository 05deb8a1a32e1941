"""Losses against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from fairseq_signals_ext.criterions.binary_cross_entropy_with_logits import asymmetric_loss, focal_loss

LOGITS = torch.linspace(-6, 6, 25, dtype=torch.float64).repeat(2)
TARGETS = torch.cat([torch.ones(25), torch.zeros(25)]).double()
P = torch.sigmoid(LOGITS)
P_TRUE = torch.where(TARGETS == 1, P, 1 - P)


def test_focal_is_its_definition():
    torch.testing.assert_close(focal_loss(LOGITS, TARGETS, 2.0), -((1 - P_TRUE) ** 2) * torch.log(P_TRUE))


def test_focal_without_focus_is_cross_entropy():
    weight = torch.tensor(3.0, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(LOGITS, TARGETS, reduction="none", pos_weight=weight)
    torch.testing.assert_close(focal_loss(LOGITS, TARGETS, 0.0, weight), expected)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_asymmetric_is_its_definition(clip):
    shifted = (P - clip).clamp(min=0)
    expected = torch.where(TARGETS == 1, -((1 - P) ** 1.5) * torch.log(P), -(shifted**4.0) * torch.log(1 - shifted))
    torch.testing.assert_close(asymmetric_loss(LOGITS, TARGETS, 1.5, 4.0, clip), expected)


def test_asymmetric_ignores_easy_negatives():
    easy = torch.tensor([-4.0], requires_grad=True)
    loss = asymmetric_loss(easy, torch.zeros(1), 0.0, 4.0, 0.05)
    loss.sum().backward()
    assert loss.item() == 0 and easy.grad.item() == 0


def test_asymmetric_without_focus_and_clip_is_cross_entropy():
    weight = torch.tensor(3.0, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(LOGITS, TARGETS, reduction="none", pos_weight=weight)
    torch.testing.assert_close(asymmetric_loss(LOGITS, TARGETS, 0.0, 0.0, 0.0, weight), expected)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_sure_and_wrong_stays_finite(logit):
    logits = torch.tensor([logit, logit], requires_grad=True)
    targets = torch.tensor([0.0, 1.0])
    for loss in (focal_loss(logits, targets, 2.0), asymmetric_loss(logits, targets, 1.0, 4.0, 0.0)):
        loss.sum().backward()
        assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
        logits.grad = None


@pytest.mark.parametrize("logit", [-200.0, -20.0, 20.0, 200.0])
def test_sure_and_right_with_little_focus_stays_finite(logit):
    logits, targets = torch.tensor([logit], requires_grad=True), torch.tensor([float(logit > 0)])
    for loss in (focal_loss(logits, targets, 0.5), asymmetric_loss(logits, targets, 0.5, 0.5, 0.0)):
        loss.sum().backward()
        assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
        logits.grad = None
