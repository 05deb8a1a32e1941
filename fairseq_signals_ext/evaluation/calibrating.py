"""Fit the calibration and the refusal of a model on recordings that it was not trained on."""

import dataclasses
import logging
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.decisions import LabelCalibration, log_odds
from fairseq_signals_ext.evaluation.kinds import sigmoid
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.refusal import KNOWN_FLAGS, Refusal, decoded, encoded, log_distances
from fairseq_signals_ext.evaluation.resampling import one_of_each_patient

logger = logging.getLogger(__name__)

# with fewer patients of a class, error rates are not guaranteed and only the share of positives is corrected
LEAST_PATIENTS = 30
_FOLDS = 5
_DIRECTIONS = 32
# patients of a class; with fewer, isotonic steps are noise
_LEAST_FOR_ISOTONIC = 100
_NO_SPREAD = 1e-6
# a flag is refused if its share of the calibration's recordings is below this part of the share to refuse
_RARE = 0.5


class Wanted(NamedTuple):
    """Error rates that decisions may have.

    Attributes:
        miss: highest share of positive patients that may be called negative.
        false_alarm: the same of negative patients that may be called positive.
        seed: random seed for the choice of one recording per patient.
    """

    miss: float = 0.05
    false_alarm: float = 0.10
    seed: int = 1


def calibrate_labels(predictions: Predictions, wanted: Wanted) -> Tuple[LabelCalibration, ...]:
    """Fit probabilities and decisions for each label.

    Probabilities: of shift, temperature (Guo et al. 2017, arXiv 1706.04599), Platt's sigmoid (Platt 1999) and isotonic
    regression (Zadrozny and Elkan 2002), the one with the lowest log loss in cross-validation by patient; each patient
    counts once. Decisions: class-conditional conformal prediction (Vovk 2012, arXiv 1209.2673) from one recording of
    each patient, drawn at random: of a new patient's recording, drawn in the same way, the chance to be called negative
    though positive is at most `miss`, over all that is drawn, and so with `false_alarm`.

    Args:
        predictions: of recordings, not of segments.

    Raises:
        UserError: they are not of a classification with labels of their own, or no label has enough patients.
    """
    predictions.check()
    if not predictions.of_kind.has_classes or predictions.exclusive:
        raise UserError("only models with a probability for each label can be calibrated; this one has other outputs")
    found = []
    for label, name in enumerate(predictions.label_names):
        known = ~np.isnan(predictions.targets[:, label])
        of_label = _Known(
            predictions.scores[known, label], predictions.targets[known, label] == 1, predictions.patient[known]
        )
        found.append(_of_label(of_label, name, wanted))
    if all(one.miss is None and one.false_alarm is None for one in found):
        most = max((min(one.positives, one.negatives) for one in found), default=0)
        raise UserError(
            f"no label has {LEAST_PATIENTS} patients with and without it (at most {most}); calibrate on more recordings"
        )
    return tuple(found)


class _Known(NamedTuple):
    """Recordings with a known label; n each."""

    scores: np.ndarray
    targets: np.ndarray
    patients: np.ndarray

    def weights(self) -> np.ndarray:
        """Weights of recordings that give all patients the same total weight."""
        _, which, counts = np.unique(self.patients, return_inverse=True, return_counts=True)
        return 1 / counts[which]

    def one_each(self, seed: int) -> "_Known":
        """One recording for each patient, drawn at random."""
        chosen = one_of_each_patient(self.patients, seed)
        return _Known(*(values[chosen] for values in self))


def _of_label(known: _Known, name: str, wanted: Wanted) -> LabelCalibration:
    drawn = known.one_each(wanted.seed)
    positives, negatives = int(drawn.targets.sum()), int((~drawn.targets).sum())
    if min(positives, negatives) == 0:
        logger.warning(
            f"{name}: all known recordings are of one class; it is not calibrated, and its errors have no guarantee"
        )
        return LabelCalibration(positives=positives, negatives=negatives)
    is_enough = min(positives, negatives) >= LEAST_PATIENTS
    if not is_enough:
        logger.warning(
            f"{name}: {positives} patients with and {negatives} without it; with fewer than {LEAST_PATIENTS} no error "
            "rate can be guaranteed, so it is always uncertain"
        )
    low, high = _thresholds(drawn, wanted) if is_enough else (None, None)
    return LabelCalibration(
        **_probabilities(known, min(positives, negatives)),
        low=low,
        high=high,
        miss=None if low is None else wanted.miss,
        false_alarm=None if high is None else wanted.false_alarm,
        positives=positives,
        negatives=negatives,
    )


