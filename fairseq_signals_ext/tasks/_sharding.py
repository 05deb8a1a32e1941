"""Models whose parameters are spread over ranks by `ddp_backend=fully_sharded` (fairscale)."""

from typing import Any

from fairseq.distributed import FullyShardedDataParallel


def is_sharded(model: Any) -> bool:
    """Whether layers of the model keep a part of their parameters only."""
    return any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
