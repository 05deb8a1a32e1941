"""Batches from worker processes, handed over in memory that is used again, and errors in their place.

torch's DataLoader takes new shared memory for each batch. The kernel clears its pages one by one, which for a batch of
40 MB takes as long as half of making it. Here workers copy batches into slots of memory that they share with the main
process, and a slot is free again when nothing there refers to the batch any more. A slot takes memory from its first
use until the run ends.
"""

import itertools
import mmap
import multiprocessing
import os
import weakref
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset

from fairseq_signals_ext.errors import UserError

# by which the main process finds the memory that a worker names; workers are forked and have the same
_MEMORIES: "weakref.WeakValueDictionary[int, SharedBatches]" = weakref.WeakValueDictionary()
_numbers = itertools.count()


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
