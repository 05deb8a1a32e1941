"""Parts of wav2vec 2.0 that compute the same as fairseq's, faster or more precisely; compilation of models.

Shapes of the contrast: B segments, M masked frames per segment, D values per target, N negatives per frame.
"""

import os
import shutil
import sys
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterator, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from fairseq.modules import GumbelVectorQuantizer, MultiheadAttention
from torch import Tensor, nn

from fairseq_signals_ext.common.errors import UserError

# selects masked frames: their places (rows, frames), each B x M, or a mask, bool, B x T
MaskedFrames = Union[Tuple[Tensor, Tensor], Tensor]
_EPS = 1e-8  # smallest norm, as in torch's cosine similarity


def compile_parts(model: Any) -> None:
    """Compile the convolutions, each layer of the transformer by itself, and the quantizer; a second call does nothing.

    All layers share one compiled code, and layers may be dropped. Parameters keep their names. Batches of another size,
    such as the last one of an epoch, compile as well.

    Raises:
        UserError: the C++ compiler or Python's headers are missing, or a classifier reads the outputs of layers.
    """
    check_compiler()
    looks_into_layers = str(getattr(model.cfg, "layers", "last")) in ("mix", "0")
    model = getattr(model, "encoder", model) if not hasattr(model, "feature_extractor") else model  # of a classifier
    if not hasattr(model, "feature_extractor"):
        raise UserError("model.compile is for ECG-FM's encoder; set model.compile=false")
    if looks_into_layers:
        raise UserError(
            "model.compile gives no look into the layers, which model.layers asks for; set one of them only"
        )
    for part in _parts_of_one_shape(model):
        if part._compiled_call_impl is None:
            part.compile(dynamic=False)
    # the number of masked frames differs from batch to batch
    if model.quantizer is not None and model.quantizer._compiled_call_impl is None:
        model.quantizer.compile()


def _parts_of_one_shape(model: Any) -> Iterator[nn.Module]:
    yield model.feature_extractor
    if not model.cfg.fft_pos_conv:  # torch compiles no complex numbers
        yield model.encoder.pos_conv
    yield from model.encoder.layers


def without_compiling(model: Any) -> ContextManager[Any]:
    """Do not compile in validation: its few batches do not justify code for two more sizes, and torch keeps few."""
    # torch's compiler takes seconds to import
    if not getattr(model.cfg, "compile", False) or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def check_compiler() -> None:
    """Raise a `UserError` if torch.compile lacks something that it needs."""
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"model.compile needs a C++ compiler, and there is no {compiler}: install it (apt install g++), "
            f"name another in the variable CXX, or set model.compile=false"
        )
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        raise UserError(
            "model.compile needs Python's headers, and Python.h is not there: install them "
            "(apt install python3-dev), or set model.compile=false"
        )


def places_of(masked_frames: Tensor) -> Tuple[Tensor, Tensor]:
    """Return rows and frames that select masked frames, B x M each, from `masked_frames`, int64, B x M."""
    rows = torch.arange(len(masked_frames), device=masked_frames.device).unsqueeze(-1)
    return rows.expand_as(masked_frames), masked_frames


def draw_negatives(segments: int, frames: int, number: int, device: torch.device) -> Tensor:
    """Draw for each of `frames` masked frames `number` others of the same segment: int64, N x B x M.

    Drawn as fairseq does on a CPU, but with the generator of `device`.
    """
    drawn = torch.randint(0, frames - 1, (segments, frames * number), device=device)
    own = torch.arange(frames, device=device).repeat_interleave(number)
    others = drawn + (drawn >= own)
    return others.view(segments, frames, number).permute(2, 0, 1)


def targets_at(targets: Tensor, places: Tensor) -> Tensor:
    """Select targets, N x B x M x D, from `targets`, B x M x D, at `places`, N x B x M."""
    segments, frames, _ = targets.shape
    flat = places + frames * torch.arange(segments, device=targets.device).unsqueeze(-1)
    # not by indexing: on a CPU torch sums its gradients in no fixed order
    return targets.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, places.shape)


