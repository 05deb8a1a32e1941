"""What an evaluation found stands beside the scores."""

import dataclasses

import numpy as np
import pytest
from test_report_page import rows_of

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings, evaluate
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.report import write_evaluation
from fairseq_signals_ext.pages.calibration import read_calibration
from fairseq_signals_ext.pages.recording_report import report_html


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """An evaluation of labels a and b, and its folder; b is never positive."""
    rng = np.random.default_rng(0)
    targets = np.stack([np.arange(60) % 2, np.zeros(60)], axis=1).astype(float)
    scores = np.clip(0.3 * targets + rng.uniform(0, 0.7, (60, 2)), 0, 1)
    names = np.arange(60)
    found = Predictions(scores, targets, names, names, ("a", "b"), record_id=names.astype(str))
    about = {"checkpoint": "run/best.pt", "subset": "test", "label_file": None}
    evaluation = evaluate(found, about, EvaluationSettings(aggregation="mean", resamples=20))
    folder = tmp_path_factory.mktemp("evaluation")
    write_evaluation(evaluation, folder)
    return evaluation, folder


def test_measures_of_each_label(evaluated, saying, recording, options):
    evaluation, folder = evaluated
    row = evaluation.per_label.iloc[0]
    expected = [f"{row.auroc:.2f} ({row.auroc_low:.2f} to {row.auroc_high:.2f})", f"{row.ece:.2f}"]
    ece = f"{evaluation.per_label.iloc[1].ece:.2f}"
    for path in (folder, folder / "metrics.json"):
        given = options(calibration=read_calibration(path))
        html = report_html(saying({"a": 0.9, "b": 0.5, "c": 0.1}), recording(), options=given)
        assert rows_of(html) == [["a", "0.900", *expected], ["b", "0.500", "-", ece], ["c", "0.100", "-", "-"]]
        assert "AUROC, ECE: best.pt on test, 60 recordings, 95 % intervals." in html and "run/" not in html


def test_wrong_evaluations(evaluated, saying, recording, options, tmp_path):
    calibration = read_calibration(evaluated[1])
    with pytest.raises(UserError, match="the evaluation has other labels"):
        report_html(saying({"x": 0.9}), recording(), options=options(calibration=calibration))
    with pytest.raises(UserError, match="the evaluation has other labels"):
        of_numbers = dataclasses.replace(calibration, kind="regression")
        report_html(saying({"a": 0.9}), recording(), options=options(calibration=of_numbers))
    with pytest.raises(UserError, match=r"metrics.json: no such file; give the folder"):
        read_calibration(tmp_path)
    for content in ("[]", "{", '{"kind": "classification"}', '{"kind": ["x"]}'):
        (tmp_path / "metrics.json").write_text(content)
        (tmp_path / "per_label.csv").write_text("label\na\n")
        with pytest.raises(UserError, match=r"metrics.json: was not written by fairseq-signals-ext evaluate"):
            read_calibration(tmp_path)
    (tmp_path / "metrics.json").write_bytes((evaluated[1] / "metrics.json").read_bytes())
    with pytest.raises(UserError, match=r"per_label.csv: was not written by fairseq-signals-ext evaluate"):
        read_calibration(tmp_path)
