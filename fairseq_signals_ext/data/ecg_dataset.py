"""The dataset that pretraining reads: 5 s segments, or pairs of adjacent ones, of standardised ECGs."""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import FairseqDataset

from fairseq_signals_ext.data.augmentations import (
    Augmentation,
    AugmentationSettings,
    RandomLeadsMasking,
    build_augmentations,
)
from fairseq_signals_ext.data.randomness import LEAD_MASKS, PAIR_START, item_draws, item_generator
from fairseq_signals_ext.data.stores import (
    Signal,
    Store,
    check_sample_rate,
    missing_leads,
    standardising,
    to_millivolts,
)
from fairseq_signals_ext.data.time_masks import MaskSettings, mask_channels, mask_frames
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS

logger = logging.getLogger(__name__)

PAIR_CHOICES = ("none", "fixed", "random")


@dataclass(frozen=True)
class SegmentSettings:
    """How recordings become inputs of the model.

    Attributes:
        sample_rate: Hz that every recording must have; None: that of the first one.
        segment_seconds: length of a segment in s.
        max_sample_size: use no more than so many samples of a segment; None: all.
        min_sample_size: leave out recordings with fewer samples; None: none.
        leads: positions in `leads.LEADS` that the model gets, in its order.
        pad: keep recordings shorter than a segment, filled up with zeros at the end.
        pad_leads: give the model all twelve leads, with zeros for those not loaded or absent.
        normalize: normalise each segment as a whole instead of each lead over its recording.
        pairs: "none" (single segments), "fixed" (segments 0 and 1, 2 and 3, ...: CMSC as in ECG-FM) or
            "random" (two adjacent windows anywhere in the recording, drawn anew each epoch).
        augmentations: applied to every segment of a training set.
    """

    sample_rate: Optional[float] = None
    segment_seconds: float = 5.0
    max_sample_size: Optional[int] = None
    min_sample_size: Optional[int] = None
    leads: Tuple[int, ...] = tuple(range(len(LEADS)))
    pad: bool = False
    pad_leads: bool = False
    normalize: bool = False
    pairs: str = "none"
    augmentations: AugmentationSettings = field(default_factory=AugmentationSettings)


