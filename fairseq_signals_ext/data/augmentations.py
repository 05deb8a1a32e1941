"""Augmentations of one ECG segment, with the names and options of ECG-FM (arXiv 2408.05178).

Every augmentation draws random numbers for all twelve standard leads and uses those of the existing leads. So the noise
of a lead depends only on the state of the generator, not on the other leads.
"""

import abc
import math
import numbers
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Sequence, Tuple, Type

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS, LIMB_LEADS

_MAINS_HZ = (50.0, 60.0)
_SHIFT_LENGTH_SPREAD = 0.2
_WANDER_FACTOR_SPREAD = 0.5


@dataclass(frozen=True)
class AugmentationSettings:
    """Options of augmentations, with ECG-FM's names and defaults. `build_augmentations` checks them.

    Attributes:
        perturbation_mode: names of augmentations, in the order in which they are applied.
        p: probability of each augmentation, or a single one for all.
        max_amplitude: largest amplitude of noise, in standard deviations of the recording's lead.
        min_amplitude: smallest one.
        dependency: compute the noise of III, aVR, aVL and aVF from the noise of I and II.
        shift_ratio: `baseline_shift`: mean length of a shifted stretch, as a part of the segment.
        num_segment: `baseline_shift`: number of stretches.
        max_freq: `baseline_wander`: highest frequency in Hz.
        min_freq: `baseline_wander`: lowest frequency in Hz.
        k: `baseline_wander`: number of cosines.
        mask_leads_selection: `random_leads_masking`: "random" or "conditional".
        mask_leads_prob: "random": probability that a lead is masked.
        mask_leads_condition: "conditional": how many limb leads and how many chest leads are masked.
    """

    perturbation_mode: Tuple[str, ...] = ()
    p: Tuple[float, ...] = (1.0,)
    max_amplitude: float = 0.1
    min_amplitude: float = 0.0
    dependency: bool = True
    shift_ratio: float = 0.2
    num_segment: int = 1
    max_freq: float = 0.2
    min_freq: float = 0.01
    k: int = 3
    mask_leads_selection: str = "random"
    mask_leads_prob: float = 0.5
    mask_leads_condition: Tuple[int, int] = (4, 5)


class Augmentation(abc.ABC):
    """A change of a segment in place, with a probability.

    Args:
        p: probability, 0 to 1.
        settings: the options, already checked.
        leads: positions in `leads.LEADS` of a segment's rows, each at most once, in any order.
        sample_rate: of the segments, in Hz.
    """

    def __init__(self, p: float, settings: AugmentationSettings, leads: Sequence[int], sample_rate: float):
        self.p = p
        self.settings = settings
        self.leads = np.asarray(leads, dtype=np.intp)
        self.sample_rate = sample_rate

    def __call__(self, segment: np.ndarray, rng: np.random.Generator) -> None:
        """Change `segment` (float32, leads x samples, in standard deviations) in place with probability `p`.

        Raises:
            ValueError: the segment has other rows than `leads`.
        """
        self._check(segment)
        if rng.random() < self.p:
            self._apply(segment, rng)

    def _check(self, segment: np.ndarray) -> None:
        if len(segment) != len(self.leads):
            raise ValueError(f"a segment of {len(segment)} leads, where {len(self.leads)} were announced")

    @abc.abstractmethod
    def _apply(self, segment: np.ndarray, rng: np.random.Generator) -> None:
        """Change `segment` (leads x samples) in place."""


