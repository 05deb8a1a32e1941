"""Calibrated probabilities and decisions: error rates are kept, probabilities equal scikit-learn's."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import beta, binom
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.calibrating import LEAST_PATIENTS, Wanted, calibrate_labels
from fairseq_signals_ext.evaluation.calibration import expected_calibration_error
from fairseq_signals_ext.evaluation.decisions import Calibration, LabelCalibration, calibration_of, log_odds
from fairseq_signals_ext.evaluation.predictions import Predictions


def made_up(number: int, seed: int, patients: int = 0, share: float = 0.3) -> Predictions:
    """Scores with log odds that are too large by half and too high by 1, as with `pos_weight`."""
    rng = np.random.default_rng(seed)
    target = rng.random(number) < share
    odds = rng.normal(2.0 * target - 1.0, 1.0) * 2 + np.log(share / (1 - share))
    patient = rng.integers(patients, size=number) if patients else np.arange(number)
    score = expit(1.5 * odds + 1)
    return Predictions(score[:, None], target[:, None].astype(float), np.arange(number), patient, ("A",))


@pytest.mark.slow
def test_error_rates_hold_on_average_as_in_theory():
    """Over many calibrations: the mean rate is k / (n + 1), with the spread of the beta distribution."""
    missed, alarmed, expected = [], [], []
    for seed in range(300):
        one = calibrate_labels(made_up(300, seed), Wanted(miss=0.05, false_alarm=0.2))[0]
        new = made_up(4000, 10_000 + seed)
        decided, target = one.decisions(new.scores[:, 0]), new.targets[:, 0] == 1
        missed.append((decided[target] == 0).mean())
        alarmed.append((decided[~target] == 2).mean())
        rank = int(0.05 * (one.positives + 1))
        expected.append([rank / (one.positives + 1), beta.std(rank, one.positives + 1 - rank)])
    mean, deviation = np.mean(expected, axis=0)
    assert np.mean(missed) <= 0.05 + 4 * deviation / np.sqrt(300)
    assert abs(np.mean(missed) - mean) < 4 * deviation / np.sqrt(300)
    assert np.mean(alarmed) <= 0.2 + 0.01
    assert np.mean(alarmed) > 0.15


def test_scores_that_separate_leave_nothing_uncertain():
    score = np.r_[np.linspace(0.01, 0.4, 60), np.linspace(0.6, 0.9, 60)]
    target = np.arange(120) >= 60
    separate = Predictions(score[:, None], target[:, None].astype(float), np.arange(120), np.arange(120), ("A",))
    one = calibrate_labels(separate, Wanted())[0]
    assert one.low == one.high
    assert one.decisions(score).tolist() == (2 * target).tolist()


def test_patients_count_once():
    """One patient with a thousand positive recordings changes nothing but by one recording of hers."""
    few = made_up(400, 1)
    many = Predictions(
        np.r_[few.scores, np.full((1000, 1), 0.001)],
        np.r_[few.targets, np.ones((1000, 1))],
        np.arange(1400),
        np.r_[few.patient, np.full(1000, 10_000)],
        ("A",),
    )
    alone, beside = (calibrate_labels(one, Wanted())[0] for one in (few, many))
    assert beside.positives == alone.positives + 1
    positive = np.sort(few.scores[few.targets[:, 0] == 1, 0])
    assert alone.low in positive and beside.low in positive
    assert abs(np.searchsorted(positive, alone.low) - np.searchsorted(positive, beside.low)) <= 1


def test_probabilities_are_of_scikit_learn():
    data = made_up(2000, 3)
    score, target = data.scores[:, 0], data.targets[:, 0]
    grid = np.linspace(0.001, 0.999, 200)
    platt = LogisticRegression(C=np.inf).fit(log_odds(score)[:, None], target)
    ours = LabelCalibration(method="platt", slope=float(platt.coef_[0, 0]), intercept=float(platt.intercept_[0]))
    np.testing.assert_allclose(ours.probabilities(grid), platt.predict_proba(log_odds(grid)[:, None])[:, 1], atol=1e-12)
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(score, target)
    knots = {"knots": tuple(isotonic.X_thresholds_), "values": tuple(isotonic.y_thresholds_)}
    np.testing.assert_allclose(
        LabelCalibration(method="isotonic", **knots).probabilities(grid), isotonic.predict(grid), atol=1e-12
    )


def test_probabilities_are_calibrated():
    one = calibrate_labels(made_up(3000, 4), Wanted())[0]
    new = made_up(20_000, 5)
    before = expected_calibration_error(new.scores, new.targets)[0]
    after = expected_calibration_error(one.probabilities(new.scores[:, 0])[:, None], new.targets)[0]
    assert before > 0.05
    assert after < before / 3


def test_few_patients_promise_nothing(caplog):
    two = made_up(400, 6)
    rare = (np.arange(400) < 12).astype(float)
    both = Predictions(np.repeat(two.scores, 2, 1), np.c_[two.targets[:, 0], rare], two.idx, two.patient, ("A", "rare"))
    enough, few = calibrate_labels(both, Wanted())
    assert enough.miss == 0.05
    assert (few.low, few.high, few.miss, few.false_alarm, few.method) == (None, None, None, None, "shift")
    assert (few.decisions(two.scores[:, 0]) == 1).all()
    assert "rare: 12 patients with and 388 without it" in caplog.text
    with pytest.raises(UserError, match=f"no label has {LEAST_PATIENTS} patients with and without it .at most 12."):
        calibrate_labels(Predictions(two.scores, rare[:, None], two.idx, two.patient, ("rare",)), Wanted())


def test_one_class_gives_a_warning(caplog):
    two = made_up(400, 6)
    both = Predictions(
        np.repeat(two.scores, 2, 1), np.c_[two.targets[:, 0], np.ones(400)], two.idx, two.patient, ("A", "all")
    )
    assert calibrate_labels(both, Wanted())[1] == LabelCalibration(positives=400)
    assert "all: all known recordings are of one class" in caplog.text


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(80, 400), st.floats(0.02, 0.4), st.floats(0.02, 0.4))
def test_any_scores(seed, number, miss, false_alarm):
    """On the calibration's own recordings no more errors than were asked for; probabilities ascend with the score."""
    data = made_up(number, seed, share=0.45)
    try:
        one = calibrate_labels(data, Wanted(miss, false_alarm))[0]
    except UserError:
        return
    one.check()
    decided, target = one.decisions(data.scores[:, 0]), data.targets[:, 0] == 1
    assert (decided[target] == 0).mean() <= miss
    assert (decided[~target] == 2).mean() <= false_alarm
    probabilities = one.probabilities(np.linspace(0, 1, 100))
    assert (np.diff(probabilities) >= 0).all()
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    kept = Calibration((one,), None, {"seed": 1})
    assert calibration_of(json.loads(json.dumps(kept.as_plain()))) == kept


