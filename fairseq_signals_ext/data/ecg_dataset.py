"""Datasets for training: 5 s segments, or pairs of adjacent segments, optionally with labels."""

import logging
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import FairseqDataset

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.values import as_size
from fairseq_signals_ext.data.batch_order import SharedBatches, cut_blocks, shuffle_in_windows, window_bytes
from fairseq_signals_ext.data.collating import Collater, Masks
from fairseq_signals_ext.data.label_table import LabelTable
from fairseq_signals_ext.data.model_labels import KnownLabels
from fairseq_signals_ext.data.randomness import PAIR_START, SEGMENT_CHOICE, item_draws
from fairseq_signals_ext.data.segments import PAIR_CHOICES, SEGMENT_CHOICES, Item, SegmentSettings, whole_pieces
from fairseq_signals_ext.data.stores import ShardStore, Store, check_has_amplitude, check_leads, check_sample_rate

logger = logging.getLogger(__name__)

# Per worker: two batches that torch requests in advance and, unless optimization.update_freq is above the number of
# workers, its part of the batches in use (of an update, and of the next one). A batch without a free slot takes new
# memory, as usual in torch: 8 of 24 with one worker and update_freq=[3].
_SLOTS = 4


class EcgDataset(FairseqDataset):
    """Segments (or pairs of them) of the recordings in a store.

    A batch of B items holds N = B segments, or N = 2B with pairs, both segments of a pair next to each other, or all
    segments of B recordings.

    Args:
        store: source of the recordings.
        settings: how they become segments.
        name: of the split, for messages.
        training: augment; random order.
        seed: of the run; all randomness depends only on it, the epoch and the item.
        masks: settings of masks; None: the model draws masks itself, or has none.
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
        masks: Optional[Masks] = None,
        keep_original: bool = False,
    ):
        if settings.pairs not in PAIR_CHOICES:
            raise UserError(f"pairs={settings.pairs!r}: use one of {', '.join(PAIR_CHOICES)}")
        if settings.segment not in SEGMENT_CHOICES:
            raise UserError(f"segment={settings.segment!r}: use one of {', '.join(SEGMENT_CHOICES)}")
        check_has_amplitude(store.is_standardised, settings.standardization, name)
        self.store = store
        self.settings = settings
        self.name = name
        self.training = training
        self.seed = seed
        # shared, so that changes reach persistent worker processes
        self._epoch = torch.ones(1, dtype=torch.int64).share_memory_()
        self._largest_batch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._windows: Optional[_Windows] = None
        self._workers = 0
        self._shared: Optional[SharedBatches] = None

        first = store.read(0)
        self.sample_rate = settings.sample_rate or first.sample_rate
        check_sample_rate(first, self.sample_rate)
        whole = int(round(settings.segment_seconds * self.sample_rate))
        self.segment_samples = min(whole, settings.max_sample_size or whole)
        self._takes_all = settings.pairs == "recording"
        self.segments = 1 if settings.pairs == "none" else 2
        if self._takes_all:
            self.segments = max(1, int(store.samples.max()) // whole)
        self._stride = whole
        self._draws_segment = training and settings.pairs == "none" and settings.segment == "random"
        self._recording, self._start = self._cut()
        self._collate = Collater(settings, self.sample_rate, self.segment_samples, training, masks, keep_original)

    def _cut(self) -> Tuple[np.ndarray, np.ndarray]:
        """Return recording and first sample of each item; too short recordings are dropped and counted in the log."""
        samples, stride = self.store.samples, self._stride
        least = 1 if self._takes_all else self.segments
        pads = self.settings.pad and self.settings.pairs == "none"
        items = whole_pieces(samples, stride * least, pads, self.settings.min_sample_size)
        if self._takes_all:
            items = np.minimum(items, 1)
        if self._draws_segment:
            items = np.minimum(items, 1)
        kept = int(np.count_nonzero(items))
        needed = stride * least / self.sample_rate
        what = (
            "pairs of adjacent segments" if least == 2 else "recordings in segments" if self._takes_all else "segments"
        )
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
    def kept(self) -> np.ndarray:
        """Positions in the manifest of the recordings that are not dropped."""
        return np.unique(self._recording)

    @property
    def epoch(self) -> int:
        """Epoch of the training, from 1."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the training, also in worker processes."""
        self._epoch[0] = epoch

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each item, int64."""
        available = self.store.samples[self._recording].astype(np.int64)
        return np.minimum(available, self.segment_samples * self.segments)

    def size(self, index: int) -> int:
        """Return the samples of item `index`."""
        return self.num_tokens(index)

    def num_tokens(self, index: int) -> int:
        """Return the samples of item `index`, which `dataset.max_tokens` counts."""
        return min(int(self.store.samples[self._recording[index]]), self.segment_samples * self.segments)

    def num_tokens_vec(self, indices: Sequence[int]) -> np.ndarray:
        """Return the samples of items."""
        return self.sizes[np.asarray(indices)]

    def shuffle_in_windows(self, gigabytes: float) -> None:
        """Shuffle within windows of so many GB of stored data, for data larger than memory; see `batch_order`.

        While a window is read, the next one is read ahead, so that the page cache should hold two.

        Raises:
            UserError: the data are not in shards, or the size is invalid.
        """
        if not isinstance(self.store, ShardStore):
            hint = "prepare shards with fairseq-signals-ext prepare, or leave the option out"
            raise UserError(f"{self.name}: task.shuffle_window_gb is for shards, and these are .mat files; {hint}")
        self._windows = _Windows(self.store, self._recording, gigabytes)

    def ordered_indices(self) -> np.ndarray:
        """Return all items: in random order for training (by numpy's seed, which fairseq sets), else as stored."""
        if not self.training:
            return np.arange(len(self))
        return self._windows.shuffle() if self._windows else np.random.permutation(len(self))

    def share_batches(self, workers: int) -> None:
        """Let worker processes return batches in `SharedBatches`, as soon as the size of batches is known.

        This takes memory for four batches per worker: 4 x 41 MB with 171 pairs of 5 s, 12 leads and 500 Hz.
        """
        self._workers = workers

    @property
    def largest_batch(self) -> int:
        """Items of the largest batch of the epoch, the same on all ranks; 0 before batches were made."""
        return int(self._largest_batch.item())

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
    ) -> Sequence[np.ndarray]:
        """Return batches like fairseq, but of all items.

        fairseq leaves out the last batch unless its size is a multiple of `required_batch_size_multiple`, by
        default 8: a validation set of seven recordings would be empty.
        """
        batches = super().batch_by_size(indices, max_tokens, max_sentences, required_batch_size_multiple=1)
        # before any batch of the epoch is collated: fairseq makes the list before it starts the workers, and with
        # rebuild_batches again before it sends the first batch of another epoch to persistent workers
        self._largest_batch[0] = max(map(len, batches), default=0)
        if self._workers and self._shared is None:
            segment = len(self.settings.leads_of_model) * self.segment_samples * 4
            self._shared = SharedBatches(_SLOTS * self._workers, self.largest_batch * self.segments * segment)
        return batches

    def __getitem__(self, index: int) -> Item:
        """Item `index` in the current epoch.

        Raises:
            UserError: the recording cannot be read, has another sample rate, or lacks a lead.
        """
        index, epoch = int(index), self.epoch
        if self._windows:
            self._windows.will_read(index)
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
        segments = total // self._stride if self._takes_all else self.segments
        return Item(index, signal, start, segments, samples, self.seed, epoch)

    def collater(self, items: List[Item]) -> Dict[str, Any]:
        """Return a batch; see `Collater`.

        After `batch_by_size` also `most_segments`, an int: upper limit for the segments of a batch on all ranks.
        """
        batch = self._collate(items)
        if items and self.largest_batch:
            batch["most_segments"] = self.largest_batch * self.segments
        if items and self._shared is not None and torch.utils.data.get_worker_info() is not None:
            batch["net_input"]["source"] = self._shared.send(batch["net_input"]["source"])
        return batch


