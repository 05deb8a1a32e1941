"""Batches in random order, read in large pieces, and handed over by worker processes in memory used again.

Recordings in the order in which they are stored are cut into blocks, in each epoch the blocks are permuted across all
shards, and as many as fill a window are shuffled together, item by item, one window after the other. What that
guarantees, for W windows of at least m blocks each:

* Each item comes once an epoch, and all of a block's within one window: a cache that holds a window reads each block
  once. No window is larger than asked for, and all are of nearly the same size. A batch may lie across two windows.
* The position of an item is uniform over the epoch, up to the difference between the sizes of blocks.
* Two items of different blocks are in the same batch as often as in a permutation of all items, within a factor of
  1 - 1/m. `window_bytes` sees to it that m >= 16, so within 6 %; with 4 MB blocks in windows of 16 GB within 0.03 %.
* Two items of one block (neighbours in storage) are in the same batch W times as often as in such a permutation,
  which is still rare: of a batch of b items out of a window of n, (c - 1)(b - 1) / (n - 1) share a block of c items
  with a given one: 0.04 for 171 pairs of 10 s, 12 leads and 500 Hz, of 16 GB.

Order and windows are the same on all ranks: each machine reads the whole of a window, and trains on its part of it.

torch's DataLoader takes new shared memory for each batch. The kernel clears its pages one by one, which for a batch of
40 MB takes as long as half of making it. Here workers copy batches into slots of memory that they share with the main
process, and a slot is free again when nothing there refers to the batch any more. A slot takes memory from its first
use until the run ends.
"""

import itertools
import math
import mmap
import multiprocessing
import os
import weakref
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset

from fairseq_signals_ext.common.errors import UserError

_BLOCK_BYTES = 4 << 20  # long enough that disks and network file systems are read at their full rate
_BLOCKS_OF_WINDOW = 64
# by which the main process finds the memory that a worker names; workers are forked and have the same
_MEMORIES: "weakref.WeakValueDictionary[int, SharedBatches]" = weakref.WeakValueDictionary()
_numbers = itertools.count()


class Blocks(NamedTuple):
    """Recordings cut into blocks of neighbours.

    Attributes:
        block: int32, the block of each recording.
        recordings: int64, recordings in the order in which they are stored.
        first: int64, blocks + 1: block k is `recordings[first[k]:first[k + 1]]`.
        size: int64, bytes of each block.
    """

    block: np.ndarray
    recordings: np.ndarray
    first: np.ndarray
    size: np.ndarray


class WindowedOrder(NamedTuple):
    """An epoch.

    Attributes:
        items: int64, items in the order in which they are to be read.
        bounds: int64, windows + 1: window k is `items[bounds[k]:bounds[k + 1]]`.
        due: int64, ascending: by which position in `items` to have asked for each block of `ahead`.
        ahead: int32, the blocks of all windows but the first, asked for while the window before is read.
    """

    items: np.ndarray
    bounds: np.ndarray
    due: np.ndarray
    ahead: np.ndarray


def window_bytes(gigabytes: float, largest: int) -> int:
    """Bytes of a window that was asked for in GB.

    Args:
        gigabytes: of stored data, 1e9 bytes each.
        largest: bytes of the largest recording.

    Raises:
        UserError: no size, or too small to shuffle in.
    """
    if not (math.isfinite(gigabytes) and gigabytes > 0):
        raise UserError(f"task.shuffle_window_gb={gigabytes:g}: use a number of GB above 0, or null for no windows")
    least = largest * _BLOCKS_OF_WINDOW
    window = round(gigabytes * 1e9)
    if window < least:
        raise UserError(
            f"task.shuffle_window_gb={gigabytes:g}: too small to shuffle in; set {math.ceil(least / 1e3) / 1e6:.6f} or "
            f"more, so that a window holds {_BLOCKS_OF_WINDOW} of the largest recording ({largest:,} bytes)"
        )
    return window


