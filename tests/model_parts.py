"""Runs of blocks on their own, with weights far from their initial values, for tests."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ablate.grammar import resolve
from ablate.models.network import builder


def build_run(arch: str, grid: tuple[int, int], in_width: int | None = None) -> nn.Module:
    """The last run of an arch, in eval mode, for a map of `grid` (and of `in_width` channels)."""
    spec = resolve(arch).stages[-1][-1]
    if in_width is not None:
        spec = dataclasses.replace(spec, in_width=in_width)
    return randomized(builder(spec.kind)(spec, grid)).eval()


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, biases and running statistics drawn anew, so that none is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
    return module


def images(*shape: int, seed: int = 1) -> Tensor:
    """Noise of a shape, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def params(module: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
