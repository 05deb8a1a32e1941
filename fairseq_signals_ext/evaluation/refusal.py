"""Refuse recordings that differ from the recordings of a model's calibration, with a reason.

The score of a recording is the largest of three values: the Mahalanobis distance of its embedding from the training
embeddings (Lee et al. 2018, arXiv 1807.03888), in standard deviations of its logarithm; how unusual the steepness of
its waves is, which a wrong sample rate changes; and how far its leads point the wrong way (the last two by
`prepared.signal_shape`). A recording with missing leads, a short one, or one with flags that were very rare in the
calibration is refused for any score. Needs only numpy.
"""

import base64
import functools
from dataclasses import dataclass
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.prepared.signal_shape import UNKNOWN_SHAPE, SignalShape

# characters per piece of text
_PIECE = 8000
# added to the threshold for a broken rule: more than random distances
_OF_A_RULE = 10.0
# without flags that have their own rules, and without "nan", which is unknown for stored recordings
_WORDS = {
    "constant": "a lead is constant",
    "flat": "a lead stands still",
    "clipped": "the signal is clipped",
    "amplitude": "its amplitude is not that of an ECG",
    "einthoven": "its limb leads do not follow from each other",
}
KNOWN_FLAGS = tuple(_WORDS)


class Verdict(NamedTuple):
    """Whether a recording is refused, and why.

    Attributes:
        score: a score above the threshold is refused.
        reason: why it is refused, as text; None: it is not refused.
    """

    score: float
    reason: Optional[str]


