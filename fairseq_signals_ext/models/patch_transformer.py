"""A pre-norm transformer of patches of an ECG: fixed positions, no biases, norms without parameters.

The matrix after a norm replaces the gain of the norm, so weight decay, the same for all parameters, cannot shrink the
output of a norm.
"""

import math
from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_signals_ext.common.conv_layers import Geometry
from fairseq_signals_ext.models.encoder import padding_of_frames

LEADS_TOGETHER, PER_LEAD = "leads_together", "per_lead"
_STD = 0.02
_LONGEST_PERIOD = 10_000


class Layer(nn.Module):
    """Self-attention and two linear layers, each applied to its normalised input and added to its input."""

    def __init__(self, dimensions: int, ffn_dimensions: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dimensions, 3 * dimensions, bias=False)
        self.out = nn.Linear(dimensions, dimensions, bias=False)
        self.fc1 = nn.Linear(dimensions, ffn_dimensions, bias=False)
        self.fc2 = nn.Linear(ffn_dimensions, dimensions, bias=False)

    def forward(self, x: Tensor, seen: Optional[Tensor] = None) -> Tensor:
        """Return N x K x E for x (N x K x E); `seen`: bool, N x 1 x 1 x K, tokens to attend to; None: all."""
        query, key, value = self._heads_of(x)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(norm(x))))

    def attention(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return attention weights, mean over heads: N x K (queries) x K (keys); arguments as for `forward`."""
        query, key, _ = self._heads_of(x)
        scores = query @ key.transpose(2, 3) / math.sqrt(query.size(-1))
        return scores.masked_fill(~seen, float("-inf")).softmax(-1).mean(1)

    def _heads_of(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each N x heads x K x (E / heads)."""
        query, key, value = self.qkv(norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


def norm(x: Tensor) -> Tensor:
    """Normalise each token to mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:])


def stack_of(layers: int, dimensions: int, ffn_dimensions: int, heads: int) -> nn.ModuleList:
    """Return a stack of layers with random weights."""
    stack = nn.ModuleList(Layer(dimensions, ffn_dimensions, heads) for _ in range(layers))
    start_weights(stack)
    for layer in stack:
        for last in (layer.out, layer.fc2):
            # the sum over layers has the same size for any number of layers
            last.weight.data.div_(math.sqrt(2 * layers))
    return stack


def start_weights(module: nn.Module) -> None:
    """Draw all linear weights in a module from a truncated normal distribution."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=_STD, a=-2 * _STD, b=2 * _STD)


def start_token(tokens: int, dimensions: int) -> nn.Parameter:
    """Return learned tokens, `tokens` x E, with random values."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, dimensions), std=_STD, a=-2 * _STD, b=2 * _STD))


class Positions(nn.Module):
    """Fixed positions, for any number of patches: sines and cosines (Vaswani et al. 2017, arXiv 1706.03762).

    With several leads, one half of the dimensions encodes the time, the other half the lead.
    """

    frequencies: Tensor

    def __init__(self, dimensions: int, leads: int):
        super().__init__()
        self.leads = leads
        pairs = dimensions // (2 if leads == 1 else 4)
        exponents = torch.arange(pairs, dtype=torch.float32) / pairs
        # computed when a model is built, so not saved
        self.register_buffer("frequencies", float(_LONGEST_PERIOD) ** -exponents, persistent=False)

    def forward(self, x: Tensor, patches: int) -> Tensor:
        """Return (patches x leads) x E, leads of a patch next to each other; dtype and device of x."""
        of_time = self._waves(x, patches)
        if self.leads == 1:
            return of_time.to(x.dtype)
        shape = (patches, self.leads, -1)
        of_lead = self._waves(x, self.leads).unsqueeze(0).expand(shape)
        return torch.cat([of_time.unsqueeze(1).expand(shape), of_lead], dim=-1).flatten(0, 1).to(x.dtype)

    def _waves(self, x: Tensor, number: int) -> Tensor:
        # computed from x: with arange, tracing would fix the device
        numbers = x.new_ones((), dtype=torch.float32).expand(number).cumsum(0) - 1
        angles = numbers.unsqueeze(1) * self.frequencies.float()
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class PatchTransformer(nn.Module):
    """From segments to frames. N segments, L leads, S samples, T patches, K tokens, E = `encoder_embed_dim`.

    A token is a patch of all leads (K = T), or of one lead (K = T L, leads of a patch next to each other). All tokens
    attend to register tokens, which are not frames.
    """

    is_smooth = True
    ends_with_norm = True

    def __init__(self, cfg: Any):
        """Args:
        cfg: an `EcgJepaConfig`.
        """
        super().__init__()
        self.patch_size, dimensions = int(cfg.patch_size), int(cfg.encoder_embed_dim)
        self.leads = int(cfg.in_d) if str(cfg.patching) == PER_LEAD else 1
        self.geometry = Geometry(hop=self.patch_size, field=self.patch_size)
        values = self.patch_size * (1 if self.leads > 1 else int(cfg.in_d))
        self.embed = nn.Linear(values, dimensions, bias=False)
        start_weights(self.embed)
        self.register_tokens = start_token(cfg.register_tokens, dimensions)
        self.positions = Positions(dimensions, self.leads)
        self.stack = stack_of(cfg.encoder_layers, dimensions, cfg.encoder_ffn_embed_dim, cfg.encoder_attention_heads)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.stack)

    def patches(self, source: Tensor) -> Tensor:
        """Split `source`, N x L x S, into patches, N x K x values."""
        number = int(source.size(2)) // self.patch_size
        cut = source[:, :, : number * self.patch_size].unflatten(2, (number, self.patch_size)).transpose(1, 2)
        return cut.flatten(1, 2) if self.leads > 1 else cut.flatten(2)

    def tokens_of(self, patches: Tensor) -> Tensor:
        """Turn numbers of patches, int64, ... x patches, into numbers of tokens, ... x (patches x leads)."""
        if self.leads == 1:
            return patches
        return (patches.unsqueeze(-1) * self.leads + torch.arange(self.leads, device=patches.device)).flatten(-2)

    def shown(self, source: Tensor, visible: Tensor, padding: Optional[Tensor] = None) -> Tensor:
        """Return the normalised output for visible patches: N x (registers + tokens) x E; see `shown_outputs`."""
        return norm(self.shown_outputs(source, visible, padding)[-1])

    def shown_outputs(
        self, source: Tensor, visible: Tensor, padding: Optional[Tensor] = None, last: Optional[int] = None
    ) -> List[Tensor]:
        """As `outputs`, only for the visible patches, and with registers.

        Args:
            source: N x L x S.
            visible: int64, N x V, numbers of patches.
            padding: bool, N x T, True where a patch is padding; None: no padding.
            last: number of layers that are run; None: all.
        """
        patches, numbers = self.patches(source), self.tokens_of(visible)
        positions = self.positions(self.embed.weight, patches.size(1) // self.leads)
        chosen = patches.gather(1, numbers.unsqueeze(-1).expand(-1, -1, patches.size(-1)))
        x = self._with_registers(self.embed(chosen) + positions[numbers])
        return self._through(x, None if padding is None else self._seen(padding.gather(1, visible)), last)

    def outputs(self, source: Tensor, padding: Optional[Tensor] = None, last: Optional[int] = None) -> List[Tensor]:
        """Return the first layer's input and the outputs of all layers: N x K x E each, without registers.

        Args:
            source: N x L x S.
            padding: bool, N x T; None: no padding.
            last: number of layers that are run; None: all.
        """
        registers = len(self.register_tokens)
        found = self._run(source, None if padding is None else self._seen(padding), last)
        return [x[:, registers:] for x in found]

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """See `Encoder.frames`; for patches of single leads the mean over leads."""
        padding = self.padding_of(source, padding_mask)
        found = self.outputs(source, padding, layer)[-1]
        return self.over_leads(norm(found) if layer is None else found), padding

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """See `Encoder.all_frames`; in one pass."""
        padding = self.padding_of(source, padding_mask)
        found = self.outputs(source, padding)
        return [self.over_leads(x) for x in (*found, norm(found[-1]))], padding

    def over_leads(self, x: Tensor) -> Tensor:
        """Average tokens, N x K x E, over leads: N x T x E."""
        return x.unflatten(1, (-1, self.leads)).mean(2) if self.leads > 1 else x

    def padding_of(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """Return which patches include padding: bool, N x T."""
        first = source[:, 0, : source.size(2) // self.patch_size * self.patch_size]
        return padding_of_frames(first.unflatten(1, (-1, self.patch_size)), padding_mask, self.geometry)

    def attention(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """See `Encoder.attention`; without weights of registers, so that the weights of a frame add up to 1."""
        seen = self._seen(self.padding_of(source, padding_mask))
        registers = len(self.register_tokens)
        inputs = self._run(source, seen, self.layers)[:-1]
        found = [layer.attention(x, seen)[:, registers:, registers:] for layer, x in zip(self.stack, inputs)]
        weights = torch.stack(found, dim=1)
        if self.leads > 1:
            weights = weights.unflatten(3, (-1, self.leads)).sum(4).unflatten(2, (-1, self.leads)).mean(3)
        return weights / weights.sum(-1, keepdim=True)

    def _run(self, source: Tensor, seen: Optional[Tensor], last: Optional[int]) -> List[Tensor]:
        """Return the input of the first layer and the outputs of the first `last` layers, with registers."""
        x = self.embed(self.patches(source))
        return self._through(self._with_registers(x + self.positions(x, x.size(1) // self.leads)), seen, last)

    def _through(self, x: Tensor, seen: Optional[Tensor], last: Optional[int]) -> List[Tensor]:
        found = [x]
        for layer in self.stack[:last]:
            x = layer(x, seen)
            found.append(x)
        return found

    def _with_registers(self, x: Tensor) -> Tensor:
        registers = self.register_tokens.to(x.dtype).expand(x.size(0), -1, -1)  # `len` would be traced as a constant
        return torch.cat([registers, x], dim=1)

    def _seen(self, padding: Tensor) -> Tensor:
        """Return the tokens to attend to, registers first: bool, N x 1 x 1 x K; `padding`: N x T, padded patches."""
        of_tokens = padding.unsqueeze(-1).expand(-1, -1, self.leads).flatten(1)
        return ~F.pad(of_tokens, (len(self.register_tokens), 0), value=False)[:, None, None]
