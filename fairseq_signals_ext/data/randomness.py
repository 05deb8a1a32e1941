"""Random numbers of single items that depend only on seed, epoch and item, not on batch or process.

Numbers come from SplitMix64 (Steele et al. 2014, doi 10.1145/2714064.2660195): numpy's own `SeedSequence` takes ten
times as long, which would be a third of the time for loading an item.
"""

import functools
from typing import Any, Sequence

import numpy as np
from numpy.random.bit_generator import ISeedSequence

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


# purposes of numbers, so that draws for different purposes are independent
AUGMENTATION, LEAD_MASKS, PAIR_START, SEGMENT_CHOICE, PATCH_MASKS, VISIBLE_SHARE = range(6)


def item_generator(seed: int, epoch: int, index: int, purpose: int = AUGMENTATION) -> np.random.Generator:
    """Return the generator of item `index` in `epoch` of a run with `seed`."""
    seed_sequence: Any = _ItemSeed(_start(seed, epoch, purpose, index))
    return np.random.Generator(np.random.PCG64(seed_sequence))


def item_draws(seed: int, epoch: int, indices: Sequence[int], number: int, purpose: int) -> np.ndarray:
    """Return `number` uniform numbers in [0, 1) for each item: float64, items x `number`."""
    starts = np.array([_start(seed, epoch, purpose, index) for index in indices], np.uint64)
    steps = np.arange(1, number + 1, dtype=np.uint64) * np.uint64(_STEP)
    bits = _mixed_array(starts[:, None] + steps)
    return (bits >> np.uint64(11)) * 2.0**-53


class _ItemSeed(ISeedSequence):
    """Seed sequence for numpy's bit generators."""

    def __init__(self, start: int):
        self.start = start

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return `n_words` numbers of `dtype`."""
        words = [_mixed(self.start + number * _STEP) for number in range(1, n_words + 1)]
        return np.array(words, np.uint64).astype(dtype)


def _start(seed: int, epoch: int, purpose: int, index: int) -> int:
    return _mixed(_start_of_epoch(seed, epoch, purpose) + int(index))


@functools.lru_cache(maxsize=64)
def _start_of_epoch(seed: int, epoch: int, purpose: int) -> int:
    return _mixed(_mixed(_mixed(seed) + epoch) + purpose)


def _mixed(value: int) -> int:
    value = (value + _STEP) & _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _mixed_array(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
