"""The bootstrap: a plain loop of scikit-learn over the same patients, and how often intervals and tests are right."""

import dataclasses
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_predictions import made_up_predictions, predictions_of
from scipy.integrate import quad
from scipy.special import expit, logit
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation import bootstrap as module
from fairseq_signals_ext.evaluation import metrics, resampling
from fairseq_signals_ext.evaluation.bootstrap import bootstrap, paired_difference
from fairseq_signals_ext.evaluation.resampling import interval, mirrored, p_value, patient_weights

SMALL = made_up_predictions(items=80, labels=3, per_patient=2, rates=[0.5, 0.2, 0.04])
THRESHOLDS = np.array([0.5, 0.4, 0.3])
FIELDS = ("scores", "targets", "idx", "patient")


def of_scikit_learn(metric, scores, targets, thresholds):
    """A metric of known items of one class or both; NaN without both."""
    known = ~np.isnan(targets)
    if len(set(targets[known])) < 2:
        return np.nan
    called = (scores >= thresholds)[known]
    return {
        "auroc": lambda: roc_auc_score(targets[known], scores[known]),
        "auprc": lambda: average_precision_score(targets[known], scores[known]),
        "f1": lambda: f1_score(targets[known], called),
        "sensitivity": lambda: recall_score(targets[known], called),
    }[metric]()


def of_items(made, metric, items):
    """Values of labels, macro and micro of items, which may occur several times."""
    scores, targets = made.scores[items], made.targets[items]
    labels = [of_scikit_learn(metric, s, t, at) for s, t, at in zip(scores.T, targets.T, THRESHOLDS)]
    every = np.broadcast_to(THRESHOLDS, scores.shape)
    return np.array([*labels, np.nanmean(labels), of_scikit_learn(metric, scores, targets, every)])


def plain_loop(made, metric, resamples, seed):
    """The same in each resample with items repeated as often as they were drawn."""
    patients = np.unique(made.patient)
    weights, rows = patient_weights(np.random.default_rng(seed), len(patients), resamples), []
    for drawn in weights.T:
        items = [
            item
            for patient, times in zip(patients, drawn)
            for item in np.flatnonzero(made.patient == patient)
            for _ in range(times)
        ]
        rows.append(of_items(made, metric, items))
    return np.array(rows)


def ranked_ends(drawn, one_side):
    """Of the defined values in each column, the one that `one_side` of them do not exceed, and its counterpart."""
    ends = []
    for column in drawn.T:
        values = sorted(value for value in column if not np.isnan(value))
        place = int((len(values) + 1) * one_side)
        ends.append((values[place - 1], values[-place]))
    return np.transpose(ends)


@pytest.mark.parametrize("metric", ["auroc", "auprc", "f1", "sensitivity"])
def test_intervals_mirror_a_plain_loop_on_the_logit_scale(metric):
    found = bootstrap(SMALL, resamples=60, seed=3, metrics=(metric,), thresholds=THRESHOLDS, confidence=0.9)
    low, high = ranked_ends(plain_loop(SMALL, metric, 60, 3), Fraction(1, 20))
    low, high, point = (logit((40 * x + 0.5) / 41) for x in (low, high, of_items(SMALL, metric, range(80))))
    table = pd.concat([found.per_label, found.average])
    for end, other in (("low", high), ("high", low)):
        expected = np.clip((41 * expit(2 * point - other) - 0.5) / 40, 0, 1)
        np.testing.assert_allclose(table[end], expected, rtol=1e-9)
    assert found.resamples == 60 and found.patients == 40 and found.confidence == 0.9


