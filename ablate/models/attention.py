"""Softmax attention, by whichever way is fastest where it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, bias: Tensor | None = None) -> Tensor:
    """softmax(scale q k^T + bias) v.

    On a CPU the fused kernel pays only without a bias and in fp32: with one it takes 1.2 to 2.5
    times as long as its parts, and its backward in bf16 twice as long.

    Args:
        q: queries (N, heads, L, d); k and v: keys and values (N, heads, L', d).
        scale: factor of the logits.
        bias: added to the logits, broadcast to (N, heads, L, L').

    Returns:
        (N, heads, L, d).
    """
    if bias is not None:
        bias = bias.to(q.dtype)
    if q.device.type != "cpu" or (bias is None and q.dtype == torch.float32):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    logits = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1) @ v
