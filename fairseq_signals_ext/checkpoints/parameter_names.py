"""Parameter names of ECG-FM's checkpoints and of ours, and what differs between a checkpoint and a model."""

from typing import TYPE_CHECKING, Dict, Mapping, Optional

if TYPE_CHECKING:
    from torch import Tensor

_THEIR_POSITION = "conv_pos.pos_conv."
_OUR_POSITION = "encoder.pos_conv."
_FIRST = "0."
_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def rename_ecg_fm_parameters(state: Dict[str, "Tensor"], own: Mapping[str, "Tensor"], prefix: str = "") -> None:
    """Rename, in place, what ECG-FM or another torch calls otherwise than the model does.

    Args:
        state: the checkpoint's parameters.
        own: the model's parameters, with no prefix.
        prefix: what stands before the model's names in `state`, such as `"encoder."`.
    """
    theirs = prefix + _THEIR_POSITION
    for key in [key for key in state if key.startswith(theirs)]:
        _rename(state, key, prefix + _OUR_POSITION + key[len(theirs) :])
    position = _OUR_POSITION + _FIRST
    for old, new in _WEIGHT_NORM.items():
        # torch has two ways to store weight norm, and which one fairseq uses depends on its version
        wanted, other = (old, new) if position + old in own else (new, old)
        _rename(state, prefix + position + other, prefix + position + wanted)


def _rename(state: Dict[str, "Tensor"], old: str, new: str) -> None:
    if old in state and new not in state:  # a file that has both is of no model, and will be refused for it
        state[new] = state.pop(old)


def to_ecg_fm_names(state: Mapping[str, "Tensor"], prefix: str = "") -> Dict[str, "Tensor"]:
    """The same parameters by the names that ECG-FM gives them, and its way to store weight norm.

    Args:
        prefix: what stands before the encoder's names in `state`, such as `"encoder."`.
    """
    ours = prefix + _OUR_POSITION
    renamed = {}
    for key, value in state.items():
        if key.startswith(ours):
            name = key[len(ours) :]
            end = name[len(_FIRST) :]
            key = prefix + _THEIR_POSITION + (_FIRST + _WEIGHT_NORM[end] if end in _WEIGHT_NORM else name)
        renamed[key] = value
    return renamed


def is_ecg_fm(state: Mapping[str, "Tensor"]) -> bool:
    """Whether parameters have the names of ECG-FM's own framework."""
    return any(_THEIR_POSITION in key for key in state)


def difference_of_parameters(state: Mapping[str, "Tensor"], own: Mapping[str, "Tensor"]) -> Optional[str]:
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
