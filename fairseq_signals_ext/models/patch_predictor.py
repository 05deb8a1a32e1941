"""The predictor of hidden patches from the encoder's outputs for visible ones."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_signals_ext.models.patch_transformer import (
    PER_LEAD,
    Positions,
    norm,
    stack_of,
    start_token,
    start_weights,
)


class PatchPredictor(nn.Module):
    """A narrow transformer of the visible tokens and, for each hidden one, a learned token at its position."""

    def __init__(self, cfg: Any):
        """Args:
        cfg: an `EcgJepaConfig`.
        """
        super().__init__()
        dimensions = cfg.predictor_embed_dim
        self.registers = int(cfg.register_tokens)
        self.positions = Positions(dimensions, cfg.in_d if str(cfg.patching) == PER_LEAD else 1)
        ffn = dimensions * cfg.encoder_ffn_embed_dim // cfg.encoder_embed_dim
        self.stack = stack_of(cfg.predictor_layers, dimensions, ffn, cfg.predictor_attention_heads)
        if len(self.stack):
            self.enter = nn.Linear(cfg.encoder_embed_dim, dimensions, bias=False)
            self.leave = nn.Linear(dimensions, cfg.encoder_embed_dim, bias=False)
            start_weights(self.enter)
            start_weights(self.leave)
            self.mask_token = start_token(1, dimensions)

    def forward(
        self, shown: Tensor, visible: Tensor, masked: Tensor, patches: int, padding: Optional[Tensor] = None
    ) -> Tensor:
        """Return predictions of hidden tokens, N x M x E.

        Args:
            shown: encoder outputs, N x (registers + V) x E.
            visible: int64, N x V, numbers of the visible tokens.
            masked: int64, N x M, numbers of the hidden tokens.
            patches: number of patches of a segment.
            padding: bool, N x K, True where a token of a segment is padding; None: no padding.
        """
        if not len(self.stack):
            return shown.mean(1, keepdim=True).expand(-1, masked.size(1), -1)
        x = self.enter(shown)
        positions = self.positions(x, patches)
        registers = x[:, : self.registers]
        at_places = x[:, self.registers :] + positions[visible]
        filled = self.mask_token.to(x.dtype) + positions[masked]
        x = torch.cat([registers, at_places, filled], dim=1)
        seen = None
        if padding is not None:
            of_tokens = padding.gather(1, torch.cat([visible, masked], dim=1))
            seen = ~F.pad(of_tokens, (self.registers, 0), value=False)[:, None, None]
        for layer in self.stack:
            x = layer(x, seen)
        return self.leave(norm(x[:, -masked.size(1) :]))
