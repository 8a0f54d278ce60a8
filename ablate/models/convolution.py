"""Convolutions by whichever way is fastest where they run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ablate.models.routes import compute_dtype, on_cpu


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
                return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(
                    0, 3, 1, 2
                )
            dtype = compute_dtype(x)
            if self._slow_in_half and dtype == torch.bfloat16 and torch.is_grad_enabled():
                out: Tensor = _DepthwiseConv.apply(
                    x.to(dtype), self.weight, self.bias, self.stride, self.padding
                )
                return out
        return super().forward(x)

    @property
    def _pointwise(self) -> bool:
        return self.kernel_size == (1, 1) and self.stride == (1, 1) and self.groups == 1

    @property
    def _slow_in_half(self) -> bool:
        depthwise = self.groups == self.in_channels == self.out_channels
        return depthwise and (self.kernel_size > (3, 3) or self.stride > (1, 1))


class _DepthwiseConv(torch.autograd.Function):
    """A depthwise convolution in the precision of x, whose gradients are computed in fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding)
        ctx.has_bias = bias is not None
        lower = None if bias is None else bias.to(x.dtype)
        return F.conv2d(x, weight.to(x.dtype), lower, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        channels, grad = len(weight), grad.float()
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            grad, x.float(), weight.float(), [channels] if ctx.has_bias else None,
            stride, padding, (1, 1), False, (0, 0), channels, needed,
        )  # fmt: skip
        return (None if dx is None else dx.to(x.dtype)), dweight, dbias, None, None
