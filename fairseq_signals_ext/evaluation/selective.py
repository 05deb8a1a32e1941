"""Error rates of a calibrated model's decisions on labelled recordings, in total and by group of patients.

Error rates use one random recording per patient, as the guarantees do; their intervals are exact binomial ones
(Clopper and Pearson 1934). Recordings that the model refuses are not counted.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.calibration import brier, expected_calibration_error, reliability
from fairseq_signals_ext.evaluation.decisions import Calibration
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.resampling import interval, mean_of_defined, mirrored, one_of_each_patient
from fairseq_signals_ext.evaluation.text import aligned

if TYPE_CHECKING:
    import pandas as pd

TABLE, CURVE, PICTURE = FILES = ("selective.csv", "risk_coverage.csv", "selective.png")
EVERYBODY = "all"
COVERAGES = np.linspace(0.05, 1.0, 20)
_AGES = (18, 40, 60, 75)
_RESAMPLES = 200
_BINS = 10


class Selective(NamedTuple):
    """Results of `evaluate_selective`.

    Attributes:
        table: one row per label and group, see `table_of`.
        curve: `label`, `coverage`, `risk`, see `curve_of`.
        reliability: for each label `before` and `after` calibration, see `calibration.reliability`.
    """

    table: "pd.DataFrame"
    curve: "pd.DataFrame"
    reliability: Dict[str, Dict[str, "pd.DataFrame"]]


def evaluate_selective(
    recordings: Predictions, calibration: Optional[Calibration], about: Mapping[str, np.ndarray], seed: int = 1
) -> Selective:
    """Evaluate a calibrated model's decisions.

    Args:
        recordings: with `refusal` scores if the model can refuse.
        about: facts that define groups of recordings: `age` (years), `sex`, `source`; some or none of them.
        seed: random seed for the choice of one recording per patient.

    Raises:
        UserError: the model is not calibrated.
    """
    if calibration is None:
        raise UserError("--selective: the model is not calibrated; run fairseq-signals-ext calibrate first")
    answered = np.full(len(recordings), True)
    if calibration.refusal is not None and recordings.refusal is not None:
        answered = recordings.refusal <= calibration.refusal.threshold
    calibrated = calibration.probabilities(recordings.scores)
    diagrams = {
        name: {
            when: reliability(scores[answered, label], recordings.targets[answered, label], _BINS)
            for when, scores in (("before", recordings.scores), ("after", calibrated))
        }
        for label, name in enumerate(recordings.label_names)
    }
    table = table_of(recordings, calibration, answered, about, seed)
    return Selective(table, curve_of(recordings, calibration, answered), diagrams)


def table_of(
    recordings: Predictions, calibration: Calibration, answered: np.ndarray, about: Mapping[str, np.ndarray], seed: int
) -> "pd.DataFrame":
    """Table of errors of decisions, and of probabilities before and after calibration.

    Returns:
        `label`, `group`, `recordings`, `patients`, `refused` (share), `uncertain` (share of those answered),
        `positives` and `negatives` (patients), `miss` and `false_alarm` (shares of these) with `_low`, `_high` (95 %)
        and `_promised`, `ece_before`, `ece_after`, `brier_before`, `brier_after`; for everybody `ece_before_low`, ...
        by bootstrap of patients. NaN where undefined.
    """
    import pandas as pd

    one_each = np.full(len(recordings), False)
    one_each[one_of_each_patient(recordings.patient, seed)] = True
    decisions = calibration.decisions(recordings.scores)
    calibrated = calibration.probabilities(recordings.scores)
    rows = []
    for group, members in [(EVERYBODY, np.full(len(recordings), True)), *groups_of(about)]:
        for label, name in enumerate(recordings.label_names):
            target = recordings.targets[:, label]
            known = members & ~np.isnan(target)
            used = known & answered
            drawn = used & one_each
            one = calibration.labels[label]
            pairs = {"before": recordings.scores[used, label], "after": calibrated[used, label]}
            row: Dict[str, Any] = {
                **{"label": name, "group": group, "recordings": int(known.sum())},
                "patients": len(np.unique(recordings.patient[known])),
                "refused": 1 - _share(answered[known]),
                "uncertain": _share(decisions[used, label] == 1),
                "positives": int((drawn & (target == 1)).sum()),
                "negatives": int((drawn & (target == 0)).sum()),
                **_rate("miss", decisions[drawn & (target == 1), label] == 0, one.miss),
                **_rate("false_alarm", decisions[drawn & (target == 0), label] == 2, one.false_alarm),
                **{f"ece_{when}": _of(expected_calibration_error, each, target[used]) for when, each in pairs.items()},
                **{f"brier_{when}": _of(brier, each, target[used]) for when, each in pairs.items()},
            }
            if group == EVERYBODY:
                for when, each in pairs.items():
                    ends = _interval_of_ece(each, target[used], recordings.patient[used], seed)
                    row.update(zip((f"ece_{when}_low", f"ece_{when}_high"), ends))
            rows.append(row)
    return pd.DataFrame(rows)


def curve_of(recordings: Predictions, calibration: Calibration, answered: np.ndarray) -> "pd.DataFrame":
    """Risk-coverage curve: error rate among the most certain answers (El-Yaniv and Wiener 2010).

    An answer is whether the calibrated probability is above 0.5; it is more certain if it is farther from 0.5. Refused
    recordings come last.

    Returns:
        `label` ("mean": over labels), `coverage` (share that is answered), `risk` (share of these that is wrong).
    """
    import pandas as pd

    calibrated = calibration.probabilities(recordings.scores)
    risks = np.full((len(recordings.label_names), len(COVERAGES)), np.nan)
    for label in range(len(risks)):
        known = ~np.isnan(recordings.targets[:, label])
        if known.any():
            probability, target = calibrated[known, label], recordings.targets[known, label]
            order = np.lexsort((-np.abs(probability - 0.5), ~answered[known]))
            wrong = np.cumsum(((probability > 0.5) != (target == 1))[order])
            counts = np.maximum(1, np.round(COVERAGES * len(wrong)).astype(int))
            risks[label] = wrong[counts - 1] / counts
    names = [*recordings.label_names, "mean"]
    values = np.concatenate([risks, mean_of_defined(risks, axis=0)])
    return pd.DataFrame(
        {
            "label": np.repeat(names, len(COVERAGES)),
            "coverage": np.tile(COVERAGES.round(2), len(names)),
            "risk": values.ravel(),
        }
    )


def groups_of(about: Mapping[str, np.ndarray]) -> Iterator[Tuple[str, np.ndarray]]:
    """Names and members of groups: bands of age, sexes, sources."""
    if "age" in about:
        age = np.asarray(about["age"], np.float64)
        for low, high in zip((0, *_AGES), (*_AGES, np.inf)):
            name = f"age {low} to {high - 1:g}" if np.isfinite(high) else f"age {low} and above"
            yield name, (age >= low) & (age < high)
    for what in ("sex", "source"):
        values = np.array(["" if value is None else str(value) for value in about.get(what, ())])
        for value in sorted({*values} - {"", "nan", "None"}):
            yield f"{what} {value}", values == value


def _share(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _rate(name: str, wrong: np.ndarray, promised: Optional[float]) -> Dict[str, float]:
    from scipy.stats import binomtest

    ends = (float("nan"),) * 2
    if len(wrong):
        found = binomtest(int(wrong.sum()), len(wrong)).proportion_ci(0.95, method="exact")
        ends = (float(found.low), float(found.high))
    return {
        name: _share(wrong),
        f"{name}_low": ends[0],
        f"{name}_high": ends[1],
        f"{name}_promised": float("nan") if promised is None else promised,
    }


def _of(metric: Any, scores: np.ndarray, targets: np.ndarray) -> float:
    return float(metric(scores[:, None], targets[:, None])[0]) if len(scores) else float("nan")


def _interval_of_ece(scores: np.ndarray, targets: np.ndarray, patients: np.ndarray, seed: int) -> Tuple[float, float]:
    """95 % basic interval of the expected calibration error, from resamples of patients, where it is biased upwards."""
    if not len(scores):
        return float("nan"), float("nan")
    _, which = np.unique(patients, return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(which.max() + 2))
    rng = np.random.default_rng(seed)
    found = np.empty(_RESAMPLES)
    for resample in range(_RESAMPLES):
        drawn = rng.integers(len(starts) - 1, size=len(starts) - 1)
        chosen = np.concatenate([order[starts[one] : starts[one + 1]] for one in drawn])
        found[resample] = _of(expected_calibration_error, scores[chosen], targets[chosen])
    point = np.array([[_of(expected_calibration_error, scores, targets)]])
    low, high = interval(mirrored(point, found[None])[0], 0.95)
    return max(0.0, low), max(0.0, high)


def write_selective(found: Selective, folder: Path) -> None:
    """Write tables and the picture into a folder."""
    from fairseq_signals_ext.evaluation.selective_plot import draw_selective

    found.table.to_csv(folder / TABLE, index=False, lineterminator="\n")
    found.curve.to_csv(folder / CURVE, index=False, lineterminator="\n")
    draw_selective(found, folder / PICTURE)


def as_text(found: Selective) -> str:
    """The rows for all patients, as text."""
    rows: List[List[str]] = [["label", "refused", "uncertain", "missed", "promised", "false alarms", "promised", "ECE"]]
    for row in found.table[found.table["group"] == EVERYBODY].to_dict("records"):
        rows.append(
            [
                str(row["label"]),
                _percent(row["refused"]),
                _percent(row["uncertain"]),
                *(_percent(row[name]) for name in ("miss", "miss_promised", "false_alarm", "false_alarm_promised")),
                f"{row['ece_before']:.3f} -> {row['ece_after']:.3f}",
            ]
        )
    return "\n".join(aligned(rows))


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.1%}"