def test_intervals_are_the_basic_ones_of_scipy():
    rng, target = np.random.default_rng(3), np.repeat([1.0, 0.0], [12, 68])
    scores = norm.cdf(rng.normal(size=80) + 2 * target)

    def of_scipy(method):
        """From the logits of AUROC, back to AUROC."""

        def statistic(items):
            return logit((80 * roc_auc_score(target[items], scores[items]) + 0.5) / 81)

        settings = {"n_resamples": 2000, "vectorized": False, "random_state": 0}
        ends = scipy_bootstrap((np.arange(80),), statistic, method=method, **settings).confidence_interval
        return (81 * expit(ends) - 0.5) / 80

    row = bootstrap(predictions_of(scores[:, None], target[:, None]), 2000, metrics=("auroc",)).per_label.iloc[0]
    ours = [row["low"], row["high"]]
    # the resamples are others: one standard error of an end is about 1.5 % of the length
    tolerance = 0.06 * (row["high"] - row["low"])
    np.testing.assert_allclose(of_scipy("basic"), ours, atol=tolerance, rtol=0)
    assert (np.abs(of_scipy("percentile") - ours)).max() > 2 * tolerance


FRACTION = st.floats(0, 1)


@given(point=FRACTION, one=FRACTION, other=FRACTION, patients=st.integers(1, 10**6))
def test_mirrored_values_are_fractions_in_the_opposite_order(point, one, other, patients):
    drawn = np.array([sorted([one, other])])
    found = mirrored(np.array([[point]]), drawn, patients)
    assert found.max() <= 1 and found.min() >= 0 and found[0, 0] >= found[0, 1] - 1e-12
    np.testing.assert_allclose(mirrored(np.array([[point]]), np.array([[point]]), patients), point, atol=1e-9)
    inside = (found > 0) & (found < 1)
    back = mirrored(np.array([[point]]), found, patients)
    np.testing.assert_allclose(back[inside], drawn[inside], atol=1e-6)


@given(
    differences=st.lists(st.integers(-9, 9).map(float) | st.just(np.nan), min_size=39, max_size=120),
    level=st.sampled_from([(0.95, 0.05), (0.9, 0.1), (0.8, 0.2), (0.5, 0.5)]),
    shift=st.integers(-10, 10),
)
def test_p_is_small_when_the_interval_leaves_out_0_and_only_then(differences, level, shift):
    differences = np.array(differences) + shift
    known, (confidence, alpha) = (~np.isnan(differences)).sum(), level
    low, high = interval(differences, confidence)
    if (known + 1) * alpha / 2 >= 1:
        assert (p_value(differences) <= alpha) == (low > 0 or high < 0)
    assert np.isnan(low) == np.isnan(high) == np.isnan(p_value(differences)) == (known == 0)


def test_points_are_the_metrics_of_the_items():
    found = bootstrap(SMALL, resamples=1, metrics=("auroc", "auprc", "f1", "accuracy"), thresholds=THRESHOLDS)
    table, averages = metrics.label_metrics(SMALL, THRESHOLDS), metrics.summary(SMALL, THRESHOLDS)
    for metric, rows in found.per_label.groupby("metric"):
        np.testing.assert_allclose(rows["point"], table[metric], rtol=1e-12)
        assert rows["label"].tolist() == list(SMALL.label_names)
    for row in found.average.itertuples():
        assert row.point == pytest.approx(averages[row.average][row.metric], rel=1e-12)


def test_resamples_with_one_class_are_counted_and_left_out():
    targets = SMALL.targets.copy()
    targets[:, 2] = 0
    targets[np.flatnonzero(SMALL.patient == SMALL.patient[0])[0], 2] = 1
    rare = dataclasses.replace(SMALL, targets=targets)
    found = bootstrap(rare, resamples=400).per_label.set_index(["label", "metric"])
    drawn = patient_weights(np.random.default_rng(1), 40, 400)[np.unique(rare.patient) == rare.patient[0]]
    without = (drawn == 0).sum()
    assert 100 < without < 200  # (1 - 1/40)^40 = 0.36 of them
    for metric in ("auroc", "auprc", "f1"):
        assert found.loc[("label 2", metric), "undefined_resamples"] == without
        assert found.loc[("label 0", metric), "undefined_resamples"] == 0
    assert np.isfinite(found.loc["label 2"][["low", "high"]]).all(axis=None)


