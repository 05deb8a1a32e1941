"""Parameter names of ECG-FM's checkpoints, and what differs between a checkpoint and a model."""

from typing import Dict, Mapping, Optional

from torch import Tensor

_POSITION = "encoder.pos_conv.0."
_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def rename_ecg_fm_parameters(state: Dict[str, Tensor], own: Mapping[str, Tensor], prefix: str = "") -> None:
    """Rename, in place, what ECG-FM or another torch calls otherwise than the model does.

    Args:
        state: the checkpoint's parameters.
        own: the model's parameters, with no prefix.
        prefix: what stands before the model's names in `state`, such as `"encoder."`.
    """
    theirs = f"{prefix}conv_pos.pos_conv."
    for key in [key for key in state if key.startswith(theirs)]:
        state[f"{prefix}encoder.pos_conv.{key[len(theirs) :]}"] = state.pop(key)
    for old, new in _WEIGHT_NORM.items():
        # torch has two ways to store weight norm, and which one fairseq uses depends on its version
        wanted, other = (old, new) if _POSITION + old in own else (new, old)
        if prefix + _POSITION + other in state:
            state[prefix + _POSITION + wanted] = state.pop(prefix + _POSITION + other)


def difference_of_parameters(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Optional[str]:
    """One line on the first parameters that are missing, unknown or of another shape; None if all agree."""
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and state[key].shape != own[key].shape]
    parts = []
    if shapes:
        key = shapes[0]
        parts.append(f"{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} here{_more(shapes)}")
    if missing:
        parts.append(f"it lacks {missing[0]}{_more(missing)}")
    if unknown:
        parts.append(f"it has the unknown {unknown[0]}{_more(unknown)}")
    return "; ".join(parts) or None


def _more(names: list) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
