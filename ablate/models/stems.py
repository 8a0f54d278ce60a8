"""Stems: from the image to the first stage's map."""

from __future__ import annotations

from torch import Tensor, nn

from ablate.grammar import RunSpec
from ablate.models.convolution import Conv2d
from ablate.models.embedding import padding
from ablate.models.layers import BatchNorm2d, activation


class ConvStem(nn.Module):
    """conv(act(norm(conv_stride(x)))): S0 of CoAtNet; no norm or activation after the last conv.

    Convolutions are 3x3 without bias; every one but the last is followed by BatchNorm and the
    activation, and the first carries the stride.

    Source: arXiv 2106.04803, Table 3 (S0) and appendix A.1.
    Departure: none known; whether the convolutions have biases is not printed.
    """

    def __init__(self, spec: RunSpec, grid: tuple[int, int]) -> None:
        super().__init__()
        assert spec.in_width is not None
        kernel = spec.count("kernel_size")
        layers: list[nn.Module] = []
        width = spec.in_width
        for index in range(spec.depth):
            stride = spec.stride if index == 0 else 1
            conv = Conv2d(width, spec.width, kernel, stride, kernel // 2, bias=False)
            layers.append(conv)
            if index < spec.depth - 1:
                layers.append(BatchNorm2d(spec.width, eps=spec.number("bn_eps")))
                layers.append(activation(spec.word("act")))
            width = spec.width
        self.layers = nn.Sequential(*layers)
        self.grid = (-(-grid[0] // spec.stride), -(-grid[1] // spec.stride))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, width, ceil(H/stride), ceil(W/stride))."""
        out: Tensor = self.layers(x)
        return out


class EmbeddingStem(nn.Module):
    """One convolution with bias: the patch embedding of ViT (kernel = stride) or a wider one.

    Source: arXiv 2010.11929, section 3.1; ViT_rel of arXiv 2106.04803, section 2.2.
    """

    def __init__(self, spec: RunSpec, grid: tuple[int, int]) -> None:
        super().__init__()
        assert spec.in_width is not None
        kernel = spec.count("patch_size")
        pad = padding(kernel, spec.stride)
        self.proj = Conv2d(spec.in_width, spec.width, kernel, spec.stride, pad)
        self.grid = (
            (grid[0] + 2 * pad - kernel) // spec.stride + 1,
            (grid[1] + 2 * pad - kernel) // spec.stride + 1,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, width, H', W')."""
        out: Tensor = self.proj(x)
        return out
