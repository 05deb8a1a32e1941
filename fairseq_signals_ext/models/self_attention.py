"""Self-attention of the encoder with one matrix product for queries, keys and values."""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor


class FusedSelfAttention(MultiheadAttention):
    """fairseq's, with the same parameters under the same names; equal up to rounding.

    Only while training; also where attention weights are asked for, or anything else that the encoder does not use,
    fairseq's own code runs.
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
        """Output, frames x segments x features, of `query` of this shape; the weights are None unless asked for."""
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