class RandomLeadsMasking(Augmentation):
    """Set leads to zero: random lead masking (RLM) of Oh et al. 2022, "Lead-agnostic self-supervised learning
    for local and global representations of electrocardiogram", arXiv 2203.06889.

    "random" masks each lead independently with `mask_leads_prob`, sometimes all leads; "conditional" masks the numbers
    of limb and chest leads in `mask_leads_condition`, or all leads of a kind if there are fewer.
    """

    #: uniform numbers per segment: one for whether to mask at all, and one for each standard lead
    DRAWS = 1 + len(LEADS)

    def __init__(self, p: float, settings: AugmentationSettings, leads: Sequence[int], sample_rate: float):
        super().__init__(p, settings, leads, sample_rate)
        limb = self.leads < len(LIMB_LEADS)
        self._kinds = tuple(zip((np.flatnonzero(limb), np.flatnonzero(~limb)), settings.mask_leads_condition))

    def masked(self, draws: np.ndarray) -> np.ndarray:
        """Return the leads to set to zero (bool, segments x leads) from uniform numbers, segments x `DRAWS`."""
        of_leads = draws[:, 1:][:, self.leads]
        if self.settings.mask_leads_selection == "random":
            chosen = of_leads < self.settings.mask_leads_prob
        else:
            chosen = np.zeros(of_leads.shape, bool)
            for rows, count in self._kinds:
                order = of_leads[:, rows].argsort(axis=1)
                np.put_along_axis(chosen, rows[order[:, :count]], True, axis=1)
        return chosen & (draws[:, :1] < self.p)

    def __call__(self, segment: np.ndarray, rng: np.random.Generator) -> None:
        """As for every augmentation."""
        self._check(segment)
        self._apply(segment, rng)

    def _apply(self, segment: np.ndarray, rng: np.random.Generator) -> None:
        segment[self.masked(rng.random((1, self.DRAWS)))[0]] = 0


