"""Kind R: the residual block of two convolutions, plain (ResNet) or depthwise-separable."""

from __future__ import annotations

from torch import Tensor, nn

from ablate.grammar import RunSpec
from ablate.models.conv_run import ConvRun
from ablate.models.convolution import Conv2d
from ablate.models.layers import DropPath, activation, norm2d


class ResidualBlock(nn.Module):
    """act(shortcut(x) + norm(conv(act(norm(conv_stride(x)))))).

    The shortcut is a strided 1x1 convolution with a norm where width or grid change.
    `conv=separable` makes each convolution a depthwise and a pointwise one, all without bias.

    Source: ResNet, arXiv 1512.03385, Figure 2 (option B); separable as in arXiv 1704.04861.
    """

    def __init__(self, in_width: int, stride: int, drop_path: float, spec: RunSpec) -> None:
        super().__init__()
        width, kernel, name = spec.width, spec.count("kernel_size"), spec.word("norm")
        eps = {"bn_eps": spec.number("bn_eps"), "ln_eps": spec.number("ln_eps")}
        separable = spec.word("conv") == "separable"
        self.conv1 = convolution(in_width, width, kernel, stride, separable=separable)
        self.norm1 = norm2d(name, width, **eps)
        self.act1 = activation(spec.word("act"))
        self.conv2 = convolution(width, width, kernel, 1, separable=separable)
        self.norm2 = norm2d(name, width, **eps)
        self.act2 = activation(spec.word("act"))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_width != width:
            project = Conv2d(in_width, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, norm2d(name, width, **eps))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, ceil(H/stride), ceil(W/stride))."""
        branch = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        out: Tensor = self.act2(self.shortcut(x) + self.drop_path(branch))
        return out


class ResidualRun(ConvRun):
    """Residual blocks in a row.

    Source: ResNet, arXiv 1512.03385, section 3.3.
    """

    block = ResidualBlock


def convolution(
    in_width: int, width: int, kernel: int, stride: int, *, separable: bool
) -> nn.Module:
    """A convolution without bias, padded to keep the grid; separable: depthwise, pointwise."""
    padding = kernel // 2
    if not separable:
        return Conv2d(in_width, width, kernel, stride, padding, bias=False)
    return nn.Sequential(
        Conv2d(in_width, in_width, kernel, stride, padding, groups=in_width, bias=False),
        Conv2d(in_width, width, 1, bias=False),
    )
