"""Settings for making segments of recordings, and one item of the dataset."""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.data.augmentations import AugmentationSettings
from fairseq_signals_ext.data.randomness import item_generator
from fairseq_signals_ext.data.stores import Signal

PAIR_CHOICES = ("none", "fixed", "random", "recording")
SEGMENT_CHOICES = ("all", "random")


@dataclass(frozen=True)
class SegmentSettings:
    """How recordings become inputs of the model.

    Attributes:
        sample_rate: rate of every recording in Hz; None: the rate of the first one.
        segment_seconds: length of a segment in s.
        max_sample_size: largest number of samples of a segment to use; None: all.
        min_sample_size: leave out recordings with fewer samples; None: none.
        leads: positions in `leads.LEADS` of the model's input, in its order.
        pad: keep recordings shorter than a segment, padded with zeros at the end.
        pad_leads: give the model all twelve leads, with zeros for those not loaded or absent.
        standardization: one of `standardising.STANDARDIZATIONS`.
        pairs: "none" (single segments), "fixed" (segments 0 and 1, 2 and 3, ...: CMSC as in ECG-FM), "random" (two
            adjacent windows anywhere in the recording, drawn again in each epoch) or "recording" (an item is all
            segments of a recording).
        segment: of a training set, without pairs: "all" (every segment of a recording) or "random" (one of them, drawn
            again in each epoch: ECG-FM's paper).
        augmentations: applied to every segment of a training set.
    """

    sample_rate: Optional[float] = None
    segment_seconds: float = 5.0
    max_sample_size: Optional[int] = None
    min_sample_size: Optional[int] = None
    leads: Tuple[int, ...] = tuple(range(len(LEADS)))
    pad: bool = False
    pad_leads: bool = False
    standardization: str = "lead"
    pairs: str = "none"
    segment: str = "all"
    augmentations: AugmentationSettings = field(default_factory=AugmentationSettings)

    @property
    def leads_of_model(self) -> Tuple[int, ...]:
        """Return the leads of the model's input; some may be all zeros."""
        return tuple(range(len(LEADS))) if self.pad_leads else self.leads


class Item(NamedTuple):
    """One or more adjacent segments of one recording; the collater standardises them."""

    number: int  # position in the dataset
    signal: Signal
    start: int  # first sample
    segments: int  # 1, 2 for a pair, or all of the recording
    samples: int  # per lead and segment
    seed: int
    epoch: int

    def generator(self) -> np.random.Generator:
        """Return the item's random generator in this epoch, from its start."""
        return item_generator(self.seed, self.epoch, self.number)


def whole_pieces(samples: np.ndarray, length: int, pad: bool, shortest: Optional[int] = None) -> np.ndarray:
    """Return the number of pieces of `length` samples in recordings; int, 0 if a recording is dropped.

    Args:
        samples: int, of each recording.
        pad: a recording shorter than a piece has one.
        shortest: recordings with fewer samples are dropped; None: none.
    """
    pieces = samples // length
    if pad:
        pieces = np.maximum(pieces, samples > 0)
    return np.where(samples >= shortest, pieces, 0) if shortest else pieces
