"""Random order of batches with reading in large blocks, and reusable shared memory for batches of worker processes.

Recordings are cut into blocks in storage order. In each epoch the blocks are permuted across all shards and divided
into windows; the items within each window are shuffled, one window after the other. Guarantees, for W windows of at
least m blocks each:

* Each item occurs once per epoch, and all items of a block are in one window: a cache of one window reads each block
  once. No window is larger than wanted, and all have nearly the same size. A batch may contain items of two windows.
* The position of an item is uniform over the epoch, up to the difference between the sizes of blocks.
* Two items of different blocks are in the same batch as often as in a permutation of all items, within a factor of
  1 - 1/m. `window_bytes` ensures m >= 16, so within 6 %; with 4 MB blocks in windows of 16 GB within 0.03 %.
* Two items of one block (neighbours in storage) are in the same batch W times as often as in such a permutation,
  which is still rare: in a batch of b items from a window of n, (c - 1)(b - 1) / (n - 1) items share a block of c items
  with a given one: 0.04 for 171 pairs of 10 s, 12 leads and 500 Hz, of 16 GB.

Order and windows are the same on all ranks: each machine reads the whole window, and trains on its part of it.

torch's DataLoader allocates new shared memory for each batch. The kernel clears its pages one by one, which for a batch
of 40 MB takes half as long as making the batch. Here workers copy batches into slots of shared memory, and a slot is
free when the main process has no more references to the batch. A slot takes memory from its first use until the run
ends.
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
# shared memory by number, the same in the main process and its forked workers
_MEMORIES: "weakref.WeakValueDictionary[int, SharedBatches]" = weakref.WeakValueDictionary()
_numbers = itertools.count()


class Blocks(NamedTuple):
    """Recordings cut into blocks of neighbours.

    Attributes:
        block: int32, the block of each recording.
        recordings: int64, recordings in storage order.
        first: int64, blocks + 1: block k is `recordings[first[k]:first[k + 1]]`.
        size: int64, bytes of each block.
    """

    block: np.ndarray
    recordings: np.ndarray
    first: np.ndarray
    size: np.ndarray


class WindowedOrder(NamedTuple):
    """The order of an epoch.

    Attributes:
        items: int64, items in reading order.
        bounds: int64, windows + 1: window k is `items[bounds[k]:bounds[k + 1]]`.
        due: int64, ascending: the position in `items` by which each block of `ahead` must be requested.
        ahead: int32, the blocks of all windows except the first, requested while the previous window is read.
    """

    items: np.ndarray
    bounds: np.ndarray
    due: np.ndarray
    ahead: np.ndarray


def window_bytes(gigabytes: float, largest: int) -> int:
    """Return the size of a window in bytes.

    Args:
        gigabytes: of stored data, 1e9 bytes each.
        largest: bytes of the largest recording.

    Raises:
        UserError: not a size, or too small for shuffling.
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
    """Cut recordings into blocks for windows of `window` bytes; blocks of a shard have nearly the same size.

    Args:
        shard: integer, the shard of each recording.
        start: integer, offset of each recording in its shard.
        size: integer, bytes of each recording.
        window: bytes, from `window_bytes`; a block has a 64th of it or 4 MiB, and up to one recording more.
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
    """Return the order of an epoch.

    Args:
        block_of_item: integer, the block of each item.
        size: integer, bytes of each block.
        window: largest size of a window in bytes, more than the largest block.
        rng: random generator.
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
    """Return the window of each block; `blocks` is their order."""
    ordered = size[blocks]
    total = int(ordered.sum())
    # by the centre of a block, so that a window has at most one block more than its share
    number = 1 if total <= window else -(-total // (window - int(ordered.max())))
    centre = np.cumsum(ordered) - ordered / 2
    window_of_block = np.empty(len(size), np.int64)
    window_of_block[blocks] = np.minimum(centre * number / max(total, 1), number - 1)
    return window_of_block


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype)


class SharedBatches:
    """Slots of shared memory for float32 tensors; must be created before the workers are forked.

    If there is no free slot, because the main process keeps batches, a worker sends a tensor in torch's way. So does a
    worker that is not forked, which gets None when this is pickled.

    Args:
        slots: number of slots.
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
        """Return the object to send instead of `tensor`: the main process receives a tensor with the same values."""
        slot = self._take() if tensor.nbytes <= self.size else None
        if slot is None:
            return tensor
        self._array(slot, tuple(tensor.shape))[:] = tensor.numpy()
        return _Sent(self._number, slot, tuple(tensor.shape))

    def receive(self, slot: int, shape: Tuple[int, ...]) -> torch.Tensor:
        """Return the tensor in a slot; the slot is free when the tensor's storage is freed."""
        array = self._array(slot, shape)
        # torch keeps the array as long as a tensor uses its memory
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
        # a process that is forked meanwhile also has the tensor, but must not free the slot
        if os.getpid() == process:
            self._taken[slot] = 0


class _Sent:
    """A reference to a tensor in a slot; unpickling returns the tensor."""

    def __init__(self, memory: int, slot: int, shape: Tuple[int, ...]):
        self._place = memory, slot, shape

    def __reduce__(self) -> Tuple[Any, Tuple[int, int, Tuple[int, ...]]]:
        return _received, self._place


def _received(memory: int, slot: int, shape: Tuple[int, ...]) -> torch.Tensor:
    return _MEMORIES[memory].receive(slot, shape)


class ErrorsAsSamples(BaseWrapperDataset):
    """Return a `UserError`, such as for a damaged recording, as a sample.

    The data loader and hydra would print tracebacks for an exception; this ends the run with one line.
    """

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error

    def collater(self, samples: List[Any]) -> Dict[str, Any]:
        """Return a batch, or `{"error": message}` if a sample is an error."""
        try:
            for sample in samples:
                if isinstance(sample, UserError):
                    raise sample
            return self.dataset.collater(samples)
        except UserError as error:
            return {"error": str(error)}

    def batch_by_size(self, *args: Any, **kwargs: Any) -> Any:
        """Call the dataset's method, which fairseq's wrapper lacks."""
        return self.dataset.batch_by_size(*args, **kwargs)


def exit_if_error(sample: Dict[str, Any]) -> None:
    """End the program with the error message in a sample, if there is one."""
    if "error" in sample:
        raise SystemExit(f"error: {sample['error']}")