@dataclass(frozen=True)
class Refusal:
    """Rules and distances for refusing recordings.

    E is the length of an embedding, K the number of directions. Arrays are base64 of little-endian float32, in pieces,
    because configs cannot have long texts.

    Attributes:
        mean: E, of the training embeddings.
        directions: K x E, orthonormal, the directions with the largest variance.
        variances: K, along these directions.
        residual: variance along each of the other E - K directions.
        center, spread: mean and deviation of the logarithm of the distance, for recordings of the calibration.
        threshold: the highest score that is not refused.
        share: largest share of refused recordings among recordings like those of the calibration.
        flags: quality flags that are refused.
        most_missing: largest number of missing leads that is accepted.
        shortest: shortest accepted length, s.
        steepness: center of this measure and its spreads below and above, so that its scores are on the scale of the
            distance; empty: it is not used.
        polarity: the same without a spread above, as high values are usual.
    """

    mean: Tuple[str, ...]
    directions: Tuple[str, ...]
    variances: Tuple[str, ...]
    residual: float
    center: float
    spread: float
    threshold: float
    share: float
    flags: Tuple[str, ...] = ()
    most_missing: int = 0
    shortest: float = 0.0
    steepness: Tuple[float, ...] = ()
    polarity: Tuple[float, ...] = ()

    @functools.cached_property
    def _arrays(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean = decoded(self.mean)
        return mean, decoded(self.directions).reshape(-1, len(mean)), decoded(self.variances)

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores of embeddings alone: float64, N.

        Args:
            embeddings: N x E, of recordings.
        """
        return (log_distances(embeddings, *self._arrays, self.residual) - self.center) / self.spread

    def scores(self, embeddings: np.ndarray, shapes: np.ndarray) -> np.ndarray:
        """Scores of the distance, the steepness and the polarity: float64, N x 3; -inf where one is unknown.

        Args:
            embeddings: N x E, of recordings.
            shapes: N x 2, as `SignalShape`.
        """
        return np.column_stack([self.distances(embeddings), *self.shape_scores(shapes)])

    def shape_scores(self, shapes: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """The last two of `scores`: float64, N each."""
        steepness, polarity = np.asarray(shapes, np.float64).T
        return _unusual(steepness, self.steepness), _unusual(polarity, self.polarity)

    def verdict(
        self,
        embedding: np.ndarray,
        seconds: float,
        missing: int,
        flags: Sequence[str],
        shape: SignalShape = UNKNOWN_SHAPE,
    ) -> Verdict:
        """Whether one recording is refused, and why.

        Args:
            embedding: E.
            seconds: its length.
            missing: number of the model's leads that are missing.
            flags: its quality flags, see `prepared.quality.FLAGS`.
            shape: measures of its signal.
        """
        scores = self.scores(np.asarray(embedding, np.float64)[None], np.array([shape]))[0]
        score = float(scores.max())
        broken = self.broken_rules(seconds, missing, flags)
        if broken:
            return Verdict(max(score, self.threshold) + _OF_A_RULE * len(broken), "; ".join(broken))
        if score <= self.threshold:
            return Verdict(score, None)
        return Verdict(score, "; ".join(self._reasons(scores)))

    def _reasons(self, scores: np.ndarray) -> Iterator[str]:
        """Of the scores above the threshold, in words."""
        texts = (
            "unlike the ECGs that the model knows",
            "its waves are unusually steep or slow (is the sample rate right?)",
            "its leads point the wrong way (is the signal upside down?)",
        )
        for score, text in zip(scores, texts):
            if score > self.threshold:
                yield f"{text} (score {score:.1f}, limit {self.threshold:.1f})"

    def broken_rules(self, seconds: float, missing: int, flags: Sequence[str]) -> List[str]:
        """Reasons to refuse a recording for any embedding, as texts; arguments as for `verdict`."""
        found = []
        if missing > self.most_missing:
            found.append(f"{missing} lead{'s are' if missing > 1 else ' is'} missing")
        if seconds < self.shortest:
            found.append(f"it has {seconds:.3g} s, less than {self.shortest:.3g} s")
        return found + [_WORDS[flag] for flag in flags if flag in self.flags]

    def check(self) -> None:
        """Check that the values are consistent.

        Raises:
            UserError: arrays or numbers do not fit.
        """
        try:
            mean, directions, variances = self._arrays
            numbers = [self.residual, self.spread, self.center, self.threshold, self.share, self.shortest]
            fits = directions.shape == (len(variances), len(mean)) and self.residual > 0 and self.spread > 0
            fits = fits and bool((variances > 0).all() and np.isfinite([*numbers, self.most_missing]).all())
            fits = fits and {*self.flags} <= {*KNOWN_FLAGS}
            for limits, length in ((self.steepness, 3), (self.polarity, 2)):
                usable = len(limits) == length and bool(np.isfinite(limits).all()) and min(limits[1:]) > 0
                fits = fits and (usable or not limits)
            fits = fits and all(bool(np.isfinite(one).all()) for one in (mean, directions, variances))
        except (ValueError, TypeError):
            fits = False
        if not fits:
            raise UserError("calibration: its refusal data do not fit together; calibrate again")


def _unusual(values: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    """Scores of a measure: how far it is from its center in spreads of its side; -inf where it is unknown."""
    if not limits:
        return np.full(len(values), -np.inf)
    center, below, *above = limits
    apart = values - center
    scores = np.maximum(-apart / below, apart / above[0]) if above else -apart / below
    return np.where(np.isnan(scores), -np.inf, scores)


def log_distances(
    embeddings: np.ndarray, mean: np.ndarray, directions: np.ndarray, variances: np.ndarray, residual: float
) -> np.ndarray:
    """Logarithms of squared Mahalanobis distances: float64, N; see `Refusal` for the arguments."""
    apart = np.asarray(embeddings, np.float64) - mean
    along = apart @ directions.T
    rest = np.maximum((apart**2).sum(axis=1) - (along**2).sum(axis=1), 0)
    return np.log((along**2 / variances).sum(axis=1) + rest / residual + 1e-12)


def encoded(array: np.ndarray) -> Tuple[str, ...]:
    """Encode an array as float32 in pieces of base64."""
    text = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode("ascii")
    return tuple(text[start : start + _PIECE] for start in range(0, len(text), _PIECE))


def decoded(pieces: Sequence[str]) -> np.ndarray:
    """Decode the output of `encoded` to an array, float64."""
    return np.frombuffer(base64.b64decode("".join(pieces), validate=True), "<f4").astype(np.float64)
