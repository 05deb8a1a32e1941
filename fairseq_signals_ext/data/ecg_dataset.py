"""The dataset that training reads: 5 s segments, or pairs of adjacent ones, of ECGs."""

import logging
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import FairseqDataset

from fairseq_signals_ext.data.collating import Collater
from fairseq_signals_ext.data.randomness import PAIR_START, SEGMENT_CHOICE, item_draws
from fairseq_signals_ext.data.segments import PAIR_CHOICES, SEGMENT_CHOICES, Item, SegmentSettings
from fairseq_signals_ext.data.stores import Store, check_leads, check_sample_rate
from fairseq_signals_ext.data.time_masks import MaskSettings
from fairseq_signals_ext.errors import UserError

logger = logging.getLogger(__name__)


class EcgDataset(FairseqDataset):
    """Segments (or pairs of them) of the recordings in a store.

    A batch of B items holds N = B segments, or N = 2B with pairs, both segments of a pair next to each other.

    Args:
        store: where recordings are read from.
        settings: how they become segments.
        name: of the split, for messages.
        training: augment; draw in a random order.
        seed: of the run; with epoch and item it decides all randomness.
        masks: what the model will mask; None: the model draws masks itself, or has none.
        keep_original: add the segments before augmentation to the batch.

    Raises:
        UserError: no recording is long enough, or settings that do not fit each other.
    """

    def __init__(
        self,
        store: Store,
        settings: SegmentSettings,
        name: str = "data",
        training: bool = True,
        seed: int = 1,
        masks: Optional[MaskSettings] = None,
        keep_original: bool = False,
    ):
        if settings.pairs not in PAIR_CHOICES:
            raise UserError(f"pairs={settings.pairs!r}: use one of {', '.join(PAIR_CHOICES)}")
        if settings.segment not in SEGMENT_CHOICES:
            raise UserError(f"segment={settings.segment!r}: use one of {', '.join(SEGMENT_CHOICES)}")
        self.store = store
        self.settings = settings
        self.name = name
        self.training = training
        self.seed = seed
        # shared, so that persistent worker processes see the epoch change
        self._epoch = torch.ones(1, dtype=torch.int64).share_memory_()

        first = store.read(0)
        self.sample_rate = settings.sample_rate or first.sample_rate
        check_sample_rate(first, self.sample_rate)
        whole = int(round(settings.segment_seconds * self.sample_rate))
        self.segment_samples = min(whole, settings.max_sample_size or whole)
        self.segments = 1 if settings.pairs == "none" else 2
        self._stride = whole
        self._draws_segment = training and settings.pairs == "none" and settings.segment == "random"
        self._recording, self._start = self._cut()
        self._collate = Collater(settings, self.sample_rate, self.segment_samples, training, masks, keep_original)

    def _cut(self) -> Tuple[np.ndarray, np.ndarray]:
        """Recording and first sample of each item; what is too short is dropped and counted in the log."""
        samples, stride = self.store.samples, self._stride
        items = samples // (stride * self.segments)
        if self.settings.pad and self.settings.pairs == "none":
            items = np.maximum(items, samples > 0)
        if self.settings.min_sample_size:
            items = np.where(samples >= self.settings.min_sample_size, items, 0)
        if self._draws_segment:
            items = np.minimum(items, 1)
        kept = int(np.count_nonzero(items))
        needed = stride * self.segments / self.sample_rate
        what = "segments" if self.segments == 1 else "pairs of adjacent segments"
        logger.info(
            f"{self.name}: {int(items.sum())} {what} of {self.settings.segment_seconds:g} s from {kept} recordings; "
            f"{len(samples) - kept} of {len(samples)} recordings dropped as shorter than {needed:g} s"
        )
        if not kept:
            raise UserError(
                f"{self.name}: none of {len(samples)} recordings has {needed:g} s at {self.sample_rate:g} Hz "
                f"({what} of {self.settings.segment_seconds:g} s); lower task.segment_seconds or give longer recordings"
            )
        recording = np.repeat(np.arange(len(samples), dtype=np.int32), items)
        first_item = np.repeat(np.cumsum(items) - items, items)
        start = (np.arange(len(recording)) - first_item) * (stride * self.segments)
        return recording, start.astype(np.int32)

    def __len__(self) -> int:
        return len(self._recording)

    @property
    def epoch(self) -> int:
        """Epoch of the training, from 1."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Tell the dataset, and its worker processes, the epoch of the training."""
        self._epoch[0] = epoch

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each item, int64."""
        available = self.store.samples[self._recording].astype(np.int64)
        return np.minimum(available, self.segment_samples * self.segments)

    def size(self, index: int) -> int:
        """Samples of item `index`."""
        return self.num_tokens(index)

    def num_tokens(self, index: int) -> int:
        """Samples of item `index`; what `dataset.max_tokens` counts."""
        return min(int(self.store.samples[self._recording[index]]), self.segment_samples * self.segments)

    def num_tokens_vec(self, indices: Sequence[int]) -> np.ndarray:
        """Samples of items."""
        return self.sizes[np.asarray(indices)]

    def ordered_indices(self) -> np.ndarray:
        """All items: in random order for training (by numpy's seed, which fairseq sets), else as they stand."""
        return np.random.permutation(len(self)) if self.training else np.arange(len(self))

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
    ) -> Sequence[np.ndarray]:
        """Batches as fairseq makes them, but of all items.

        fairseq leaves out the last batch unless its size is a multiple of `required_batch_size_multiple`, by
        default 8: a validation set of seven recordings would be empty.
        """
        return super().batch_by_size(indices, max_tokens, max_sentences, required_batch_size_multiple=1)

    def __getitem__(self, index: int) -> Item:
        """Item `index` in the current epoch.

        Raises:
            UserError: the recording cannot be read, has another sample rate, or lacks a lead.
        """
        index, epoch = int(index), self.epoch
        signal = self.store.read(self._recording[index])
        check_sample_rate(signal, self.sample_rate)
        if not self.settings.pad_leads:
            check_leads(signal, self.settings.leads)
        start, total = int(self._start[index]), signal.counts.shape[1]
        if self._draws_segment:
            segments = max(total // self._stride, 1)
            start = self._stride * int(item_draws(self.seed, epoch, [index], 1, SEGMENT_CHOICE)[0, 0] * segments)
        if self.settings.pairs == "random":
            latest = total - 2 * self.segment_samples
            start = int(item_draws(self.seed, epoch, [index], 1, PAIR_START)[0, 0] * (latest + 1))
        samples = min(self.segment_samples, total - start)
        return Item(index, signal, start, self.segments, samples, self.seed, epoch)

    def collater(self, items: List[Item]) -> Dict[str, Any]:
        """A batch; see `Collater`."""
        return self._collate(items)
