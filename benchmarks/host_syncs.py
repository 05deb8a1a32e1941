"""Counting the operations for which a program waits until its GPU has finished; works without a GPU, too."""

import contextlib
import warnings
from collections import Counter
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# their result is a number for Python, or a tensor whose shape depends on values
_WAITS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten.is_nonzero,
    aten.unique_consecutive,
    aten._unique2,
    aten.unique_dim,
    aten.bincount,
    aten.repeat_interleave,
}
_INDEXES = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}


class HostSyncs(TorchDispatchMode):
    """While active, counts operations that make the host wait for the device, by name.

    Of tensors on a CPU it counts those that would on a GPU. Code of torch.compile runs uncompiled meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter = Counter()

    @property
    def total(self) -> int:
        """Return their number."""
        return sum(self.found.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        """Run the operation, and count it if the host waits."""
        kwargs = kwargs or {}
        if self._waits(func.overloadpacket, args, kwargs):
            self.found[str(func.overloadpacket).split(".")[-1]] += 1
        return func(*args, **kwargs)

    @staticmethod
    def _waits(operation: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> bool:
        if operation in _INDEXES:
            # a boolean index is turned into places, whose number is not known before
            return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if operation is aten._to_copy:
            target = kwargs.get("device")
            return target is not None and torch.device(target).type == "cpu" and args[0].device.type != "cpu"
        if operation is aten.copy_:
            return args[0].device.type == "cpu" and args[1].device.type != "cpu"
        return operation in _WAITS


@contextlib.contextmanager
def warned_syncs() -> Iterator[List[Any]]:
    """Return the list of CUDA's warnings, one for each time that the host waits; empty without a GPU."""
    if not torch.cuda.is_available():
        yield []
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message=".*synchronizing CUDA operation")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")
