"""The feed-forward part of a transformer block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ablate.models.layers import activation
from ablate.models.routes import at_least_fp32, compute_dtype, on_cpu

CHUNK_BYTES = 2**21
"""Hidden numbers that one core works on at a time: they stay in its cache."""
LARGE_BYTES = 12 * 2**20
"""Hidden numbers from which on chunks pay, though the backward computes them again."""


class Mlp(nn.Module):
    """project(act(expand(x))) on tokens (N, L, C), with biases.

    On a CPU a large hidden tensor, expand(x), is never held whole: chunks of it go through both
    layers inside the cache, and the backward computes them again. The memory traffic that this
    saves is worth more than the extra product.

    Args:
        width: C.
        ratio: hidden width / C.
        act: activation's name.
    """

    def __init__(self, width: int, ratio: float, act: str) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.expand = nn.Linear(width, hidden)
        self.act = activation(act)
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        out: Tensor
        if on_cpu(x) and self._is_large(x):
            dtype = compute_dtype(x)
            parts = (x, *self.expand.parameters(), *self.project.parameters())
            with torch.autocast("cpu", enabled=False):
                out = _ChunkedMlp.apply(*(part.to(dtype) for part in parts))
            return out
        out = self.project(self.act(self.expand(x)))
        return out

    def _is_large(self, x: Tensor) -> bool:
        if not isinstance(self.act, nn.GELU) or self.act.approximate != "none":
            return False
        numbers = x.numel() // x.shape[-1] * self.expand.out_features
        return numbers * compute_dtype(x).itemsize > LARGE_BYTES


class _ChunkedMlp(torch.autograd.Function):
    """gelu(x W1' + b1) W2' + b2 in chunks of rows; the backward computes the hidden part again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        out = x.new_empty(*x.shape[:-1], w2.shape[0])
        for rows, out_rows in zip(_chunks(x, w1), _chunks(out, w1), strict=True):
            hidden = F.gelu(torch.addmm(b1, rows, w1.t()))
            torch.addmm(b2, hidden, w2.t(), out=out_rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        grad = grad.contiguous()
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        # sums over the chunks are kept in fp32, as inside one matrix product
        wide = at_least_fp32(w1.dtype)
        sums = [torch.zeros(w.shape, dtype=wide) for w in (w1.t(), b1, w2, w2[:, 0])]
        dw1, db1, dw2, db2 = sums
        for rows, grads, dx_rows in zip(
            _chunks(x, w1), _chunks(grad, w1), _chunks(dx, w1), strict=True
        ):
            hidden = torch.addmm(b1, rows, w1.t())
            dw2 += grads.t() @ F.gelu(hidden)
            dhidden = torch.ops.aten.gelu_backward(grads @ w2, hidden)
            dw1 += rows.t() @ dhidden
            db1 += dhidden.sum(0)
            db2 += grads.sum(0)
            torch.mm(dhidden, w1, out=dx_rows)
        dtype = w1.dtype
        return dx, dw1.t().to(dtype), db1.to(dtype), dw2.to(dtype), db2.to(dtype)


def _chunks(x: Tensor, w1: Tensor) -> tuple[Tensor, ...]:
    """Tokens (N, L, C) as chunks of rows (R, C)."""
    rows = CHUNK_BYTES * torch.get_num_threads() // (w1.shape[0] * w1.element_size())
    chunks: tuple[Tensor, ...] = torch.split(x.reshape(-1, x.shape[-1]), max(rows // 64 * 64, 64))
    return chunks