def test_a_label_without_both_classes_is_undefined():
    made = dataclasses.replace(SMALL, targets=np.where([True, True, False], SMALL.targets, 0.0))
    found = bootstrap(made, resamples=20)
    assert found.per_label.query("label == 'label 2'")[["point", "low", "high"]].isna().all(axis=None)
    both = bootstrap(predictions_of(made.scores[:, :2], made.targets[:, :2], made.patient), resamples=20)
    macro, expected = (each.average.query("average == 'macro'") for each in (found, both))
    pd.testing.assert_frame_equal(macro, expected)


def test_blocks_and_progress_change_nothing(monkeypatch, capsys):
    whole = bootstrap(SMALL, resamples=50)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(resampling, "_BLOCK_BYTES", 8 * 80 * 7)
    monkeypatch.setattr("fairseq_signals_ext.common.progress._SECONDS_BETWEEN_LINES", 0)
    in_blocks = bootstrap(SMALL, resamples=50, progress=True)
    pd.testing.assert_frame_equal(whole.per_label, in_blocks.per_label, rtol=1e-13)
    pd.testing.assert_frame_equal(whole.average, in_blocks.average, rtol=1e-13)
    assert "bootstrap: 50 of 50 resamples (100 %)" in capsys.readouterr().err


def test_the_seed_decides():
    first, again, other = (bootstrap(SMALL, resamples=50, seed=seed).per_label for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert not first.equals(other)


def test_patients_are_drawn_with_replacement():
    weights = patient_weights(np.random.default_rng(0), 30, 2000)
    assert weights.shape == (30, 2000) and (weights.sum(axis=0) == 30).all()
    # each count is binomial (30, 1/30): mean 1, and none at all in (29/30)^30 of the resamples
    np.testing.assert_allclose(weights.mean(axis=1), 1, atol=0.1)
    assert (weights == 0).mean() == pytest.approx((29 / 30) ** 30, abs=0.01)
    np.testing.assert_array_equal(weights[:, :10], patient_weights(np.random.default_rng(0), 30, 10))


def twice(made, patient):
    """Every item two times."""
    return predictions_of(np.tile(made.scores, (2, 1)), np.tile(made.targets, (2, 1)), patient)


def test_repeating_a_patients_recordings_changes_nothing():
    single = made_up_predictions(items=60, labels=2, per_patient=1)
    once, repeated = bootstrap(single, 200), bootstrap(twice(single, np.tile(single.patient, 2)), 200)
    pd.testing.assert_frame_equal(once.per_label, repeated.per_label, rtol=1e-12)
    as_others = bootstrap(twice(single, np.arange(120)), 200).per_label
    assert ((as_others["high"] - as_others["low"]) < (once.per_label["high"] - once.per_label["low"])).all()


def clustered(seed, patients=60, per_patient=3, shift=1.2):
    """Normal scores; the recordings of a patient have the same label and nearly the same score."""
    rng = np.random.default_rng(seed)
    target = np.repeat(np.arange(patients) % 3 == 0, per_patient).astype(np.float64)
    of_patient, own = np.repeat(rng.normal(size=patients), per_patient), rng.normal(size=len(target))
    scores = norm.cdf(np.sqrt(0.9) * of_patient + np.sqrt(0.1) * own + shift * target)
    return predictions_of(scores[:, None], target[:, None], np.repeat(np.arange(patients), per_patient))


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    truth, held, held_by_items = norm.cdf(1.2 / np.sqrt(2)), 0, 0
    for seed in range(300):
        made = clustered(seed, per_patient=4)
        for number, patient in enumerate((made.patient, made.idx)):
            found = bootstrap(dataclasses.replace(made, patient=patient), 200, seed, ("auroc",)).per_label.iloc[0]
            if number:
                held_by_items += found["low"] <= truth <= found["high"]
            else:
                held += found["low"] <= truth <= found["high"]
    assert 270 <= held <= 295  # 285 expected, less a little as there are only 60 patients
    assert held_by_items < 240  # what comes of taking recordings as independent


RATES, SHIFTS = np.linspace(0.03, 0.1, 40), np.random.default_rng(0).uniform(1, 2.5, 40)


def rare_labels(patients, seed):
    """40 labels that 3-10 % have, and normal scores with AUROC from 0.76 to 0.96."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((patients, 40)) < RATES).astype(np.float64)
    return predictions_of(norm.cdf(rng.normal(size=targets.shape) + SHIFTS * targets), targets)


def true_auprc(rate, shift):
    """The mean of precision at a positive, over all positives there could be."""

    def integrand(score):
        positives, negatives = rate * norm.sf(score - shift), (1 - rate) * norm.sf(score)
        return norm.pdf(score - shift) * positives / (positives + negatives)

    return quad(integrand, shift - 8, shift + 8)[0]


def shares_held(patients, sets, resamples):
    """How often macro AUROC, macro AUPRC, AUROC and AUPRC of a label are in their intervals."""
    truth = {"auroc": norm.cdf(SHIFTS / np.sqrt(2)), "auprc": np.array(list(map(true_auprc, RATES, SHIFTS)))}
    held = {(metric, scope): [] for scope in ("macro", "label") for metric in truth}
    for seed in range(sets):
        found = bootstrap(rare_labels(patients, seed), resamples, seed, metrics=tuple(truth))
        for metric, values in truth.items():
            macro = found.average.query("metric == @metric and average == 'macro'")
            labels = found.per_label.query("metric == @metric")
            held[metric, "macro"].append(macro["low"].item() <= values.mean() <= macro["high"].item())
            held[metric, "label"].extend((labels["low"] <= values) & (values <= labels["high"]))
    return {key: np.mean(values) for key, values in held.items()}


@pytest.mark.slow
def test_macro_auprc_of_rare_labels_is_held_where_percentiles_lose_it(monkeypatch):
    held = shares_held(400, sets=60, resamples=200)
    assert held["auprc", "macro"] >= 0.8  # 0.91 expected, standard error 0.04
    monkeypatch.setattr(module, "mirrored", lambda point, drawn, patients: drawn)
    assert shares_held(400, sets=60, resamples=200)["auprc", "macro"] < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "sets", "macro_auprc"), [(400, 300, 0.91), (2000, 100, 0.92)])
def test_rare_labels_are_held_as_often_as_documented(patients, sets, macro_auprc):
    held = shares_held(patients, sets, resamples=1000)
    print(f"{patients} patients: {held}")
    # three standard errors below the measured value; there are many labels
    for metric, expected in (("auprc", macro_auprc), ("auroc", 0.93)):
        assert held[metric, "macro"] > expected - 3 * np.sqrt(expected * (1 - expected) / sets)
        assert held[metric, "label"] > 0.93


BETTER = dataclasses.replace(SMALL, scores=np.where(SMALL.targets == 1, np.sqrt(SMALL.scores), SMALL.scores))


def test_difference_is_that_of_the_same_resamples():
    found = paired_difference(BETTER, SMALL, resamples=60, seed=3, confidence=0.9)
    for metric in ("auroc", "auprc"):
        differences = plain_loop(BETTER, metric, 60, 3) - plain_loop(SMALL, metric, 60, 3)
        point = of_items(BETTER, metric, range(80)) - of_items(SMALL, metric, range(80))
        # macro averages of both models use the same labels, because the known targets are the same
        table = pd.concat([found.per_label, found.average]).query("metric == @metric")
        low, high = ranked_ends(differences, Fraction(1, 20))
        np.testing.assert_allclose(table["low"], 2 * point - high, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(table["high"], 2 * point - low, rtol=1e-9, atol=1e-12)
        defined = (~np.isnan(differences)).sum(axis=0)
        np.testing.assert_array_equal(table["undefined_resamples"], 60 - defined)
        below, above = (differences >= 2 * point).sum(axis=0), (differences <= 2 * point).sum(axis=0)
        expected = 2 * (1 + np.minimum(below, above)) / (1 + defined)
        np.testing.assert_allclose(table["p"], np.minimum(expected, 1))
    np.testing.assert_allclose(found.per_label["a"] - found.per_label["b"], found.per_label["point"])
    alone = bootstrap(BETTER, 1, metrics=("auroc", "auprc")).per_label
    np.testing.assert_allclose(found.per_label["a"], alone["point"])


def test_better_is_better_whichever_comes_first():
    there, back = (paired_difference(*models, resamples=200) for models in ((BETTER, SMALL), (SMALL, BETTER)))
    macro = there.average.query("average == 'macro'")
    assert (macro["low"] > 0).all() and (macro["p"] == 2 / 201).all()
    for a, b in ((there.per_label, back.per_label), (there.average, back.average)):
        np.testing.assert_allclose(a[["point", "low", "high"]], -b[["point", "high", "low"]], atol=1e-12)
        np.testing.assert_array_equal(a["p"], b["p"])


def test_a_model_does_not_differ_from_itself_in_another_order():
    order = np.random.default_rng(0).permutation(len(SMALL))
    shuffled = dataclasses.replace(SMALL, **{name: getattr(SMALL, name)[order] for name in FIELDS})
    found = paired_difference(SMALL, shuffled, resamples=50)
    assert (found.average[["point", "low", "high"]] == 0).all(axis=None) and (found.average["p"] == 1).all()


def test_equal_models_are_found_different_as_often_as_they_should():
    rejected = 0
    for seed in range(300):
        rng, made = np.random.default_rng(1000 + seed), clustered(seed)
        other = norm.cdf(norm.ppf(made.scores) + 0.5 * np.repeat(rng.normal(size=60), 3)[:, None])
        same = norm.cdf(norm.ppf(made.scores) + 0.5 * np.repeat(rng.normal(size=60), 3)[:, None])
        pair = (dataclasses.replace(made, scores=scores) for scores in (other, same))
        rejected += paired_difference(*pair, resamples=200, seed=seed, metrics=("auroc",)).average["p"].iloc[0] < 0.05
    assert 5 <= rejected <= 27  # 15 expected, standard deviation 4


def changed(**fields):
    return dataclasses.replace(SMALL, **fields)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (changed(label_names=("label 0", "AF", "label 2")), "label 2 is 'label 1' in the first, 'AF' in the second"),
        (
            changed(label_names=SMALL.label_names[:2], scores=SMALL.scores[:, :2], targets=SMALL.targets[:, :2]),
            "the first has 3 labels, the second 2",
        ),
        (changed(idx=np.append(np.arange(79), 90)), "recording 79 is in one only (2 such)"),
        (changed(patient=np.roll(SMALL.patient, 1)), "patient or labels of recording 0"),
        (changed(targets=1 - SMALL.targets), "patient or labels of recording 0"),
        (
            changed(**{name: np.concatenate([getattr(SMALL, name)] * 2) for name in FIELDS}),
            "80 and 160 segments",
        ),
    ],
)
def test_models_of_other_data_are_refused(other, message):
    with pytest.raises(UserError) as caught:
        paired_difference(SMALL, other, resamples=2)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("auroc", "auc")}, "no metric auc; there are auroc, auprc, f1"),
        ({"metrics": ()}, "no metric given"),
        ({"resamples": 0}, "0 resamples"),
        ({"confidence": 95}, "confidence 95; give a number between 0 and 1"),
        ({"thresholds": np.zeros(2)}, "thresholds: (2,), but there are 3 labels"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError) as caught:
        bootstrap(SMALL, **settings)
    assert message in str(caught.value)


def test_no_items_are_refused():
    with pytest.raises(UserError, match="the subset is empty"):
        bootstrap(predictions_of(np.zeros((0, 2)), np.zeros((0, 2))))