def test_a_new_patient_is_missed_as_seldom_as_promised():
    """Of one new positive patient for each of 2,000 calibrations, within the band of the binomial distribution."""
    missed = 0
    for seed in range(2000):
        scores = np.random.default_rng(seed).random(100)
        target = np.r_[np.ones(50), np.zeros(50)]
        data = Predictions(scores[:, None], target[:, None], np.arange(100), np.arange(100), ("A",))
        low = _low_of(data)
        missed += low is not None and np.random.default_rng(seed + 10**6).random() < low
    assert missed <= binom.ppf(0.999, 2000, 0.1)
    assert missed >= binom.ppf(0.001, 2000, 5 / 51)


def _low_of(data: Predictions):
    from fairseq_signals_ext.evaluation import calibrating

    known = calibrating._Known(data.scores[:, 0], data.targets[:, 0] == 1, data.patient)
    # without `high`, so that the two never meet
    return calibrating._thresholds(known, Wanted(miss=0.1, false_alarm=0.0))[0]


@pytest.mark.parametrize(
    "plain", [{}, {"labels": [{"method": "platt", "unknown": 1}], "refusal": None, "provenance": {}}, {"labels": 3}]
)
def test_other_content_is_refused(plain):
    with pytest.raises(UserError, match="calibrate again"):
        calibration_of(plain)


@pytest.mark.parametrize(
    "wrong",
    [{"method": "magic"}, {"slope": float("nan")}, {"knots": (1.0,), "method": "isotonic"}, {"low": 0.5, "high": 0.4}],
)
def test_inconsistent_values_are_refused(wrong):
    with pytest.raises(UserError, match="calibrat"):
        LabelCalibration(**wrong).check()