class _Windows:
    """Shuffles the items of a dataset in windows, and reads each window ahead.

    Data of the epoch are in shared memory, for persistent worker processes. Their race conditions are harmless: a block
    may be requested twice, or only when its first item is read.
    """

    def __init__(self, store: ShardStore, recording: np.ndarray, gigabytes: float):
        self._store = store
        store.expect_read_ahead()
        used, position = np.unique(recording, return_inverse=True)
        start, size = store.places(used)
        self._window = window_bytes(gigabytes, int(size.max()))
        self._blocks = cut_blocks(store.manifest.shard[used], start, size, self._window)
        self._recordings = used[self._blocks.recordings]
        self._block_of_item = self._blocks.block[position]
        blocks = len(self._blocks.size)
        self._position = torch.zeros(len(recording), dtype=torch.int32).share_memory_()
        self._bounds, self._due, self._ahead = torch.full((3, blocks + 1), len(recording)).share_memory_()
        self._next = torch.zeros(1, dtype=torch.int64).share_memory_()  # of `_due`
        self._asked = torch.zeros(blocks, dtype=torch.bool).share_memory_()
        logger.info(
            f"shuffled in windows of {gigabytes:g} GB: {as_size(size.sum())} in {blocks} blocks of neighbours; "
            f"each window is read ahead, so that two should fit into memory beside the processes"
        )

    def shuffle(self) -> np.ndarray:
        """Return all items in the order of a new epoch, by numpy's seed."""
        rng = np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint64))
        order = shuffle_in_windows(self._block_of_item, self._blocks.size, self._window, rng)
        self._position[torch.from_numpy(order.items)] = torch.arange(len(order.items), dtype=torch.int32)
        self._bounds.fill_(len(order.items))
        self._bounds[: len(order.bounds)] = torch.from_numpy(order.bounds)
        self._due.fill_(len(order.items))
        self._due[: len(order.due)] = torch.from_numpy(order.due)
        self._ahead[: len(order.ahead)] = torch.from_numpy(order.ahead)
        self._asked.fill_(False)
        self._next.fill_(0)
        return order.items

    def will_read(self, item: int) -> None:
        """Read ahead before `item` is read: its block, and a part of the next window."""
        position, following = int(self._position[item]), int(self._next)
        if self._due[following] <= position:
            following = self._without_windows_left_out(following, position)
        while self._due[following] <= position:
            self._ask_for(int(self._ahead[following]))
            following += 1
        self._next.fill_(following)
        self._ask_for(int(self._block_of_item[item]))

    def _without_windows_left_out(self, following: int, position: int) -> int:
        window = int(torch.searchsorted(self._bounds, position, right=True)) - 1
        # a run that continues within an epoch has read only its first batch (in fairseq), and nothing up to this
        # window; blocks due since the window began are for the next one
        if window > 0 and self._due[following] < self._bounds[window - 1]:
            return int(torch.searchsorted(self._due, int(self._bounds[window])))
        return following

    def _ask_for(self, block: int) -> None:
        if not self._asked[block]:
            self._asked[block] = True
            first, stop = self._blocks.first[block : block + 2]
            self._store.read_ahead(self._recordings[first:stop])


