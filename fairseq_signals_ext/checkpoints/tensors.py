"""What a file that torch read may hold: data of bounded depth, and tensors that are all there."""

from typing import Any, List, Tuple

# a training of 1,000 parameters leaves some 10,000 values
_MOST_VALUES = 1_000_000
_DEEPEST = 32


def check_tensors(state: Any) -> None:
    """Raise a `ValueError` unless all tensors in nested lists and dictionaries are plain ones with all their values.

    A tensor that shows one value many times, or none, would need the memory for all of them once it is used.
    """
    left: List[Tuple[Any, str, int]] = [(state, "", 0)]
    values = 0
    while left:
        value, place, depth = left.pop()
        values += 1
        if values + len(left) > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
        if hasattr(value, "element_size"):
            problem = _what_is_wrong_with(value)
            if problem:
                raise ValueError(f"its tensor {place!r:.100} {problem}")
        elif isinstance(value, (dict, list, tuple, set)):
            if depth >= _DEEPEST:
                raise ValueError(f"what it holds is more than {_DEEPEST} levels deep, or goes in a circle")
            items = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(inner, key if isinstance(key, str) else place, depth + 1) for key, inner in items]


def _what_is_wrong_with(tensor: Any) -> str:
    """Why a tensor is none that a training saves; empty if it may be one."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_nested:
        return "is not of plain numbers (it is sparse, quantized, complex or nested)"
    if tensor.device.type != "cpu":
        return f"has no values (it is on the device {tensor.device.type!r})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"says that it has {tensor.numel():,} values, but the file holds fewer"
    return ""
