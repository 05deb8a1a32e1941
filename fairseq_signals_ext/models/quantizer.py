"""The quantizer of targets (arXiv 2006.11477, section 2): fairseq's in fp32, and by matrix product."""

from typing import Any, Dict

import torch
import torch.nn.functional as F
from fairseq.modules import GumbelVectorQuantizer
from torch import Tensor


class Fp32Quantizer(GumbelVectorQuantizer):
    """fairseq's, in the precision of its weights even under autocast: a rounded logit would choose another codeword.

    Shapes: B segments, M frames, G groups of V codewords, D values a codeword.
    """

    def forward(self, x: Tensor, produce_targets: bool = False) -> Dict[str, Any]:
        """fairseq's result for features `x`, B x M x F."""
        with torch.autocast(x.device.type, enabled=False):
            return self._quantized(x.to(self.vars.dtype), produce_targets)

    def _quantized(self, x: Tensor, produce_targets: bool) -> Dict[str, Any]:
        return super().forward(x, produce_targets)


class MatrixQuantizer(Fp32Quantizer):
    """The same numbers, up to rounding, of a matrix product of choices and codewords.

    fairseq multiplies each choice with all codewords and adds up, for which it keeps B x M x G x V x D numbers: 1.4
    billion for 342 segments of the base model.
    """

    def _quantized(self, x: Tensor, produce_targets: bool) -> Dict[str, Any]:
        logits = self.weight_proj(x).unflatten(-1, (self.groups, self.num_vars))
        best = logits.argmax(dim=-1)
        probabilities = logits.float().softmax(dim=-1).mean(dim=(0, 1))
        with torch.no_grad():
            hard = torch.zeros_like(logits).scatter_(-1, best.unsqueeze(-1), 1.0)
            used = hard.float().mean(dim=(0, 1))
        if self.training:
            choice = F.gumbel_softmax(logits.float(), tau=self.curr_temp, hard=self.hard).type_as(logits)
        else:
            choice = hard
        codewords = self.vars.view(self.groups, self.num_vars, -1)
        result = {
            "x": torch.einsum("bmgv,gvd->bmgd", choice, codewords).flatten(-2),
            "num_vars": self.num_vars * self.groups,
            "code_perplexity": _perplexity(used),
            "prob_perplexity": _perplexity(probabilities),
            "temp": self.curr_temp,
        }
        if produce_targets:
            result["targets"] = choice.argmax(dim=-1)
        return result


def _perplexity(probabilities: Tensor) -> Tensor:
    """Sum over groups of the exponential of the entropy, of probabilities G x V; with fairseq's small number."""
    return torch.exp(-torch.sum(probabilities * torch.log(probabilities + 1e-7), dim=-1)).sum()