def _thresholds(drawn: _Known, wanted: Wanted) -> Tuple[Optional[float], Optional[float]]:
    """`low` and `high` of `LabelCalibration`.

    Of n exchangeable scores and a new one, the new one is below the k-th smallest with a chance of at most k / (n + 1).
    """
    positive, negative = np.sort(drawn.scores[drawn.targets]), np.sort(drawn.scores[~drawn.targets])
    missed, alarmed = _rank(wanted.miss, len(positive)), _rank(wanted.false_alarm, len(negative))
    low = float(positive[missed - 1]) if missed else None
    high = float(np.nextafter(negative[-alarmed], np.inf)) if alarmed else None
    if low is not None and high is not None and low > high:
        # between them either decision keeps both guarantees, so no score must be uncertain
        low = high = (low + high) / 2
    return low, high


def _rank(share: float, number: int) -> int:
    """k of `_thresholds`; 0 if there are too few scores for such a small share."""
    return int(share * (number + 1) + 1e-9)


def _probabilities(known: _Known, fewer: int) -> Dict[str, Any]:
    """The fields of `LabelCalibration` that make probabilities."""
    if fewer < LEAST_PATIENTS:
        return _FITS["shift"](known)
    names = [name for name in _FITS if name != "isotonic" or fewer >= _LEAST_FOR_ISOTONIC]
    losses = {name: np.mean([_log_loss(name, *pair) for pair in _folds(known)]) for name in names}
    return _FITS[min(losses, key=lambda name: losses[name])](known)


def _folds(known: _Known) -> Iterator[Tuple[_Known, _Known]]:
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    for training, test in folds.split(known.scores[:, None], known.targets, known.patients):
        if 0 < known.targets[training].sum() < len(training):
            yield _Known(*(each[training] for each in known)), _Known(*(each[test] for each in known))


def _log_loss(name: str, training: _Known, test: _Known) -> float:
    probabilities = LabelCalibration(**_FITS[name](training)).probabilities(test.scores)
    kept = np.clip(probabilities, 1e-6, 1 - 1e-6)
    losses = -np.where(test.targets, np.log(kept), np.log1p(-kept))
    return float(np.average(losses, weights=test.weights()))


def _shift(known: _Known) -> Dict[str, Any]:
    """Shift of the log odds that gives the share of positives, with half a patient added to each class."""
    from scipy.optimize import brentq

    weights, odds = known.weights(), log_odds(known.scores)
    share = ((weights * known.targets).sum() + 0.5) / (weights.sum() + 1)

    def difference(intercept: float) -> float:
        return float(np.average(sigmoid(odds + intercept), weights=weights) - share)

    return {"method": "shift", "intercept": float(brentq(difference, -60, 60))}


def _sigmoid(known: _Known, with_intercept: bool) -> Tuple[float, float]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=np.inf, fit_intercept=with_intercept, max_iter=1000)
    fitted.fit(log_odds(known.scores)[:, None], known.targets, known.weights())
    # a slope below 0 would reverse the order of scores
    return max(float(fitted.coef_[0, 0]), 0.0), float(np.ravel(fitted.intercept_)[0])


def _temperature(known: _Known) -> Dict[str, Any]:
    return {"method": "temperature", "slope": _sigmoid(known, False)[0]}


def _platt(known: _Known) -> Dict[str, Any]:
    slope, intercept = _sigmoid(known, True)
    return {"method": "platt", "slope": slope, "intercept": intercept}