class Item(NamedTuple):
    """One or two segments of one recording, not yet standardised: `collater` does that into the batch."""

    number: int  # position in the dataset
    signal: Signal
    start: int  # first sample
    segments: int  # 1, or 2 for a pair
    samples: int  # per lead and segment
    seed: int
    epoch: int

    def generator(self) -> np.random.Generator:
        """The item's randomness in this epoch, from its start."""
        return item_generator(self.seed, self.epoch, self.number)


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
        self.store = store
        self.settings = settings
        self.name = name
        self.training = training
        self.seed = seed
        self.masks = masks
        self.keep_original = keep_original
        # shared, so that persistent worker processes see the epoch change
        self._epoch = torch.ones(1, dtype=torch.int64).share_memory_()

        self.sample_rate = settings.sample_rate or store.read(0).sample_rate
        whole = int(round(settings.segment_seconds * self.sample_rate))
        self.segment_samples = min(whole, settings.max_sample_size or whole)
        self.segments = 1 if settings.pairs == "none" else 2
        self.leads = tuple(range(len(LEADS))) if settings.pad_leads else settings.leads
        self._wanted_of_stored: Dict[Tuple[int, ...], Tuple[int, ...]] = {}
        self._recording, self._start = self._cut(whole)
        self._augmentations: Dict[Tuple[int, ...], List[Augmentation]] = {}
        whole_list = self._augmentations_of(settings.leads) if training else []
        self._augments = bool(whole_list)
        self._masks_leads_first = (
            self._augments
            and isinstance(whole_list[0], RandomLeadsMasking)
            and not (settings.normalize or keep_original)
        )

    def _cut(self, stride: int) -> Tuple[np.ndarray, np.ndarray]:
        """Recording and first sample of each item; what is too short is dropped and counted in the log."""
        samples = self.store.samples
        items = samples // (stride * self.segments)
        if self.settings.pad and self.settings.pairs == "none":
            items = np.maximum(items, samples > 0)
        if self.settings.min_sample_size:
            items = np.where(samples >= self.settings.min_sample_size, items, 0)
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
        if not self.settings.pad_leads and len(signal.leads) < len(LEADS):
            missing = missing_leads(signal, self.settings.leads)
            if missing:
                raise UserError(
                    f"{signal.name}: no lead {', '.join(missing)}; "
                    f"set task.enable_padding_leads=true to fill it with zeros, or choose task.leads_to_load"
                )
        start, total = int(self._start[index]), signal.counts.shape[1]
        if self.settings.pairs == "random":
            latest = total - 2 * self.segment_samples
            start = int(item_draws(self.seed, epoch, [index], 1, PAIR_START)[0, 0] * (latest + 1))
        samples = min(self.segment_samples, total - start)
        return Item(index, signal, start, self.segments, samples, self.seed, epoch)

    def collater(self, items: List[Item]) -> Dict[str, Any]:
        """A batch: `id`, `patient_id`, `segment` (int64, N) and `net_input`, whose tensors are

        * `source`: float32, N x leads x samples, standardised, augmented;
        * `padding_mask`: bool, N x samples, only if a segment is padded;
        * `mask_indices` (bool, N x frames) and `mask_channel_indices` (bool, N x features), if `masks` are given.

        With masks also `sample_size`, the number of masked frames; with `keep_original` also `original`, as `source`.
        """
        if not items:
            return {}
        longest = max(item.samples for item in items)
        # numpy's large arrays lie in huge pages, where torch's cost a page fault every 4 kB
        array = np.empty((sum(item.segments for item in items), len(self.leads), longest), np.float32)
        source = torch.from_numpy(array)
        coefficients = self._coefficients(items)
        for item, rows in _rows_of(items):
            self._copy(item, array[rows])
        if self._masks_leads_first:
            # a lead whose gain and offset are zero is zero, and cheaper to mask than its samples
            self._mask_leads(items, coefficients)
        source.mul_(torch.from_numpy(coefficients[..., :1])).add_(torch.from_numpy(coefficients[..., 1:]))
        self._finish(items, source)
        original = source.clone() if self.keep_original else None
        if self._augments:
            self._augment(items, array)
        segment = np.concatenate([np.arange(item.segments) for item in items])
        ids = np.repeat([item.number for item in items], [item.segments for item in items])
        patients = np.repeat([item.signal.patient for item in items], [item.segments for item in items])
        net_input: Dict[str, torch.Tensor] = {"source": source}
        batch: Dict[str, Any] = {
            "id": torch.from_numpy(ids),
            "patient_id": torch.from_numpy(patients),
            "segment": torch.from_numpy(segment),
            "net_input": net_input,
        }
        samples = np.repeat([item.samples for item in items], [item.segments for item in items])
        if samples.min() < longest:
            net_input["padding_mask"] = torch.from_numpy(np.arange(longest) >= samples[:, None])
        if self.masks:
            batch.update(self._add_masks(self.masks, net_input, samples, ids * 2 + segment))
        if original is not None:
            batch["original"] = original
        return batch

    def _coefficients(self, items: List[Item]) -> np.ndarray:
        """Gain and offset, N x leads x 2, that turn counts into the model's input; zero for absent leads."""
        signals = [item.signal for item in items]
        both = np.stack((to_millivolts if self.settings.normalize else standardising)(signals), axis=-1)
        if self.leads != self.settings.leads:
            absent = [lead for lead in self.leads if lead not in self.settings.leads]
            both[:, absent] = 0
        chosen = both[:, self.leads].astype(np.float32)
        return np.repeat(chosen, [item.segments for item in items], axis=0)

    def _copy(self, item: Item, rows: np.ndarray) -> None:
        """Counts of an item's segments into `rows`, segments x leads x samples."""
        signal, step = item.signal, item.samples
        counts = signal.counts[:, item.start : item.start + item.segments * step]
        counts = counts.reshape(len(counts), item.segments, step).transpose(1, 0, 2)
        if signal.leads == self.leads:
            rows[:, :, :step] = counts
            return
        present = self._present(signal.leads)
        rows[:] = 0
        rows[:, self._columns(present), :step] = counts[:, [signal.leads.index(lead) for lead in present]]

    def _finish(self, items: List[Item], source: torch.Tensor) -> None:
        """Normalise segments as a whole, if so configured, and fill what follows a short one with zeros."""
        for item, rows in _rows_of(items):
            if self.settings.normalize:
                columns = self._columns(self._present(item.signal.leads))
                block = source[rows, columns, : item.samples]
                source[rows, columns, : item.samples] = torch.nn.functional.layer_norm(block, block.shape[1:])
            if item.samples < source.size(-1):
                source[rows, :, item.samples :] = 0

    def _leads_differ(self, items: List[Item]) -> bool:
        first = items[0].signal.leads
        return any(item.signal.leads is not first and item.signal.leads != first for item in items)

    def _columns(self, leads: Tuple[int, ...]) -> List[int]:
        return [self.leads.index(lead) for lead in leads]

    def _present(self, stored: Tuple[int, ...]) -> Tuple[int, ...]:
        """Leads that are both wanted and stored, in the order wanted."""
        if stored not in self._wanted_of_stored:
            self._wanted_of_stored[stored] = tuple(lead for lead in self.settings.leads if lead in stored)
        return self._wanted_of_stored[stored]

    def _mask_leads(self, items: List[Item], coefficients: np.ndarray) -> None:
        """Apply random lead masking, the first augmentation, to all segments' gains and offsets at once."""
        numbers = [2 * item.number + segment for item in items for segment in range(item.segments)]
        draws = item_draws(self.seed, self.epoch, numbers, RandomLeadsMasking.DRAWS, LEAD_MASKS)
        for item, rows in _rows_of(items) if self._leads_differ(items) else [(items[0], slice(None))]:
            present = self._present(item.signal.leads)
            masking: Any = self._augmentations_of(present)[0]
            columns = slice(None) if present == self.leads else self._columns(present)
            coefficients[rows, columns] *= ~masking.masked(draws[rows])[..., None]

    def _augment(self, items: List[Item], source: np.ndarray) -> None:
        """Apply the augmentations, apart from one that `_mask_leads` has done, to each segment of the batch."""
        first = int(self._masks_leads_first)
        for item, rows in _rows_of(items):
            present = self._present(item.signal.leads)
            augmentations = self._augmentations_of(present)[first:]
            if not augmentations:
                return
            columns = None if present == self.leads else self._columns(present)
            generator = item.generator()
            for segment in source[rows, :, : item.samples]:
                chosen = segment if columns is None else segment[columns]
                for augment in augmentations:
                    augment(chosen, generator)
                if columns is not None:
                    segment[columns] = chosen

    def _augmentations_of(self, leads: Tuple[int, ...]) -> List[Augmentation]:
        # leads that a recording lacks stay zero, so augmentations are made for those that are there
        if leads not in self._augmentations:
            self._augmentations[leads] = build_augmentations(self.settings.augmentations, leads, self.sample_rate)
        return self._augmentations[leads]

    def _add_masks(
        self, masks: MaskSettings, net_input: Dict[str, Any], samples: np.ndarray, rows: np.ndarray
    ) -> Dict[str, int]:
        channels = mask_channels(masks, rows, self.seed, self.epoch)
        if channels is not None:
            net_input["mask_channel_indices"] = torch.from_numpy(channels)
        frames = mask_frames(masks, samples, rows, self.seed, self.epoch)
        if frames is None:
            return {}
        net_input["mask_indices"] = torch.from_numpy(frames)
        return {"sample_size": int(frames.sum())}


def _rows_of(items: List[Item]) -> Iterator[Tuple[Item, slice]]:
    """Each item with the rows of the batch that its segments take."""
    at = 0
    for item in items:
        yield item, slice(at, at + item.segments)
        at += item.segments
