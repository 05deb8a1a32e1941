"""`evaluate --selective`: rates of errors, groups, and errors among the surest answers, against direct counts."""

import numpy as np
import pytest
from made_up_predictions import made_up_predictions
from scipy.stats import binomtest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.decisions import Calibration, LabelCalibration
from fairseq_signals_ext.evaluation.selective import evaluate_selective, groups_of, write_selective

DECIDES = LabelCalibration(low=0.3, high=0.7, miss=0.05, false_alarm=0.1)


@pytest.fixture
def recordings():
    """300 recordings of as many patients, three labels."""
    return made_up_predictions(items=300, labels=3, per_patient=1)


def calibration(labels=3, refusal=None):
    return Calibration((DECIDES,) * labels, refusal)


def test_rates_are_counts(recordings):
    table = evaluate_selective(recordings, calibration(), {}).table
    assert table["group"].tolist() == ["all"] * 3
    for label, row in enumerate(table.to_dict("records")):
        score, target = recordings.scores[:, label], recordings.targets[:, label]
        positive, negative = score[target == 1], score[target == 0]
        missed, alarms = int((positive < 0.3).sum()), int((negative >= 0.7).sum())
        assert (row["positives"], row["negatives"]) == (len(positive), len(negative))
        assert row["miss"] == missed / len(positive)
        assert row["false_alarm"] == alarms / len(negative)
        exact = binomtest(missed, len(positive)).proportion_ci(0.95, method="exact")
        assert (row["miss_low"], row["miss_high"]) == (exact.low, exact.high)
        known = ~np.isnan(target)
        assert row["uncertain"] == ((score >= 0.3) & (score < 0.7))[known].mean()
        assert 0 <= row["ece_before_low"] < row["ece_before"]
        assert row["ece_before"] == row["ece_after"]  # as this calibration changes no probability


def test_patients_count_once():
    many = made_up_predictions(items=300, labels=1, per_patient=3)
    row = evaluate_selective(many, calibration(1), {}).table.iloc[0]
    assert row["positives"] + row["negatives"] <= len(np.unique(many.patient))


def test_groups(recordings):
    sex = np.array(["female", "male", None] * 100, object)
    age = np.r_[np.full(100, 30.0), np.full(100, 80.0), np.full(100, np.nan)]
    table = evaluate_selective(recordings, calibration(), {"sex": sex, "age": age}).table
    assert list(dict.fromkeys(table["group"])) == [
        *("all", "age 0 to 17", "age 18 to 39", "age 40 to 59", "age 60 to 74", "age 75 and above"),
        *("sex female", "sex male"),
    ]
    of_women = table[(table["group"] == "sex female") & (table["label"] == recordings.label_names[0])].iloc[0]
    known = ~np.isnan(recordings.targets[:, 0])
    assert of_women["recordings"] == (known & (sex == "female")).sum()
    assert np.isnan(table[table["group"] == "age 0 to 17"]["miss"]).all()
    assert dict(groups_of({"age": age}))["age 75 and above"].sum() == 100


def test_risk_falls_with_coverage(recordings):
    curve = evaluate_selective(recordings, calibration(), {}).curve
    first = curve[curve["label"] == recordings.label_names[0]].set_index("coverage")["risk"]
    known = ~np.isnan(recordings.targets[:, 0])
    score, target = recordings.scores[known, 0], recordings.targets[known, 0]
    assert first[1.0] == ((score > 0.5) != (target == 1)).mean()
    order = np.argsort(-np.abs(score - 0.5), kind="stable")[: round(0.5 * len(score))]
    assert first[0.5] == ((score > 0.5) != (target == 1))[order].mean()
    mean = curve[curve["label"] == "mean"].set_index("coverage")["risk"]
    assert mean[0.2] < mean[1.0]


def test_files(recordings, tmp_path):
    write_selective(evaluate_selective(recordings, calibration(), {}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["risk_coverage.csv", "selective.csv", "selective.png"]


def test_no_calibration(recordings):
    with pytest.raises(UserError, match="run fairseq-signals-ext calibrate first"):
        evaluate_selective(recordings, None, {})