class AdditiveNoise(Augmentation):
    """Noise added to the signal.

    With `dependency` the noise of the derived limb leads is computed from the noise of I and II, as if it had entered
    at the electrodes; I and II need not be among the leads. Only the noise depends on I and II: the signal itself is
    not recomputed, since each of its leads was standardised separately.
    """

    def _apply(self, segment: np.ndarray, rng: np.random.Generator) -> None:
        noise = self._noise(segment.shape[1], rng).astype(np.float32, copy=False)
        if self.settings.dependency:
            one, two = noise[:2]
            noise[2] = two - one
            noise[3] = -(one + two) / 2
            noise[4] = one - two / 2
            noise[5] = two - one / 2
        segment += noise[self.leads]

    @abc.abstractmethod
    def _noise(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        """A new array, 12 x samples: the noise of the standard leads."""

    def _amplitude(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        return rng.uniform(self.settings.min_amplitude, self.settings.max_amplitude, shape)

    def _cosines(self, frequencies: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
        phases = rng.uniform(0, 2 * np.pi, len(frequencies))
        times = np.arange(samples) / self.sample_rate
        return np.cos(2 * np.pi * frequencies[:, None] * times + phases[:, None])


class PowerlineNoise(AdditiveNoise):
    """Powerline noise, the same in all leads: a cosine of 50 or 60 Hz with random phase (ECG-FM).

    At sample rates below twice this frequency it is aliased, as in a recorder without a filter.
    """

    def _noise(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        amplitude = self._amplitude(rng)
        hum = amplitude * self._cosines(rng.choice(_MAINS_HZ, 1), samples, rng)
        return np.repeat(hum, len(LEADS), axis=0)


class EmgNoise(AdditiveNoise):
    """Muscle noise: white, Gaussian, with a standard deviation drawn for each lead (ECG-FM)."""

    def _noise(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        deviation = self._amplitude(rng, len(LEADS), 1).astype(np.float32)
        return deviation * rng.standard_normal((len(LEADS), samples), dtype=np.float32)


class BaselineShift(AdditiveNoise):
    """Stretches of the segment shifted by one amplitude, each lead up or down (ECG-FM).

    A stretch is about `shift_ratio` of the segment long and may start anywhere it fits; where stretches
    overlap, the shift counts once.
    """

    def _noise(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        mean = self.settings.shift_ratio * samples
        drawn = rng.normal(mean, _SHIFT_LENGTH_SPREAD * mean, self.settings.num_segment)
        lengths = np.clip(np.rint(drawn), 1, samples).astype(np.int64)
        starts = rng.integers(0, samples - lengths + 1)
        shifted = np.zeros(samples)
        for start, length in zip(starts, lengths):
            shifted[start : start + length] = 1
        signs = rng.choice((-1.0, 1.0), len(LEADS))
        # sign times amplitude: subtracting the amplitude would shift all leads over the whole segment
        return np.outer(signs * self._amplitude(rng), shifted)


class BaselineWander(AdditiveNoise):
    """Slow drift as from breathing: a sum of `k` cosines, stronger or weaker in each lead (ECG-FM)."""

    def _noise(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        frequencies = rng.uniform(self.settings.min_freq, self.settings.max_freq, self.settings.k)
        amplitudes = self._amplitude(rng, self.settings.k, 1)
        drift = (amplitudes * self._cosines(frequencies, samples, rng)).sum(axis=0)
        factors = rng.normal(1, _WANDER_FACTOR_SPREAD, len(LEADS))
        return np.outer(factors, drift)


AUGMENTATIONS: Dict[str, Type[Augmentation]] = {
    "random_leads_masking": RandomLeadsMasking,
    "powerline_noise": PowerlineNoise,
    "emg_noise": EmgNoise,
    "baseline_shift": BaselineShift,
    "baseline_wander": BaselineWander,
}


def _is_count(value: Any, low: int, high: float = math.inf) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and low <= int(value) <= high


# (option, condition, hint); the first condition that fails is reported
_RULES: Tuple[Tuple[str, Callable[[AugmentationSettings], bool], str], ...] = (
    (
        "perturbation_mode",
        lambda s: set(s.perturbation_mode) <= set(AUGMENTATIONS),
        f"known: {', '.join(AUGMENTATIONS)}",
    ),
    ("p", lambda s: all(0 <= p <= 1 for p in s.p), "use numbers from 0 to 1"),
    ("p", lambda s: len(s.p) in (1, len(s.perturbation_mode)), "give one number, or one for each perturbation_mode"),
    ("max_amplitude", lambda s: 0 <= s.max_amplitude < math.inf, "use a number of at least 0"),
    ("min_amplitude", lambda s: 0 <= s.min_amplitude <= s.max_amplitude, "use a number from 0 to max_amplitude"),
    ("shift_ratio", lambda s: 0 < s.shift_ratio <= 1, "use a number above 0 and up to 1"),
    ("num_segment", lambda s: _is_count(s.num_segment, 1), "use a whole number of at least 1"),
    ("max_freq", lambda s: 0 <= s.max_freq < math.inf, "use a number of Hz of at least 0"),
    ("min_freq", lambda s: 0 <= s.min_freq <= s.max_freq, "use a number of Hz from 0 to max_freq"),
    ("k", lambda s: _is_count(s.k, 1), "use a whole number of at least 1"),
    (
        "mask_leads_selection",
        lambda s: s.mask_leads_selection in ("random", "conditional"),
        "use random or conditional",
    ),
    ("mask_leads_prob", lambda s: 0 <= s.mask_leads_prob <= 1, "use a number from 0 to 1"),
    (
        "mask_leads_condition",
        lambda s: len(s.mask_leads_condition) == 2 and all(_is_count(n, 0, 6) for n in s.mask_leads_condition),
        "give two whole numbers from 0 to 6: limb leads and chest leads to mask",
    ),
)


def _check(settings: AugmentationSettings) -> None:
    for option, holds, hint in _RULES:
        try:
            good = holds(settings)
        except TypeError:
            good = False
        if not good:
            raise UserError(f"augmentation option {option}={getattr(settings, option)!r}: {hint}")


def build_augmentations(settings: AugmentationSettings, leads: Sequence[int], sample_rate: float) -> List[Augmentation]:
    """Return the augmentations to apply to each segment, in order.

    Args:
        settings: names and options; all are checked, used or not.
        leads: positions in `leads.LEADS` of a segment's rows.
        sample_rate: of the segments, in Hz.

    Raises:
        UserError: an option is wrong; the message names it and its value, with a hint.
    """
    _check(settings)
    names = settings.perturbation_mode
    probabilities = tuple(settings.p) * len(names) if len(settings.p) == 1 else settings.p
    return [AUGMENTATIONS[name](p, settings, leads, sample_rate) for name, p in zip(names, probabilities)]
