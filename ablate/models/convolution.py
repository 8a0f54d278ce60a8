"""Convolutions by whichever way is fastest where they run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ablate.models.routes import at_least_fp32, compute_dtype, on_cpu

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
DENSE_CHANNELS, DENSE_PIXELS = 48, 64
"""The most channels and the least pixels with which a dense kernel's gradient takes less time."""


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, with two detours on a CPU; the function is the same up to rounding.

    - A pointwise convolution of a channels-last map is a linear layer on its pixels: the matrix
      products of linear layers run at up to three times the speed, most of all in the backward.
    - The gradients of a depthwise convolution in bf16 are computed in fp32 where the kernel is
      larger than 3 or the stride larger than 1: there the bf16 kernels take 3 to 8 times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        if on_cpu(x):
            if self._pointwise and x.is_contiguous(memory_format=torch.channels_last):
                pixels = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
                return pixels.permute(0, 3, 1, 2)
            dtype = compute_dtype(x)
            if dtype == torch.bfloat16 and self._slow_in_half and torch.is_grad_enabled():
                geometry = (self.stride, self.padding)
                out: Tensor = _DepthwiseConv.apply(x.to(dtype), self.weight, self.bias, geometry)
                return out
        return super().forward(x)

    @property
    def _pointwise(self) -> bool:
        return self.kernel_size == (1, 1) and self.stride == (1, 1) and self.groups == 1

    @property
    def _slow_in_half(self) -> bool:
        depthwise = self.groups == self.in_channels == self.out_channels
        return depthwise and (self.kernel_size > (3, 3) or self.stride > (1, 1))


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The depthwise convolution of a map (N, C, H, W), in the precision of the map."""
    lower = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight.to(x.dtype), lower, tuple(stride), tuple(padding), groups=len(weight))


def depthwise_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    needed: Sequence[bool],
) -> Gradients:
    """Gradients of `depthwise`, in fp32 or better: of the map, the weight and the bias.

    Args:
        grad: of the output (N, C, H', W').
        x: the map (N, C, H, W).
        weight: (C, 1, k, k).
        stride: of the convolution.
        padding: of the convolution.
        needed: which of the three are wished; the others are None.
    """
    channels, dtype = len(weight), at_least_fp32(x.dtype)
    found: Gradients = torch.ops.aten.convolution_backward(
        grad.to(dtype), x.to(dtype), weight.to(dtype), [channels] if needed[2] else None,
        stride, padding, (1, 1), False, (0, 0), channels, needed,
    )  # fmt: skip
    return found


def kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """The gradient of a depthwise kernel (C, 1, k, k), k odd, at stride 1.

    In bf16, a processor with a matrix unit takes the gradient of a dense kernel (C, C, k, k) in
    less time than that of the depthwise one, its diagonal, while C is small and the map is not.

    Args:
        grad: of the output (N, C, H, W).
        x: the map (N, C, H, W); its precision is that of the products.
        weight: the kernel.
        padding: of the convolution.
    """
    channels, side = len(weight), weight.shape[-1]
    pays = channels <= DENSE_CHANNELS and side > 3 and x.shape[2] * x.shape[3] >= DENSE_PIXELS
    if not (pays and x.dtype == torch.bfloat16 and _has_matrix_unit()):
        dtype = at_least_fp32(x.dtype)
        found = depthwise_gradients(
            dense(grad, dtype), dense(x, dtype), weight, (1, 1), padding, (False, True, False)
        )[1]
        assert found is not None
        return found
    whole = weight.new_empty(channels, channels, side, side, dtype=x.dtype)  # its shape is read
    gradient: Tensor = torch.ops.aten.convolution_backward(
        dense(grad, x.dtype), dense(x, x.dtype), whole, None,
        (1, 1), padding, (1, 1), False, (0, 0), 1, (False, True, False),
    )[1]  # fmt: skip
    return gradient.diagonal().permute(2, 0, 1)[:, None].to(weight.dtype)


def dense(map_: Tensor, dtype: torch.dtype) -> Tensor:
    """A map (N, C, H, W), perhaps a part of a larger one, as a channels-last one of its own."""
    map_ = map_.to(dtype, memory_format=torch.channels_last)
    return map_.contiguous(memory_format=torch.channels_last)


@cache
def _has_matrix_unit() -> bool:
    """Whether this CPU multiplies matrices of bf16 in hardware (Intel's AMX)."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return False
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


class _DepthwiseConv(torch.autograd.Function):
    """A depthwise convolution in the precision of x, whose gradients are computed in fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[Sequence[int]]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return depthwise(x, weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        dx, dweight, dbias = depthwise_gradients(
            grad, x, weight, stride, padding, ctx.needs_input_grad[:3]
        )
        return (None if dx is None else dx.to(x.dtype)), dweight, dbias, None