def _isotonic(known: _Known) -> Dict[str, Any]:
    from sklearn.isotonic import IsotonicRegression

    weights = known.weights()
    least = 1 / (weights.sum() + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    fitted.fit(known.scores, known.targets, weights)
    return {
        "method": "isotonic",
        "knots": tuple(fitted.X_thresholds_.tolist()),
        "values": tuple(fitted.y_thresholds_.tolist()),
    }


_FITS = {"shift": _shift, "temperature": _temperature, "platt": _platt, "isotonic": _isotonic}


class Seen(NamedTuple):
    """Inputs of a refusal for n recordings.

    Attributes:
        embeddings: float, n x E.
        patients: int64, n.
        seconds: float64, n.
        missing: int64, n: number of the model's leads that are missing.
        flags: quality flags of each recording.
        shapes: float64, n x 2: measures of the signal, `SignalShape`; NaN where they are unknown.
    """

    embeddings: np.ndarray
    patients: np.ndarray
    seconds: np.ndarray
    missing: np.ndarray
    flags: Sequence[Sequence[str]]
    shapes: np.ndarray


def fit_refusal(seen: Seen, share: float, training: Optional[np.ndarray] = None) -> Refusal:
    """Fit a refusal that refuses at most a given share of similar recordings.

    Distances are measured from the training embeddings. Without these, they are measured from the embeddings of `seen`:
    for each fifth of the patients from the other patients. The covariance is shrunk (Ledoit and Wolf 2004).

    Args:
        seen: recordings of the calibration.
        share: 0 to 1.
        training: float, N x E.

    Raises:
        UserError: there are too few recordings.
    """
    number = len(seen.embeddings)
    rank = _rank(share, number)
    if not rank or number < 2 * LEAST_PATIENTS:
        least = max(int(np.ceil(1 / max(share, 1e-9))), 2 * LEAST_PATIENTS)
        raise UserError(f"{number} recordings are too few to refuse {share:.2%}; calibrate on {least} or more")
    fitted = _Gaussian.of(seen.embeddings if training is None else training)
    logarithms = fitted.logarithms(seen.embeddings) if training is not None else _cross_fitted(seen)
    center, spread = float(logarithms.mean()), max(float(logarithms.std()), _NO_SPREAD)
    rules: Dict[str, Any] = {
        "flags": _rare_flags(seen.flags, share),
        "most_missing": int(np.sort(seen.missing)[-rank]),
        "shortest": float(np.sort(seen.seconds)[rank - 1]),
    }
    distances = (logarithms - center) / spread
    limit = float(np.sort(distances)[-rank])
    steepness, polarity = seen.shapes.T
    rules["steepness"] = _center_and_spreads(steepness, rank, limit)
    rules["polarity"] = _center_and_spreads(polarity, rank, limit)[:2]
    refusal = Refusal(
        mean=encoded(fitted.mean),
        directions=encoded(fitted.directions),
        variances=encoded(fitted.variances),
        residual=fitted.residual,
        center=center,
        spread=spread,
        threshold=np.inf,
        share=share,
        **rules,
    )
    scores = np.maximum(distances, np.maximum(*refusal.shape_scores(seen.shapes)))
    return _with_threshold(refusal, scores, seen, rank)


def _center_and_spreads(values: np.ndarray, rank: int, limit: float) -> Tuple[float, ...]:
    """Median, and spreads below and above it that put the quantiles of the share where that of the distance is.

    Args:
        values: float64, n.
        rank: of the quantiles, from the lowest and the highest value.
        limit: the quantile of the distance.

    Returns:
        Empty if the measure is known for too few recordings, or hardly varies.
    """
    known = np.sort(values[np.isfinite(values)])
    if len(known) < 2 * LEAST_PATIENTS or limit <= 0:
        return ()
    center = float(np.median(known))
    below, above = (center - float(known[rank - 1])) / limit, (float(known[-rank]) - center) / limit
    return (center, below, above) if min(below, above) > _NO_SPREAD else ()


def _with_threshold(refusal: Refusal, distances: np.ndarray, seen: Seen, rank: int) -> Refusal:
    """Set the threshold that refuses the share in total, including recordings refused by a rule."""
    facts_of_each = zip(seen.seconds, seen.missing, seen.flags)
    broken = np.array([bool(refusal.broken_rules(*facts)) for facts in facts_of_each])
    ranked = np.sort(np.where(broken, np.inf, distances))
    threshold = float(ranked[-rank])
    if not np.isfinite(threshold):
        threshold = float(distances.max())
    return dataclasses.replace(refusal, threshold=threshold)


def _rare_flags(flags: Sequence[Sequence[str]], share: float) -> Tuple[str, ...]:
    counts = {name: sum(name in one for one in flags) for name in KNOWN_FLAGS}
    return tuple(name for name, count in counts.items() if count <= _RARE * share * len(flags))


def _cross_fitted(seen: Seen) -> np.ndarray:
    from sklearn.model_selection import GroupKFold

    logarithms = np.empty(len(seen.embeddings))
    for others, fold in GroupKFold(_FOLDS).split(seen.embeddings, groups=seen.patients):
        logarithms[fold] = _Gaussian.of(seen.embeddings[others]).logarithms(seen.embeddings[fold])
    return logarithms


class _Gaussian(NamedTuple):
    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    residual: float

    @classmethod
    def of(cls, embeddings: np.ndarray) -> "_Gaussian":
        """Fit to embeddings, N x E, rounded to float32 as stored."""
        from sklearn.covariance import ledoit_wolf

        values = np.asarray(embeddings, np.float64)
        mean = values.mean(axis=0)
        covariance, _ = ledoit_wolf(values - mean, assume_centered=True)
        variances, directions = np.linalg.eigh(covariance)
        kept = min(_DIRECTIONS, len(variances) - 1) or 1
        least = max(float(variances[-1]), _NO_SPREAD) * 1e-9
        variances = np.maximum(variances, least)
        rest = variances[:-kept] if len(variances) > kept else variances[:1]
        mean, along, variances = (decoded(encoded(one)) for one in (mean, directions[:, -kept:].T, variances[-kept:]))
        return cls(mean, along.reshape(kept, -1), variances, float(rest.mean()))

    def logarithms(self, embeddings: np.ndarray) -> np.ndarray:
        """As `refusal.log_distances`."""
        return log_distances(embeddings, *self)
