"""Kind C: MBConv, the inverted bottleneck with squeeze-excitation, as CoAtNet builds it."""

from __future__ import annotations

from torch import Tensor, nn

from ablate.grammar import RunSpec
from ablate.models.conv_run import ConvRun
from ablate.models.convolution import Conv2d
from ablate.models.layers import DropPath, activation, norm2d


class MBConv(nn.Module):
    """shortcut(x) + project(se(act(norm(depthwise(act(norm(expand(norm(x)))))))).

    The hidden width is expand_ratio times the *output* width and the squeeze is se_ratio times
    the output width; no norm or activation follows the last 1x1 convolution, and none but the
    norm stands before the first.

    Args:
        in_width: channels of the incoming map.
        stride: down-sampling; on the 1x1 expansion (`stride_at=expand`) or on the depthwise
            convolution (the dagger variant).
        drop_path: rate of stochastic depth of the branch.
        spec: width and options.

    Source: CoAtNet, arXiv 2106.04803, Eqn 5; widths fitted to the printed counts.
    Departures: none known; biases follow the authors' later public code.
    """

    def __init__(self, in_width: int, stride: int, drop_path: float, spec: RunSpec) -> None:
        super().__init__()
        width, kernel = spec.width, spec.count("kernel_size")
        hidden = round(width * spec.number("expand_ratio"))
        squeeze = round(width * spec.number("se_ratio"))
        at_expand = spec.word("stride_at") == "expand"
        eps = {"bn_eps": spec.number("bn_eps"), "ln_eps": spec.number("ln_eps")}
        norm, act = spec.word("norm"), spec.word("act")
        self.shortcut = shortcut(in_width, width, stride, spec.word("pool"))
        self.pre_norm = norm2d(norm, in_width, **eps)
        self.expand = Conv2d(in_width, hidden, 1, stride if at_expand else 1, bias=False)
        self.norm1 = norm2d(norm, hidden, **eps)
        self.act1 = activation(act)
        self.depthwise = Conv2d(
            hidden,
            hidden,
            kernel,
            1 if at_expand else stride,
            kernel // 2,
            groups=hidden,
            bias=False,
        )
        self.norm2 = norm2d(norm, hidden, **eps)
        self.act2 = activation(act)
        self.se = SqueezeExcitation(hidden, squeeze) if squeeze else nn.Identity()
        self.project = Conv2d(hidden, width, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, ceil(H/stride), ceil(W/stride))."""
        branch = self.act1(self.norm1(self.expand(self.pre_norm(x))))
        branch = self.se(self.act2(self.norm2(self.depthwise(branch))))
        out: Tensor = self.shortcut(x) + self.drop_path(self.project(branch))
        return out


class MBConvRun(ConvRun):
    """MBConv blocks in a row.

    Source: CoAtNet, arXiv 2106.04803, section 2.1 and Eqn 5.
    Departure: the initialisation is not printed; convolutions keep torch's default.
    """

    block = MBConv


class SqueezeExcitation(nn.Module):
    """x * sigmoid(expand(silu(squeeze(mean(x))))), per channel.

    Source: arXiv 1709.01507; SiLU and the biases follow the CoAtNet authors' later code.
    """

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.squeeze = Conv2d(width, squeeze, 1)
        self.act = nn.SiLU()
        self.expand = Conv2d(squeeze, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        scale: Tensor = self.expand(self.act(self.squeeze(x.mean(dim=(2, 3), keepdim=True))))
        return x * scale.sigmoid()


def shortcut(in_width: int, width: int, stride: int, pool: str) -> nn.Module:
    """project(pool(x)): the identity path, each part only where it is needed.

    The pool rounds odd grids up (ceil_mode), as a strided convolution does, so that both paths
    agree. It is 2x2 at stride 2: the paper names a max pool of stride 2 and no kernel.
    """
    layers: list[nn.Module] = []
    if stride > 1:
        layers.append(down_sample(pool, stride))
    if in_width != width:
        layers.append(Conv2d(in_width, width, 1))
    return nn.Sequential(*layers)


def down_sample(pool: str, stride: int) -> nn.Module:
    """A max or average pool whose kernel is its stride; odd grids round up."""
    if pool == "avg":
        return nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.MaxPool2d(stride, stride, ceil_mode=True)
