"""Refusal: distances are scipy's, the share that is refused is the one that was asked for, reasons are words."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.calibrating import Seen, fit_refusal
from fairseq_signals_ext.evaluation.decisions import Calibration, calibration_of
from fairseq_signals_ext.evaluation.refusal import Refusal
from fairseq_signals_ext.prepared.signal_shape import SignalShape


def seen(number: int, seed: int, wide: int = 24, **changed) -> Seen:
    embeddings = np.random.default_rng(seed).normal(size=(number, wide)) * np.linspace(3, 0.1, wide)
    shapes = np.random.default_rng(seed + 1000).normal(size=(number, 2)) * [0.4, 1] + [-2, 2]
    facts = (np.arange(number), np.full(number, 10.0), np.zeros(number, int), [()] * number)
    alike = Seen(embeddings, *facts, shapes)
    return alike._replace(**changed)


def test_distances_are_of_scipy():
    """With fewer dimensions than directions are kept, but one, it is the Mahalanobis distance itself."""
    training, new = seen(300, 1).embeddings, seen(50, 2).embeddings
    refusal = fit_refusal(seen(300, 3), 0.05, training)
    covariance, _ = ledoit_wolf(training)
    inverse = np.linalg.inv(covariance)
    expected = np.array([mahalanobis(one, training.mean(axis=0), inverse) for one in new])
    found = np.exp((refusal.distances(new) * refusal.spread + refusal.center) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("with_training", [True, False])
def test_the_requested_share_is_refused(with_training):
    training = seen(2000, 4).embeddings if with_training else None
    shares = []
    for seed in range(20):
        refusal = fit_refusal(seen(400, 10 + seed), 0.05, training)
        new = seen(2000, 100 + seed)
        shares.append((refusal.scores(new.embeddings, new.shapes).max(axis=1) > refusal.threshold).mean())
    assert 0.035 < np.mean(shares) < 0.06
    assert (refusal.distances(seen(500, 5).embeddings + 3) > refusal.threshold).mean() > 0.9


def test_rules_count_among_those_refused():
    """Ten of 400 recordings lack a lead, which is half of the share: distances refuse the other half."""
    missing = np.zeros(400, int)
    missing[:10] = 3
    refusal = fit_refusal(seen(400, 6, missing=missing), 0.05, seen(2000, 4).embeddings)
    assert refusal.most_missing == 0
    scores = refusal.scores(seen(400, 6).embeddings[10:], seen(400, 6).shapes[10:]).max(axis=1)
    refused = (scores > refusal.threshold).sum() + 10
    assert refused <= 0.05 * 400 + 1


def test_reasons():
    clipped = [("clipped",)] * 100 + [()] * 300
    refusal = fit_refusal(seen(400, 7, flags=clipped), 0.05)
    usual = np.zeros(24)
    assert refusal.verdict(usual, 10, 0, ("clipped",)).reason is None
    assert refusal.verdict(usual, 10, 0, ("einthoven",)).reason == "its limb leads do not follow from each other"
    assert refusal.verdict(usual, 10, 1, ("filled", "short")).reason == "1 lead is missing"
    assert refusal.verdict(usual, 4, 0, ()).reason == "it has 4 s, less than 10 s"
    far = refusal.verdict(usual + 100, 10, 0, ())
    assert far.reason.startswith("unlike the ECGs that the model knows (score ")
    for shape, told in (
        (SignalShape(5, 2), "its waves are unusually steep or slow (is the sample rate right?) (score "),
        (SignalShape(-9, 2), "its waves are unusually steep or slow"),
        (SignalShape(-2, -9), "its leads point the wrong way (is the signal upside down?) (score "),
    ):
        assert refusal.verdict(usual, 10, 0, (), shape).reason.startswith(told)
    assert refusal.verdict(usual, 10, 0, (), SignalShape(-2, 9)).reason is None
    assert refusal.verdict(usual, 4, 1, ("filled",)).score > refusal.verdict(usual, 4, 0, ()).score > refusal.threshold


def test_it_travels_as_json():
    refusal = fit_refusal(seen(400, 8, wide=60), 0.02)
    kept = calibration_of(json.loads(json.dumps(Calibration((), refusal).as_plain()))).refusal
    new = seen(100, 9, wide=60).embeddings
    assert kept == refusal
    shapes = seen(100, 9).shapes
    assert (kept.scores(new, shapes) == refusal.scores(new, shapes)).all()
    assert (len(kept.steepness), len(kept.polarity)) == (3, 2)
    kept.check()


def test_a_refusal_without_measures_of_the_signal():
    """As calibrations had it before there were these measures, and where they are not known."""
    plain = Calibration((), fit_refusal(seen(400, 8), 0.02)).as_plain()
    for name in ("steepness", "polarity"):
        del plain["refusal"][name]
    older = calibration_of(json.loads(json.dumps(plain))).refusal
    older.check()
    assert older.verdict(np.zeros(24), 10, 0, (), SignalShape(50, -50)).reason is None
    unknown = fit_refusal(seen(400, 8, shapes=np.full((400, 2), np.nan)), 0.02)
    assert unknown.steepness == unknown.polarity == ()
    assert fit_refusal(seen(400, 8), 0.02).verdict(np.zeros(24), 10, 0, ()).reason is None


def test_constant_embeddings_give_a_refusal_that_holds_together():
    fit_refusal(seen(100, 1, embeddings=np.zeros((100, 8))), 0.05).check()


def test_too_few():
    with pytest.raises(UserError, match="59 recordings are too few to refuse 5.00%; calibrate on 60 or more"):
        fit_refusal(seen(59, 1), 0.05)
    with pytest.raises(UserError, match="calibrate on 1000 or more"):
        fit_refusal(seen(100, 1), 0.001)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"mean": ("?",)}, {"variances": ()}, {"spread": 0.0}, {"residual": float("nan")}),
        *({"steepness": (1.0,)}, {"steepness": (1.0, 0.0, 1.0)}, {"polarity": (float("nan"), 1.0)}),
    ],
)
def test_damaged_content_is_refused(wrong):
    refusal: Refusal = dataclasses.replace(fit_refusal(seen(100, 1), 0.05), **wrong)
    with pytest.raises(UserError, match="calibrate again"):
        refusal.check()
