"""Make a batch of items: standardised, augmented, and masked in time, written once into one array."""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.augmentations import Augmentation, RandomLeadsMasking, build_augmentations
from fairseq_signals_ext.data.patch_masks import PatchMaskSettings, draw_patch_masks
from fairseq_signals_ext.data.randomness import LEAD_MASKS, item_draws
from fairseq_signals_ext.data.segments import Item, SegmentSettings
from fairseq_signals_ext.data.standardising import Columns, columns_of, finish, place_counts, scale
from fairseq_signals_ext.data.stores import coefficients
from fairseq_signals_ext.data.time_masks import MaskSettings, mask_channels, mask_frames

Leads = Tuple[int, ...]
Masks = Union[MaskSettings, PatchMaskSettings]
# of a recording: 90 hours in segments of 5 s
_MOST_SEGMENTS = 2**16


class _Plan(NamedTuple):
    """How to process recordings with certain leads."""

    stored: Columns  # rows of the recording that are wanted
    columns: Columns  # where in the model's input they go
    augmentations: List[Augmentation]


class Collater:
    """Makes batches of N segments; segments of one item are adjacent.

    Args:
        settings: of the model's input.
        sample_rate: Hz.
        segment_samples: of a segment; shorter ones are padded to this length, so that predictions for a segment do not
            depend on the others in its batch.
        training: augment.
        masks: settings of masks; None: the model draws them.
        keep_original: add the segments before augmentation to the batch.

    Raises:
        UserError: a wrong option of an augmentation.
    """

    def __init__(
        self,
        settings: SegmentSettings,
        sample_rate: float,
        segment_samples: int,
        training: bool = True,
        masks: Optional[Masks] = None,
        keep_original: bool = False,
    ):
        self.settings = settings
        self.sample_rate = sample_rate
        self.segment_samples = segment_samples
        self.training = training
        self.masks = masks
        self.keep_original = keep_original
        self.leads = settings.leads_of_model
        self._plans: Dict[Leads, _Plan] = {}
        first = self._plan(settings.leads).augmentations[:1]
        self._masks_leads_early = (
            not (settings.standardization == "segment" or keep_original)
            and bool(first)
            and isinstance(first[0], RandomLeadsMasking)
        )

    def __call__(self, items: List[Item]) -> Dict[str, Any]:
        """Return a batch: `id`, `patient_id` (with pairs: the patient for CMSC), `segment` (int64, N), and `net_input`:

        * `source`: float32, N x leads x samples, standardised, augmented;
        * `padding_mask`: bool, N x samples, only if a segment is padded;
        * `mask_indices` (bool, N x frames) and `mask_channel_indices` (bool, N x features), if `masks` are given;
        * `masked_frames`: int64, N x masked frames, the same as numbers;
        * for a model with patch masks, instead of these, `visible_patches` and `masked_patches`: see
          `draw_patch_masks`.

        With masks of frames also `sample_size`, the number of masked frames; with `keep_original` also `original`, as
        `source`.
        """
        if not items:
            return {}
        segments = [item.segments for item in items]
        ids = np.repeat([item.number for item in items], segments)
        segment = np.concatenate([np.arange(number) for number in segments])
        samples = np.repeat([item.samples for item in items], segments)
        source = self._standardised(items)
        batch: Dict[str, Any] = {
            "id": torch.from_numpy(ids),
            "patient_id": torch.from_numpy(np.repeat([self._patient(item) for item in items], segments)),
            "segment": torch.from_numpy(segment),
            "net_input": {"source": source},
        }
        if self.keep_original:
            batch["original"] = source.clone()
        self._augment(items, source.numpy())
        if samples.min() < self.segment_samples:
            padding = np.arange(self.segment_samples) >= samples[:, None]
            batch["net_input"]["padding_mask"] = torch.from_numpy(padding)
        if isinstance(self.masks, PatchMaskSettings):
            self._add_patch_masks(self.masks, batch, self._numbers(ids, segment), items[0])
        elif self.masks:
            self._add_masks(self.masks, batch, samples, self._numbers(ids, segment), items[0])
        return batch

    def _numbers(self, ids: Any, segment: Any) -> Any:
        """Return a unique number for each segment of the data set, as seed of its randomness."""
        return ids * (_MOST_SEGMENTS if self.settings.pairs == "recording" else 2) + segment

    def _patient(self, item: Item) -> int:
        return item.signal.patient if self.settings.pairs == "none" else item.signal.pair

    def _standardised(self, items: List[Item]) -> torch.Tensor:
        # numpy's large arrays use huge pages; torch's cause a page fault every 4 kB
        array = np.empty((sum(item.segments for item in items), len(self.leads), self.segment_samples), np.float32)
        for item, rows in _rows_of(items):
            plan = self._plan(item.signal.leads)
            place_counts(array[rows], self._counts(item)[:, plan.stored], plan.columns)
        coefficients = self._coefficients(items)
        if self._masks_leads_early:
            # a lead with gain and offset 0 becomes zero; this is cheaper than masking its samples
            self._mask_leads(items, coefficients)
        source, both = torch.from_numpy(array), torch.from_numpy(coefficients)
        # all at once in torch, which is faster
        scale(source, both[..., 0], both[..., 1])
        for item, rows in _rows_of(items):
            columns = self._plan(item.signal.leads).columns
            finish(self.settings.standardization, array[rows], columns, item.samples)
            if item.samples < self.segment_samples:
                array[rows, :, item.samples :] = 0
        return source

    def _counts(self, item: Item) -> np.ndarray:
        """Return the counts of an item's segments: segments x stored leads x samples."""
        counts = item.signal.counts[:, item.start : item.start + item.segments * item.samples]
        return counts.reshape(len(counts), item.segments, item.samples).transpose(1, 0, 2)

    def _coefficients(self, items: List[Item]) -> np.ndarray:
        """Return gain and offset (float32, N x leads x 2) from counts to the model's input; zero for absent leads."""
        signals = [item.signal for item in items]
        both = np.stack(coefficients(signals, self.settings.standardization, self.settings.leads), axis=-1)
        unwanted = [lead for lead in self.leads if lead not in self.settings.leads]
        both[:, unwanted] = 0
        return np.repeat(both[:, self.leads].astype(np.float32), [item.segments for item in items], axis=0)

    def _mask_leads(self, items: List[Item], coefficients: np.ndarray) -> None:
        """Apply random lead masking, the first augmentation, to all segments at once."""
        numbers = [self._numbers(item.number, segment) for item in items for segment in range(item.segments)]
        draws = item_draws(items[0].seed, items[0].epoch, numbers, RandomLeadsMasking.DRAWS, LEAD_MASKS)
        alike = len({item.signal.leads for item in items}) == 1
        for item, rows in [(items[0], slice(None))] if alike else _rows_of(items):
            plan = self._plan(item.signal.leads)
            masking: Any = plan.augmentations[0]
            coefficients[rows, plan.columns] *= ~masking.masked(draws[rows])[..., None]

    def _augment(self, items: List[Item], source: np.ndarray) -> None:
        """Apply the augmentations, except that of `_mask_leads`, to each segment of the batch."""
        for item, rows in _rows_of(items):
            plan = self._plan(item.signal.leads)
            augmentations = plan.augmentations[int(self._masks_leads_early) :]
            if not augmentations:
                return
            generator = item.generator()
            for segment in source[rows, :, : item.samples]:
                chosen = segment[plan.columns]
                for augment in augmentations:
                    augment(chosen, generator)
                if not isinstance(plan.columns, slice):  # a slice is a view, so nothing to copy back
                    segment[plan.columns] = chosen

    def _plan(self, stored: Leads) -> _Plan:
        """Return the plan for recordings with the leads `stored`; absent leads are not augmented."""
        if stored not in self._plans:
            present = tuple(lead for lead in self.settings.leads if lead in stored)
            options = self.settings.augmentations
            self._plans[stored] = _Plan(
                stored=columns_of([stored.index(lead) for lead in present], len(stored)),
                columns=columns_of([self.leads.index(lead) for lead in present], len(self.leads)),
                augmentations=build_augmentations(options, present, self.sample_rate) if self.training else [],
            )
        return self._plans[stored]

    def _add_masks(
        self, masks: MaskSettings, batch: Dict[str, Any], samples: np.ndarray, rows: np.ndarray, item: Item
    ) -> None:
        channels = mask_channels(masks, rows, item.seed, item.epoch)
        if channels is not None:
            batch["net_input"]["mask_channel_indices"] = torch.from_numpy(channels)
        frames = mask_frames(masks, samples, self.segment_samples, rows, item.seed, item.epoch)
        if frames is not None:
            batch["net_input"]["mask_indices"] = torch.from_numpy(frames)
            numbers = frames.sum(axis=1)
            batch["sample_size"] = int(numbers.sum())
            if (numbers != numbers[0]).any():
                raise UserError("segments mask different numbers of frames: set model.require_same_masks=true")
            batch["net_input"]["masked_frames"] = torch.from_numpy(np.nonzero(frames)[1].reshape(len(frames), -1))

    def _add_patch_masks(self, masks: PatchMaskSettings, batch: Dict[str, Any], rows: np.ndarray, item: Item) -> None:
        drawn = draw_patch_masks(masks, self.segment_samples, rows, item.seed, item.epoch)
        for name, patches in zip(("visible_patches", "masked_patches"), drawn):
            batch["net_input"][name] = torch.from_numpy(patches)


def first_segments(batch: Dict[str, Any], number: int) -> Dict[str, Any]:
    """Return the first segments of a batch, or all if it has at most `number`."""
    segments = len(batch["id"])
    if segments <= number:
        return batch
    cut = {key: value[:number] if torch.is_tensor(value) else value for key, value in batch.items()}
    cut["net_input"] = {key: value[:number] for key, value in batch["net_input"].items()}
    if "sample_size" in batch:
        cut["sample_size"] = batch["sample_size"] * number // segments
    return cut


def _rows_of(items: List[Item]) -> Iterator[Tuple[Item, slice]]:
    """Yield each item with the rows of its segments in the batch."""
    at = 0
    for item in items:
        yield item, slice(at, at + item.segments)
        at += item.segments
