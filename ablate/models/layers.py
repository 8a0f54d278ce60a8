"""Pieces that several block families share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.models.routes import on_cpu


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of CvT (arXiv 2103.15808, official code)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class GELU(nn.GELU):
    """`torch.nn.GELU`; channels-last maps go in as (N, H, W, C), for which the CPU is faster."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and not x.is_contiguous():
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return super().forward(x)


def activation(name: str) -> nn.Module:
    """The activation that the grammar's option `act` names."""
    if name == "gelu_tanh":
        return GELU(approximate="tanh")
    plain: dict[str, type[nn.Module]] = {
        "gelu": GELU,
        "quick_gelu": QuickGELU,
        "silu": nn.SiLU,
        "relu": nn.ReLU,
    }
    return plain[name]()


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops the branch of whole samples, in training.

    Args:
        rate: probability of a drop; kept samples are scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`; on a CPU channels-last maps go in as pixels (M, C): less time."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim in (2, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if x.ndim == 4 and on_cpu(x) and x.is_contiguous(memory_format=torch.channels_last):
            pixels = x.permute(0, 2, 3, 1)
            out = super().forward(pixels.reshape(-1, x.shape[1]))
            return out.view(pixels.shape).permute(0, 3, 1, 2)
        return super().forward(x)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map (N, C, H, W)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm2d(name: str, width: int, *, bn_eps: float, ln_eps: float) -> nn.Module:
    """The normalisation of a map that the grammar's option `norm` names."""
    if name == "bn":
        return BatchNorm2d(width, eps=bn_eps)
    return LayerNorm2d(width, eps=ln_eps)


def tokens(x: Tensor) -> Tensor:
    """A map (N, C, H, W) as tokens (N, H*W, C), row-major; a view where memory is channels-last."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (N, H*W, C) as a map (N, C, H, W) in channels-last memory: a view."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid)


def init_tokens(module: nn.Module) -> None:
    """Truncated normal (deviation 0.02) for linear weights, zero for their biases.

    The initialisation of CoaT and CvT (official code); convolutions keep torch's default.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
