"""One rank of a CPU data-parallel run of the real `fairseq-hydra-train`; leaves its gradients of the first update.

    python rank.py GRADIENTS.pt [hydra arguments of fairseq-hydra-train]

fairseq has no CPU data-parallel run of its own: its `all_gather_list` uses CUDA buffers. Randomness that depends on
how segments are spread over ranks (negatives and Gumbel noise) is taken out, so that runs can be compared.
"""

import pickle
import sys
from typing import Any, List

import torch
import torch.distributed as dist


def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> List[Any]:
    """What fairseq's does, without CUDA, and with its limit."""
    if len(pickle.dumps(data)) > max_size:
        raise ValueError(f"encoded data size exceeds max_size ({max_size})")
    gathered: List[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, data)
    return gathered


def next_frames_as_negatives(self: Any, y: torch.Tensor, num: int, padding_count: Any = None) -> Any:
    """The masked frames that follow, instead of random ones."""
    shifts = [y.roll(-shift, dims=1) for shift in range(1, self.n_negatives + 1)]
    return torch.stack(shifts), None


def noiseless_gumbel_softmax(logits: torch.Tensor, tau: float = 1, hard: bool = False, **kwargs: Any) -> torch.Tensor:
    """Straight-through argmax without noise."""
    soft = (logits / tau).softmax(-1)
    chosen = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return chosen - soft.detach() + soft


def main() -> None:
    """Patch, train, save the gradients."""
    import fairseq.distributed.utils
    import fairseq.trainer
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
    from fairseq_cli import hydra_train

    target = sys.argv.pop(1)
    fairseq.distributed.utils.all_gather_list = all_gather_list
    Wav2Vec2Model.sample_negatives = next_frames_as_negatives
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
