"""Optimizer `fused_adam`: the update of fairseq's `adam`, for all parameters at once by torch's fused kernel."""

import ast
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import Adam, FairseqAdamConfig
from fairseq.optim.adam import FairseqAdam as AdamOfFairseq
from torch import Tensor
from torch.optim.adamw import adamw

from fairseq_signals_ext.common.errors import UserError, exits_on_user_error

_OTHER_KERNELS = ("use_old_adam", "fp16_adam_stats", "tpu")


@dataclass
class FusedAdamConfig(FairseqAdamConfig):
    """Options of fairseq's `adam`; options that choose among its own kernels must stay off."""


class FusedAdam(Adam):
    """The update of fairseq's `Adam`, up to rounding, by one kernel per device.

    Adam is of Kingma & Ba 2015 (arXiv 1412.6980), its weight decay of Loshchilov & Hutter 2019 (arXiv 1711.05101).
    The state is the same as of fairseq's `Adam`: for each parameter `step` (int), `exp_avg` and `exp_avg_sq` (its shape
    and dtype). Nothing waits for the device.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: Tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @property
    def supports_memory_efficient_fp16(self) -> bool:
        """False: the kernel does not make float32 copies of parameters in 16 bits."""
        return False

    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """Update the parameters that have a gradient; returns what `closure` returns."""
        loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                for (device, step), parameters in self._count(group["params"]).items():
                    self._update(parameters, device, step, group)
        return loss

    def _count(self, parameters: Iterable[Tensor]) -> Dict[Tuple[torch.device, int], List[Tensor]]:
        """Group the parameters with a gradient by device and by their increased number of updates.

        The numbers differ, because a parameter without gradient, such as of a dropped layer, is not updated.
        """
        counted = defaultdict(list)
        for parameter in parameters:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
            state["step"] += 1
            counted[parameter.device, state["step"]].append(parameter)
        return counted

    def _update(self, parameters: List[Tensor], device: torch.device, step: int, group: Dict[str, Any]) -> None:
        # the kernel reads memory in order, ignoring strides: on a CPU, others give wrong values silently
        values = [parameter.contiguous() for parameter in parameters]
        gradients = [parameter.grad.contiguous() for parameter in parameters]
        states = [self.state[parameter] for parameter in parameters]
        for state in states:
            state.update(exp_avg=state["exp_avg"].contiguous(), exp_avg_sq=state["exp_avg_sq"].contiguous())
        beta1, beta2 = group["betas"]
        adamw(
            values,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            # filled on the device, so that nothing is copied to it; torch adds 1 to each
            state_steps=list(torch.full((len(values),), step - 1.0, dtype=torch.float32, device=device).unbind()),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            # torch adds it to sqrt(v) / sqrt(1 - beta2^t), fairseq to sqrt(v)
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            maximize=False,
        )
        for parameter, value in zip(parameters, values):
            if not parameter.is_contiguous():
                parameter.copy_(value)


# fairseq resumes a training only if the optimizer's class has the name in the checkpoint: with the name of fairseq's
# `adam`, which has the same state, each can continue the other's training
@register_optimizer("fused_adam", dataclass=FusedAdamConfig)
class FairseqAdam(AdamOfFairseq):
    """fairseq's `adam` by torch's fused kernel: the same options and checkpoints, equal values up to rounding."""

    @exits_on_user_error
    def __init__(self, cfg: FusedAdamConfig, params: Iterable[Any]):
        FairseqOptimizer.__init__(self, cfg)  # not the one of `adam`, which builds another optimizer
        _check_options(cfg)
        self._optimizer = FusedAdam(params, **self.optimizer_config)
        _check_parameters(list(self.params))

    @property
    def optimizer_config(self) -> Dict[str, Any]:
        """Return arguments of `FusedAdam`, which also replace the ones in a checkpoint.

        Raises:
            UserError: `adam_betas` are not two numbers.
        """
        lr: Any = self.cfg.lr
        return {
            "lr": lr[0] if isinstance(lr, Sequence) else lr,
            "betas": _parse_betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Optional[Callable[[Tensor], Tensor]] = None) -> Tensor:
        """Clip gradients like fairseq, but compute all norms at once.

        Args:
            max_norm: scale gradients so that their common norm is at most this; 0: only measure it.
            aggregate_norm_fn: computes the norm over all ranks from this rank's norm.

        Returns:
            The norm before clipping, a scalar on the gradients' device.
        """
        gradients = [parameter.grad.detach() for parameter in self.params if parameter.grad is not None]
        if not gradients or any(hasattr(parameter, "expert") for parameter in self.params):
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        device = gradients[0].device
        norms = [norm.to(device) for norm in torch._foreach_norm(gradients)]
        total = torch.linalg.vector_norm(torch.stack(norms))
        if aggregate_norm_fn is not None:
            total = aggregate_norm_fn(total)
        if max_norm > 0:
            torch._foreach_mul_(gradients, (float(max_norm) / (total + 1e-6)).clamp(max=1))
        return total


def _check_options(cfg: FusedAdamConfig) -> None:
    for option in _OTHER_KERNELS:
        if getattr(cfg, option, False):
            hint = "leave it out, or use optimizer._name=adam"
            raise UserError(f"optimizer.{option}: fused_adam always uses torch's fused kernel; {hint}")


def _check_parameters(parameters: List[Tensor]) -> None:
    """Check that the kernel can update these parameters.

    Raises:
        UserError: they have 16 bits, or torch has no such kernel for their device.
    """
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in parameters):
        hint = "leave out common.memory_efficient_fp16 and memory_efficient_bf16, or use optimizer._name=adam"
        raise UserError(f"optimizer fused_adam: parameters in 16 bits, but it updates float32; {hint}")
    for device in {parameter.device for parameter in parameters}:
        probe = torch.nn.Parameter(torch.zeros(1, device=device))
        probe.grad = torch.zeros_like(probe)
        try:
            FusedAdam([probe]).step()
        except NotImplementedError:
            missing = f"torch {torch.__version__} has no fused kernel for device {device.type}"
            hint = "use optimizer._name=adam (for a CPU torch has it since 2.4)"
            raise UserError(f"optimizer fused_adam: {missing}; {hint}") from None


def _parse_betas(betas: Any) -> Tuple[float, float]:
    """Read two numbers from a list, or from text that is never run as code."""
    try:
        first, second = map(float, ast.literal_eval(betas) if isinstance(betas, str) else betas)
        if 0 <= first < 1 and 0 <= second < 1:
            return first, second
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    raise UserError(
        f"optimizer.adam_betas: {str(betas)[:80]!r}: must be two numbers from 0 to below 1; write them like (0.9, 0.98)"
    )
