"""Data-parallel training: gradients sent in bf16, and parameters sharded over ranks."""

from typing import Any, Optional

import torch.distributed as dist
from fairseq.distributed import FullyShardedDataParallel
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from fairseq_signals_ext.common.errors import UserError, first_line

_MARK = "_sends_gradients_in_bf16"


def send_gradients_in_bf16(model: Any) -> None:
    """Make DistributedDataParallel send gradients in bf16; call it before a backward pass, also repeatedly.

    With `common.bf16` gradients are bf16 anyway. fairseq's own `ddp_comm_hook` supports only fp16, which overflows with
    the gradients of a loss summed over frames. A single process sends nothing, so nothing is done.

    Args:
        model: as fairseq's trainer passes it, with the wrappers of data-parallel training.

    Raises:
        UserError: the backend is not `ddp_backend=pytorch_ddp` and does not support this, or torch refuses.
    """
    wrapper = data_parallel_wrapper(model)
    if wrapper is None:
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise UserError(
                "task.bf16_gradients needs distributed_training.ddp_backend=pytorch_ddp: set it, or turn this off"
            )
        return
    if hasattr(wrapper, _MARK):
        return
    try:
        wrapper.register_comm_hook(wrapper.process_group, bf16_compress_hook)
    except (TypeError, RuntimeError) as error:  # backend without bf16, or a second hook (ddp_comm_hook=fp16)
        raise UserError(f"task.bf16_gradients: {first_line(error)}; set bf16_gradients=false") from error
    setattr(wrapper, _MARK, True)


def data_parallel_wrapper(model: Any) -> Optional[DistributedDataParallel]:
    """Return the wrapper that sends gradients, inside fairseq's own wrappers."""
    while model is not None and not isinstance(model, DistributedDataParallel):
        model = model._modules.get("module")
    return model


def is_sharded(model: Any) -> bool:
    """Whether layers keep only a part of their parameters (`ddp_backend=fully_sharded`, fairscale)."""
    return any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
