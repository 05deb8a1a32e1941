"""One rank of a CPU data-parallel run of the real `fairseq-hydra-train`; leaves its gradients of the first update.

    python rank.py GRADIENTS.pt [hydra arguments of fairseq-hydra-train]

fairseq has no CPU data-parallel run of its own: its `all_gather_list` uses CUDA buffers, and it tells torch's
DistributedDataParallel to use GPU 0. Torch wants NCCL before it sends gradients in bf16, which gloo can do as well.
Randomness that depends on how segments are spread over ranks (negatives and Gumbel noise) is taken out, so that runs
can be compared.
"""

import pickle
import sys
from typing import Any, List

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> List[Any]:
    """What fairseq's does, without CUDA, and with its limit."""
    if len(pickle.dumps(data)) > max_size:
        raise ValueError(f"encoded data size exceeds max_size ({max_size})")
    gathered: List[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, data)
    return gathered


class DistributedDataParallelOnCpu(DistributedDataParallel):
    """Without the GPU that fairseq names, and without the check that there is NCCL."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, output_device: Any = None, **kwargs: Any):
        super().__init__(module, **kwargs)

    def _check_comm_hook(self, hook: Any) -> None:
        pass


def next_frames_as_negatives(segments: int, frames: int, number: int, device: torch.device) -> torch.Tensor:
    """The masked frames that follow, instead of random ones: N x B x M."""
    shifts = torch.arange(1, number + 1, device=device).unsqueeze(-1)
    return ((torch.arange(frames, device=device) + shifts) % frames).unsqueeze(1).expand(-1, segments, -1)


def noiseless_gumbel_softmax(logits: torch.Tensor, tau: float = 1, hard: bool = False, **kwargs: Any) -> torch.Tensor:
    """Straight-through argmax without noise."""
    soft = (logits / tau).softmax(-1)
    chosen = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return chosen - soft.detach() + soft


def main() -> None:
    """Patch, train, save the gradients."""
    import fairseq.distributed.utils
    import fairseq.models.distributed_fairseq_model
    import fairseq.trainer
    from fairseq_cli import hydra_train

    import fairseq_signals_ext
    from fairseq_signals_ext.models import ecg_wav2vec2

    target = sys.argv.pop(1)
    fairseq.distributed.utils.all_gather_list = all_gather_list
    fairseq.models.distributed_fairseq_model.DistributedDataParallel = DistributedDataParallelOnCpu
    fairseq_signals_ext.register()
    ecg_wav2vec2.draw_negatives = next_frames_as_negatives
    torch.nn.functional.gumbel_softmax = noiseless_gumbel_softmax
    stock_train_step = fairseq.trainer.Trainer.train_step

    def train_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = stock_train_step(self, *args, **kwargs)
        gradients = {
            name.split("module.")[-1]: value.grad.clone()  # data-parallel wrappers put "module." before a name
            for name, value in self.model.named_parameters()
            if value.grad is not None
        }
        torch.save(gradients, target)
        return result

    fairseq.trainer.Trainer.train_step = train_step
    hydra_train.cli_main()


if __name__ == "__main__":
    main()
