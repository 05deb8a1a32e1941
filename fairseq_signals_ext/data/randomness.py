"""Generators for single items, so that what is random about an item depends on nothing but seed, epoch and item."""

import numpy as np
from numpy.random.bit_generator import ISeedSequence

_MASK = (1 << 64) - 1


class _ItemSeed(ISeedSequence):
    """Seeds a bit generator from three numbers by SplitMix64 (Steele et al. 2014, doi 10.1145/2714064.2660195).

    numpy's own `SeedSequence` takes ten times as long, which is a third of the time of loading an item.
    """

    def __init__(self, seed: int, epoch: int, index: int):
        self.state = _mixed(_mixed(_mixed(seed) + epoch) + index)

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        """`n_words` numbers of `dtype`, as numpy's bit generators ask for."""
        words = []
        for _ in range(n_words):
            self.state = _mixed(self.state)
            words.append(self.state)
        return np.array(words, np.uint64).astype(dtype)


def _mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def item_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of item `index` in `epoch` of a run with `seed`."""
    return np.random.Generator(np.random.PCG64(_ItemSeed(seed, epoch, index)))
