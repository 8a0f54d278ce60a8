"""A run of convolutional blocks: what kinds C and R share."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ablate.grammar import RunSpec


class ConvRun(nn.Module):
    """Blocks in a row; the first carries the stride and the change of width.

    A subclass names its block: (in_width, stride, drop-path rate, spec) -> a module on maps.
    """

    block: ClassVar[type[Any]]

    def __init__(self, spec: RunSpec, grid: tuple[int, int]) -> None:
        super().__init__()
        assert spec.in_width is not None
        widths = [spec.in_width, *[spec.width] * (spec.depth - 1)]
        strides = [spec.stride, *[1] * (spec.depth - 1)]
        self.blocks = nn.Sequential(
            *(
                self.block(width, stride, rate, spec)
                for width, stride, rate in zip(widths, strides, spec.drop_path, strict=True)
            )
        )
        self.grid = (-(-grid[0] // spec.stride), -(-grid[1] // spec.stride))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(N, in_width, H, W) -> (N, width, ceil(H/stride), ceil(W/stride)), no class token."""
        return self.blocks(x), None