def similarities(predicted: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Return cosines, (1 + N) x B x M, first with the own target; -inf where a negative equals the target.

    Args:
        predicted: B x M x D.
        targets: B x M x D.
        negatives: N x B x M x D.
    """
    same = (targets == negatives).all(-1)
    every = torch.cat([targets.unsqueeze(0), negatives])
    cosines = torch.cosine_similarity(predicted.float(), every.float(), dim=-1)
    return cosines.masked_fill(F.pad(same, (0, 0, 0, 0, 1, 0)), float("-inf"))


def similarities_by_place(predicted: Tensor, targets: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The same, for negatives given by places: B x M x M cosines instead of N copies of the targets.

    Args:
        predicted: B x M x D.
        targets: B x M x D.
        places: int64, N x B x M: masked frames of the same segment.
        weights: int64, D: random numbers for fingerprints of targets.
    """
    cosines = F.normalize(predicted.float(), dim=-1, eps=_EPS) @ F.normalize(targets.float(), dim=-1, eps=_EPS).mT
    negatives = places.permute(1, 2, 0)
    marks = _fingerprints(targets, weights)
    same = marks.unsqueeze(1).expand_as(cosines).gather(2, negatives) == marks.unsqueeze(2)
    of_negatives = cosines.gather(2, negatives).masked_fill(same, float("-inf"))
    return torch.cat([cosines.diagonal(dim1=1, dim2=2).unsqueeze(2), of_negatives], dim=2).permute(2, 0, 1)


def _fingerprints(targets: Tensor, weights: Tensor) -> Tensor:
    """Return int64, B x M: equal for equal targets, almost never equal for others."""
    # adding zero turns -0.0 into 0.0
    bits = (targets.detach().float() + 0.0).contiguous().view(torch.int32)
    return (bits.long() * weights).sum(-1)


class FftConv1d(nn.Conv1d):
    """Convolution by FFT, for the positional convolution: its kernel is nearly as long as a segment.

    In training it computes torch's convolution of stride 1 by the convolution theorem, in fp32; equal up to rounding.

    In the time domain, each of T frames takes K products for each pair of features of a group; in the frequency domain,
    a few. Also, long grouped kernels are slow in bf16 on GPUs: on an H200 six times slower than in fp32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return features, B x features x (T + 2 * padding - K + 1), from `x`, B x features x T."""
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._convolved(x.float()).type_as(x)

    def _convolved(self, x: Tensor) -> Tensor:
        frames, (kernel,), (padding,) = x.size(-1), self.kernel_size, self.padding
        # with a shorter length, outputs would wrap around
        length = fast_length(frames + kernel - 1 + 2 * max(0, padding - kernel + 1))
        # groups x frequencies x segments x features in, and groups x frequencies x features in x features out
        signal = torch.fft.rfft(x, n=length).unflatten(1, (self.groups, -1)).permute(1, 3, 0, 2)
        weight = torch.fft.rfft(self.weight.float(), n=length).unflatten(0, (self.groups, -1)).permute(0, 3, 2, 1)
        # the conjugate, because torch's convolution is a correlation
        product = (signal @ weight.conj()).permute(2, 0, 3, 1).flatten(1, 2)
        result = torch.fft.irfft(product, n=length)
        # for output 0 the kernel starts `padding` frames before the first one
        result = result.roll(padding, dims=-1)[..., : frames + 2 * padding - kernel + 1]
        return result if self.bias is None else result + self.bias.float().unsqueeze(-1)


def fast_length(least: int) -> int:
    """Return the next product of powers of 2, 3 and 5; as in scipy.fft, which torch.compile cannot trace."""
    length, rest = least, 0
    while rest != 1:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        length += 1
    return length - 1


class FusedSelfAttention(MultiheadAttention):
    """fairseq's attention with one matrix product, the same parameters and names; equal up to rounding.

    Only in training. fairseq's own code runs if attention weights, or another option that the encoder does not use, are
    requested.
    """

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        need_weights: bool = True,
        attn_mask: Optional[Tensor] = None,
        **others: Any,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Return the output, frames x segments x features, as `query`, and the weights, None unless requested."""
        if not self.training or need_weights or attn_mask is not None or others:
            return super().forward(
                query, key, value, key_padding_mask, need_weights=need_weights, attn_mask=attn_mask, **others
            )
        frames, segments, features = query.shape
        projections = (self.q_proj, self.k_proj, self.v_proj)
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        joint = F.linear(query, weight, bias).view(frames, segments, 3, self.num_heads, self.head_dim)
        q, k, v = joint.permute(2, 1, 3, 0, 4)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if key_padding_mask is None else ~key_padding_mask.bool()[:, None, None],
            dropout_p=self.dropout_module.p,
        )
        return self.out_proj(attended.permute(2, 0, 1, 3).reshape(frames, segments, features)), None


class Fp32Quantizer(GumbelVectorQuantizer):
    """The quantizer of targets (arXiv 2006.11477, section 2).

    fairseq's, in the precision of its weights even under autocast: a rounded logit could choose another codeword.

    Shapes: B segments, M frames, G groups of V codewords, D values per codeword.
    """

    def forward(self, x: Tensor, produce_targets: bool = False) -> Dict[str, Any]:
        """Return fairseq's result for features `x`, B x M x F."""
        with torch.autocast(x.device.type, enabled=False):
            return self._quantized(x.to(self.vars.dtype), produce_targets)

    def _quantized(self, x: Tensor, produce_targets: bool) -> Dict[str, Any]:
        return super().forward(x, produce_targets)


class MatrixQuantizer(Fp32Quantizer):
    """The same numbers, up to rounding, by a matrix product of choices and codewords.

    fairseq multiplies each choice with all codewords and sums: it stores B x M x G x V x D numbers, 1.4 billion for 342
    segments of the base model.
    """

    def _quantized(self, x: Tensor, produce_targets: bool) -> Dict[str, Any]:
        logits = self.weight_proj(x).unflatten(-1, (self.groups, self.num_vars))
        best = logits.argmax(dim=-1)
        probabilities = logits.float().softmax(dim=-1).mean(dim=(0, 1))
        with torch.no_grad():
            hard = torch.zeros_like(logits).scatter_(-1, best.unsqueeze(-1), 1.0)
            used = hard.float().mean(dim=(0, 1))
        if self.training:
            # fairseq 0.12.2 has no such option, and always chooses one codeword
            is_hard = getattr(self, "hard", True)
            choice = F.gumbel_softmax(logits.float(), tau=self.curr_temp, hard=is_hard).type_as(logits)
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
    """Return the exponential of the entropy of probabilities, G x V, summed over groups; with fairseq's epsilon."""
    return torch.exp(-torch.sum(probabilities * torch.log(probabilities + 1e-7), dim=-1)).sum()
