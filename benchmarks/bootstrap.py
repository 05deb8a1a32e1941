"""How fast confidence intervals are had by resampling patients, against a plain loop of scikit-learn, in one run.

    python benchmarks/bootstrap.py [--recordings 2203] [--labels 71] [--resamples 1000] [--loop 3] [--out FILE.md]

Both sides give AUROC and AUPRC of each label, macro and micro, in the same resamples of patients, on one core; the
predictions are made up (PTB-XL's test fold has 2,203 recordings, its task of all statements 71 labels; these are of 0.2
to 30 % of the recordings). The loop runs for a few resamples, and its time is scaled to all of them. The largest
difference is that of any end of an interval from these few resamples.
"""

import argparse
import time
from pathlib import Path
from typing import List, Tuple

import numpy as np
from _shared import hand_over, machine
from sklearn.metrics import average_precision_score, roc_auc_score
from threadpoolctl import threadpool_limits

from fairseq_signals_ext.evaluation.bootstrap import bootstrap
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.resampling import interval, mirrored, patient_weights

METRICS = {"auroc": roc_auc_score, "auprc": average_precision_score}


def made_up(recordings: int, labels: int) -> Predictions:
    """Make informative scores; one patient in five has a second recording."""
    rng = np.random.default_rng(0)
    targets = (rng.random((recordings, labels)) < np.geomspace(0.002, 0.3, labels)).astype(np.float64)
    scores = 1 / (1 + np.exp(-rng.normal(size=targets.shape) - 1.5 * targets + 1))
    patient = rng.permutation(np.arange(recordings) * 5 // 6)
    return Predictions(scores, targets, np.arange(recordings), patient, tuple(map(str, range(labels))))


def loop(predictions: Predictions, resamples: int, seed: int) -> np.ndarray:
    """Return values of scikit-learn, resamples x metrics x (labels, macro, micro); NaN with only one class."""
    patients, patient = np.unique(predictions.patient, return_inverse=True)
    found = []
    for weights in patient_weights(np.random.default_rng(seed), len(patients), resamples).T:
        items = np.repeat(np.arange(len(predictions)), weights[patient])
        scores, targets = predictions.scores[items], predictions.targets[items]
        both = targets.any(axis=0) & ~targets.all(axis=0)
        rows = []
        for metric in METRICS.values():
            pairs = zip(targets.T, scores.T, both)
            values = [metric(target, score) if defined else np.nan for target, score, defined in pairs]
            rows.append([*values, np.nanmean(values), metric(targets.ravel(), scores.ravel())])
        found.append(rows)
    return np.array(found)


def difference(predictions: Predictions, loop_values: np.ndarray, seed: int) -> float:
    """Return the largest difference between the intervals of the bootstrap and the loop, from the loop's resamples."""
    found = bootstrap(predictions, len(loop_values), seed, tuple(METRICS))
    largest = 0.0
    for place, metric in enumerate(METRICS):
        tables = [table[table["metric"] == metric] for table in (found.per_label, found.average)]
        points, low, high = (np.concatenate([table[name] for table in tables]) for name in ("point", "low", "high"))
        values = mirrored(points[:, None], loop_values[:, place].T, found.patients)
        ends = np.array([interval(row, found.confidence) for row in values])
        largest = max(largest, float(np.nanmax(np.abs(np.stack([low, high], axis=1) - ends))))
    return largest


def compare(predictions: Predictions, resamples: int, of_loop: int) -> Tuple[float, float, float]:
    """Return seconds of the bootstrap, of the loop for the same number of resamples, and the largest difference."""
    bootstrap(predictions, 1, metrics=tuple(METRICS))  # imports
    start = time.perf_counter()
    bootstrap(predictions, resamples, metrics=tuple(METRICS))
    ours = time.perf_counter() - start
    start = time.perf_counter()
    values = loop(predictions, of_loop, seed=1)
    theirs = (time.perf_counter() - start) * resamples / of_loop
    return ours, theirs, difference(predictions, values, seed=1)


def main() -> None:
    """Measure and print; with --out also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=2203, help="to predict (default 2203)")
    parser.add_argument("--labels", type=int, default=71, help="of each (default 71)")
    parser.add_argument("--resamples", type=int, default=1000, help="of patients (default 1000)")
    parser.add_argument("--loop", type=int, default=3, help="resamples of the plain loop (default 3)")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    options = parser.parse_args()
    with threadpool_limits(1):
        predictions = made_up(options.recordings, options.labels)
        ours, theirs, largest = compare(predictions, options.resamples, options.loop)
    size = f"{options.resamples:,} resamples of {options.recordings:,} x {options.labels}"
    rows: List[str] = [machine(), "", f"| {size}, one core | seconds | ratio |", "| --- | --- | --- |"]
    rows.append(f"| loop of scikit-learn, from {options.loop} resamples | {theirs:,.0f} | 1 |")
    rows.append(f"| bootstrap | {ours:.1f} | {theirs / ours:,.0f} |")
    hand_over([*rows, "", f"Largest difference: {largest:.0e}."], options.out)


if __name__ == "__main__":
    main()
