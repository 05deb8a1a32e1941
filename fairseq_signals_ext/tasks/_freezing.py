"""Keep frozen parameters out of the optimizer's step: weight decay would shrink them.

Parameters that never learn have `requires_grad` off, so that fairseq's trainer does not give them to the optimizer.
Parameters that learn later are left out of steps here: their gradients may be zeros, if fairseq keeps copies of
parameters (bf16, fp16) or sums gradients over ranks by itself (legacy_ddp).
"""

from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from omegaconf import DictConfig, open_dict
from torch import Tensor

from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.tasks._parallel import data_parallel_wrapper, is_sharded

_CONVOLUTIONS = "feature_extractor."


def step_without(optimizer: Any, frozen: Iterable[Tensor]) -> None:
    """Take an optimizer's step that does not change the frozen parameters, bit by bit.

    Args:
        optimizer: of fairseq's trainer; it already has the gradients.
        frozen: parameters of the model, in the optimizer or not.
    """
    numbers = {id(parameter) for parameter in frozen}
    if getattr(optimizer, "has_flat_params", False):
        kept = [piece for parameter, piece in _flat_pieces(optimizer) if id(parameter) in numbers]
        before = [piece.clone() for piece in kept]
        optimizer.step()
        for piece, values in zip(kept, before):
            piece.copy_(values)
        return
    for parameter, stepped in _copies(optimizer):
        if id(parameter) in numbers:
            parameter.grad = stepped.grad = None
    optimizer.step()


def _copies(optimizer: Any) -> Iterator[Tuple[Tensor, Tensor]]:
    """Yield each parameter of the model, and the tensor that the optimizer updates for it, maybe the same."""
    if hasattr(optimizer, "fp32_params"):
        yield from zip(optimizer.fp16_params, optimizer.fp32_params)
    else:
        yield from ((parameter, parameter) for parameter in optimizer.params)


def _flat_pieces(optimizer: Any) -> Iterator[Tuple[Tensor, Tensor]]:
    """Yield each parameter of the model with its own values, and with its piece of the one updated tensor."""
    (flat,) = optimizer.fp32_params.values()
    start = 0
    for parameter in optimizer.fp16_params:
        yield parameter, parameter.data
        yield parameter, flat.data[start : start + parameter.numel()]
        start += parameter.numel()


def expect_missing_gradients(options: Optional[DictConfig]) -> None:
    """Set options, in place, so that DistributedDataParallel does not wait for gradients of frozen parameters.

    Args:
        options: of all sections; None if there are none.
    """
    if options is not None and options.distributed_training.ddp_backend in ("c10d", "pytorch_ddp"):
        with open_dict(options):
            options.distributed_training.find_unused_parameters = True


def check_can_freeze(model: Any, optimizer: Any) -> None:
    """Check that the frozen parameters of this update can be left out of it.

    Args:
        model: as fairseq's trainer passes it, with the wrappers of data-parallel training.

    Raises:
        UserError: with this way to exchange gradients, all parameters must learn.
    """
    later = not model.encoder_learns and not model.cfg.linear_probe
    wrapper = data_parallel_wrapper(model)
    if later and wrapper is not None and not wrapper.find_unused_parameters:
        raise UserError(
            "model.freeze_finetune_updates: ddp_backend=pytorch_ddp waits for gradients of all parameters; set "
            "distributed_training.find_unused_parameters=true, or ddp_backend=legacy_ddp"
        )
    some_never = not model.cfg.feature_grad_mult > 0 or model.layer is not None
    frozen = later or model.cfg.linear_probe or some_never
    if frozen and is_sharded(model) and any(group.get("weight_decay") for group in optimizer.param_groups):
        raise UserError(
            "ddp_backend=fully_sharded: weight decay would shrink frozen parameters, which share tensors with others; "
            "set optimizer.weight_decay=0, or ddp_backend=legacy_ddp"
        )


def leave_out_frozen(state: Dict[str, Any]) -> None:
    """Remove, in place, convolutions that never learned from the optimizer's state in a checkpoint.

    Versions up to 0.1.0 passed them to the optimizer.
    """
    config, optimizer = (state.get("cfg") or {}).get("model") or {}, state.get("last_optimizer_state") or {}
    names, groups = list(state["model"]), optimizer.get("param_groups") or [{}]
    numbers = groups[0].get("params", [])
    if config.get("feature_grad_mult") != 0 or len(groups) > 1 or len(numbers) != len(names):
        return
    learning = [number for number, name in zip(numbers, names) if _CONVOLUTIONS not in name]
    values = {number: value for number, value in optimizer["state"].items() if number in learning}
    state["last_optimizer_state"] = {**optimizer, "param_groups": [{**groups[0], "params": learning}], "state": values}


def check_optimizer_state(checkpoint: Checkpoint, model: Any, resets: str) -> None:
    """Raise a `UserError` unless a checkpoint's optimizer has as many parameters as learn in the model.

    Args:
        resets: options that discard the optimizer's state, for the message.
    """
    state = dict(checkpoint.state)
    leave_out_frozen(state)
    optimizer = state.get("last_optimizer_state") or {}
    learning = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    there, here = sum(len(group["params"]) for group in _groups(optimizer)), len(learning)
    if there == 1 < here:  # all in one tensor
        there, here = _largest(optimizer, sum(learning)), sum(learning)
    if there and there != here and not is_sharded(model):
        raise UserError(
            f"{checkpoint.path}: its optimizer has {there} parameters, but {here} learn here; leave feature_grad_mult, "
            f"linear_probe and other options of the model as they were, or add {resets}"
        )


def _largest(optimizer: Dict[str, Any], default: int) -> int:
    """Return the number of values in the largest tensor of an optimizer's state."""
    tensors = [one for kept in optimizer["state"].values() for one in kept.values() if isinstance(one, Tensor)]
    return max((one.numel() for one in tensors), default=default)


def _groups(optimizer: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Return the groups in the state of an optimizer, or of all parts of a composite optimizer."""
    if "param_groups" in optimizer:
        return list(optimizer["param_groups"])
    parts = [part for part in optimizer.values() if isinstance(part, dict)]
    return [group for part in parts for group in part.get("param_groups", [])]
