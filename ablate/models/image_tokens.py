"""Operations on the image tokens among (N, L, C): CoaT's position encodings and resizing.

As plain operations they cut the class token off and put it back, and each cut is copies, most of
all in the backward. Here results are written in place; for the CPU, where copies are what these
layers cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ablate.models.convolution import dense, depthwise, depthwise_gradients, kernel_gradient
from ablate.models.layers import to_map, tokens
from ablate.models.routes import at_least_fp32

Grid = tuple[int, int]
STRIDE = (1, 1)


def padding(weight: Tensor) -> tuple[int, int]:
    """Zeros around a map that keep its grid under a kernel (C, 1, k, k)."""
    return (weight.shape[-1] // 2,) * 2


def image_map(x: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """The image tokens among (N, L, C) as a dense channels-last map (N, C, H, W)."""
    return dense(to_map(x[:, x.shape[1] - grid[0] * grid[1] :], grid), dtype)


class AddConvolved(torch.autograd.Function):
    """x + depthwise(x) on the image tokens; other tokens are kept.

    apply(x, weight, bias, grid, dtype): tokens (N, L, C), weight (C, 1, k, k), bias (C),
    (H, W) of the image tokens and the precision of the convolution -> (N, L, C).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        map_ = image_map(x, grid, dtype)
        ctx.save_for_backward(map_, weight)
        ctx.grid = grid
        out = x.clone(memory_format=torch.contiguous_format)
        image = out[:, x.shape[1] - grid[0] * grid[1] :]
        image += tokens(depthwise(map_, weight, bias, STRIDE, padding(weight)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        map_, weight = ctx.saved_tensors
        gradient = image_map(grad, ctx.grid, at_least_fp32(map_.dtype))
        dmap, dweight, dbias = depthwise_gradients(
            gradient, map_, weight, STRIDE, padding(weight), (True, True, True)
        )
        assert dmap is not None
        dx = grad.clone(memory_format=torch.contiguous_format)
        image = dx[:, grad.shape[1] - ctx.grid[0] * ctx.grid[1] :]
        image += tokens(dmap)
        return dx, dweight, dbias, None, None


class AddGated(torch.autograd.Function):
    """mixed + q * depthwise(v) on the image tokens, written into `mixed`.

    The depthwise convolutions have windows of their own, each for its block of channels. All are
    computed as one with the largest window, the smaller kernels with zeros around: more products,
    but in less time than taking the blocks of channels apart and putting them together again. Only
    the kernels' gradients are computed block by block.

    apply(mixed, q, v, grid, *parameters): three times tokens (N, L, C), (H, W) of the image
    tokens, and weight (C_i, 1, k_i, k_i), k_i odd, and bias (C_i) of every convolution
    -> (N, L, C).
    """

    @staticmethod
    def forward(
        ctx: Any, mixed: Tensor, q: Tensor, v: Tensor, grid: Grid, *parameters: Tensor
    ) -> Tensor:
        ctx.mark_dirty(mixed)
        prefix = mixed.shape[1] - grid[0] * grid[1]
        weights, biases = parameters[::2], parameters[1::2]
        map_, weight = image_map(v, grid, v.dtype), _as_one(weights)
        convolved = tokens(depthwise(map_, weight, torch.cat(biases), STRIDE, padding(weight)))
        mixed[:, prefix:].addcmul_(q[:, prefix:], convolved)
        ctx.save_for_backward(q, map_, convolved, *weights)
        ctx.grid = grid
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, map_, convolved, *weights = ctx.saved_tensors
        prefix = grad.shape[1] - ctx.grid[0] * ctx.grid[1]
        image = grad[:, prefix:]
        dq, dv = (torch.empty(q.shape, dtype=q.dtype) for _ in range(2))
        dq[:, :prefix], dv[:, :prefix] = 0, 0
        torch.mul(image, convolved, out=dq[:, prefix:])
        dconvolved = (image * q[:, prefix:]).to(at_least_fp32(q.dtype))
        dbias, dmap = dconvolved.sum((0, 1)), to_map(dconvolved, ctx.grid)
        weight = _as_one(weights)
        dv_map, _, _ = depthwise_gradients(
            dmap, map_, weight, STRIDE, padding(weight), (True, False, False)
        )
        assert dv_map is not None
        dv[:, prefix:] = tokens(dv_map)
        parameters: list[Tensor | None] = []
        first = 0
        for weight in weights:
            part = slice(first, first + len(weight))
            gradient = kernel_gradient(dmap[:, part], map_[:, part], weight, padding(weight))
            parameters += [gradient, dbias[part]]
            first = part.stop
        return grad, dq, dv, None, *parameters


def _as_one(weights: Sequence[Tensor]) -> Tensor:
    """Kernels (C_i, 1, k_i, k_i) as one (C, 1, k, k), with zeros around the smaller ones."""
    side = max(weight.shape[-1] for weight in weights)
    return torch.cat([F.pad(weight, ((side - weight.shape[-1]) // 2,) * 4) for weight in weights])


class ResizeTokens(torch.autograd.Function):
    """Bilinear resizing, without aligned corners, of the image tokens; other tokens are kept.

    apply(x, grid, target): tokens (N, L, C), (H, W) of the image tokens before and after
    -> (N, L', C).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, target: Grid) -> Tensor:
        ctx.grids = (grid, target)
        map_ = F.interpolate(image_map(x, grid, x.dtype), size=target, mode="bilinear")
        return _beside_other_tokens(x, grid, map_)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grid, target = ctx.grids
        map_ = image_map(grad, target, grad.dtype)  # dense: others take a kernel 10 times slower
        before = (map_.shape[0], map_.shape[1], *grid)
        dmap = torch.ops.aten.upsample_bilinear2d_backward(map_, target, before, False, None, None)
        return _beside_other_tokens(grad, target, dmap), None, None


def _beside_other_tokens(x: Tensor, grid: Grid, map_: Tensor) -> Tensor:
    """The tokens of x that are not of the image, then a map (N, C, H', W') as tokens."""
    prefix, image = x.shape[1] - grid[0] * grid[1], tokens(map_)
    out = x.new_empty(x.shape[0], prefix + image.shape[1], x.shape[2])
    out[:, :prefix], out[:, prefix:] = x[:, :prefix], image
    return out