class LabelledEcgDataset(EcgDataset):
    """Segments with labels, joined by the recording's `idx`.

    Args:
        labels: the table; None: labels are stored beside the signals, as `label` in a `.mat` file.
        num_labels: L, expected number of labels.
        classes: labels are 1, 0 or NaN; else any numbers.
        exclusive: exactly one of a recording's labels is 1.
        others: see `EcgDataset`.
    """

    def __init__(
        self,
        *args: Any,
        labels: Optional[LabelTable],
        num_labels: int,
        classes: bool,
        exclusive: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.labels = KnownLabels(labels, num_labels, classes, exclusive)

    def known(self) -> np.ndarray:
        """Return the labels of all recordings, see `KnownLabels.of_store`."""
        return self.labels.of_store(self.store)

    def collater(self, items: List[Item]) -> Dict[str, Any]:
        """Return a batch of `EcgDataset` with `idx` (int64, N) and `label` (float64, N x L; NaN where not known).

        Labels are float64, as fairseq rounds float32 of a batch when it trains with fp16 or bf16.

        Raises:
            UserError: a recording has no label.
        """
        batch = super().collater(items)
        if items:
            signals = [item.signal for item in items]
            batch["idx"] = torch.tensor([signal.idx for signal in signals])
            batch["label"] = torch.from_numpy(self.labels.of(signals))
        return batch