def cut_blocks(shard: np.ndarray, start: np.ndarray, size: np.ndarray, window: int) -> Blocks:
    """Cut recordings into blocks for windows of `window` bytes; each shard into blocks of nearly the same size.

    Args:
        shard: integer, the shard of each recording.
        start: integer, where it begins in its shard.
        size: integer, its bytes.
        window: bytes, from `window_bytes`; a block takes a 64th of it or 4 MiB, and up to one recording more.
    """
    recordings = np.lexsort((start, shard))
    shard, size = shard[recordings], size[recordings].astype(np.int64)
    begin = np.cumsum(size) - size
    firsts = np.flatnonzero(np.diff(shard, prepend=shard[0] - 1))
    in_shard = np.diff(np.append(begin[firsts], size.sum()))
    pieces = np.maximum(-(-in_shard // min(_BLOCK_BYTES, window // _BLOCKS_OF_WINDOW)), 1)
    number = np.repeat(np.arange(len(firsts)), np.diff(np.append(firsts, len(size))))
    piece = (begin - begin[firsts][number]) * pieces[number] // np.maximum(in_shard, 1)[number]
    new = np.append(True, (np.diff(number) != 0) | (np.diff(piece) != 0))
    block = np.empty(len(size), np.int32)
    block[recordings] = np.cumsum(new) - 1
    first = np.append(np.flatnonzero(new), len(size))
    return Blocks(block, recordings, first, np.add.reduceat(size, first[:-1]))


def shuffle_in_windows(
    block_of_item: np.ndarray, size: np.ndarray, window: int, rng: np.random.Generator
) -> WindowedOrder:
    """The order of an epoch.

    Args:
        block_of_item: integer, the block of each item.
        size: integer, bytes of each block.
        window: bytes that a window may hold, more than the largest block.
        rng: decides.
    """
    blocks = rng.permutation(len(size))
    window_of_block = _windows_of(blocks, size, window)
    window_of_item = window_of_block[block_of_item]
    items = np.lexsort((rng.random(len(block_of_item)), window_of_item))
    due, ahead = [], []
    windows = np.arange(window_of_block.max() + 2)
    bounds = np.searchsorted(window_of_item[items], windows)
    bounds_of_blocks = np.searchsorted(window_of_block[blocks], windows)
    for number in windows[1:-1]:
        coming = blocks[bounds_of_blocks[number] : bounds_of_blocks[number + 1]]
        before, items_before = bounds[number - 1], bounds[number] - bounds[number - 1]
        due.append(before + np.arange(len(coming)) * items_before // max(len(coming), 1))
        ahead.append(coming)
    return WindowedOrder(items, bounds, _joined(due, np.int64), _joined(ahead, np.int32))


def _windows_of(blocks: np.ndarray, size: np.ndarray, window: int) -> np.ndarray:
    """The window of each block, where `blocks` is their order."""
    ordered = size[blocks]
    total = int(ordered.sum())
    # a block's centre decides, so that a window takes one block more than its part at most
    number = 1 if total <= window else -(-total // (window - int(ordered.max())))
    centre = np.cumsum(ordered) - ordered / 2
    window_of_block = np.empty(len(size), np.int64)
    window_of_block[blocks] = np.minimum(centre * number / max(total, 1), number - 1)
    return window_of_block


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype)


class SharedBatches:
    """Slots for float32 tensors; to be made before the workers are forked.

    A worker that finds no free slot, because the main process keeps batches, sends a tensor as torch does. So does one
    that is not forked, which gets None when this is pickled.

    Args:
        slots: how many.
        size: bytes of each.
    """

    def __init__(self, slots: int, size: int):
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, slots * self.size)
        self._taken = np.frombuffer(mmap.mmap(-1, slots), np.uint8)
        self._lock = multiprocessing.get_context("fork").Lock()
        self._number = next(_numbers)
        _MEMORIES[self._number] = self

    def __reduce__(self) -> Tuple[Any, Tuple[()]]:
        return type(None), ()

    def send(self, tensor: torch.Tensor) -> Any:
        """What a worker is to send instead of `tensor`: the main process receives a tensor with the same values."""
        slot = self._take() if tensor.nbytes <= self.size else None
        if slot is None:
            return tensor
        self._array(slot, tuple(tensor.shape))[:] = tensor.numpy()
        return _Sent(self._number, slot, tuple(tensor.shape))

    def receive(self, slot: int, shape: Tuple[int, ...]) -> torch.Tensor:
        """The tensor in a slot, which is free when the tensor's storage is freed."""
        array = self._array(slot, shape)
        # torch keeps the array for as long as any tensor has its memory
        weakref.finalize(array, self._release, slot, os.getpid()).atexit = False
        return torch.from_numpy(array)

    def _array(self, slot: int, shape: Tuple[int, ...]) -> np.ndarray:
        return np.ndarray(shape, np.float32, self._memory, slot * self.size)

    def _take(self) -> Optional[int]:
        with self._lock:
            free = np.flatnonzero(self._taken == 0)
            if not len(free):
                return None
            self._taken[free[0]] = 1
            return int(free[0])

    def _release(self, slot: int, process: int) -> None:
        # a process that is forked meanwhile has the tensor, too, but not the say
        if os.getpid() == process:
            self._taken[slot] = 0


class _Sent:
    """Stands for a tensor on its way; unpickled, it is the tensor."""

    def __init__(self, memory: int, slot: int, shape: Tuple[int, ...]):
        self._place = memory, slot, shape

    def __reduce__(self) -> Tuple[Any, Tuple[int, int, Tuple[int, ...]]]:
        return _received, self._place


def _received(memory: int, slot: int, shape: Tuple[int, ...]) -> torch.Tensor:
    return _MEMORIES[memory].receive(slot, shape)


class ErrorsAsSamples(BaseWrapperDataset):
    """Hands a `UserError`, such as of a damaged recording in the middle of an epoch, on as a sample.

    The data loader and hydra would bury an exception under tracebacks; so it ends the run with one line.
    """

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error

    def collater(self, samples: List[Any]) -> Dict[str, Any]:
        """A batch, or `{"error": message}` if a sample is an error."""
        try:
            for sample in samples:
                if isinstance(sample, UserError):
                    raise sample
            return self.dataset.collater(samples)
        except UserError as error:
            return {"error": str(error)}

    def batch_by_size(self, *args: Any, **kwargs: Any) -> Any:
        """As the dataset's; fairseq's wrapper leaves it out."""
        return self.dataset.batch_by_size(*args, **kwargs)


def exit_if_error(sample: Dict[str, Any]) -> None:
    """End the program with the message that a sample carries, if it carries one."""
    if "error" in sample:
        raise SystemExit(f"error: {sample['error']}")
