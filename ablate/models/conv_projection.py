"""Kinds V and A: the convolutional transformer block of CvT, and ATC's with Res units inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.grammar import RunSpec
from ablate.models.attention import attend
from ablate.models.convolution import Conv2d
from ablate.models.embedding import TokenEmbedding
from ablate.models.layers import BatchNorm2d, DropPath, activation, init_tokens, to_map, tokens
from ablate.models.mbconv import down_sample
from ablate.models.mlp import Mlp

Grid = tuple[int, int]


class ConvProjectionRun(nn.Module):
    """Token embedding, then blocks whose projections and FFN may be convolutions.

    A class token, where there is one, is put in front of the image tokens and skips every
    convolution. A later run of the same stage embeds again, at stride 1.

    Attributes:
        norm: LayerNorm of the class token, read by the head; None without a class token.

    Source: CvT, arXiv 2103.15808, section 3; ATC (2023), section 3.
    """

    def __init__(self, spec: RunSpec, grid: Grid) -> None:
        super().__init__()
        assert spec.in_width is not None
        self.embed = TokenEmbedding(
            spec.in_width,
            spec.width,
            embed=spec.word("embed"),
            kernel_size=spec.count("patch_size"),
            stride=spec.stride,
            act=spec.word("act"),
            bn_eps=spec.number("bn_eps"),
        )
        self.grid = self.embed.grid(grid)
        has_token = spec.flag("cls_token")
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.width)) if has_token else None
        self.blocks = nn.ModuleList(ConvProjectionBlock(spec, rate) for rate in spec.drop_path)
        self.norm = nn.LayerNorm(spec.width, eps=spec.number("ln_eps")) if has_token else None
        init_tokens(self)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, in_width, H, W) -> map (N, width, H', W') and class token (N, width) or None."""
        x = self.embed(x)
        grid = (x.shape[2], x.shape[3])
        x = tokens(x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, grid)
        if self.cls_token is None:
            return to_map(x, grid), None
        return to_map(x[:, 1:], grid), x[:, 0]


class ConvProjectionBlock(nn.Module):
    """x + attn(norm1(x)), then x + ffn(norm2(x)), on tokens (N, L, C).

    Source: CvT, arXiv 2103.15808, Figure 2; the options `proj` and `ffn` are ATC's Table 2.
    """

    def __init__(self, spec: RunSpec, drop_path: float) -> None:
        super().__init__()
        eps = spec.number("ln_eps")
        self.norm1 = nn.LayerNorm(spec.width, eps=eps)
        self.attn = ConvProjectionAttention(spec)
        self.norm2 = nn.LayerNorm(spec.width, eps=eps)
        self.ffn = build_ffn(spec)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(N, L, C) -> (N, L, C), where L is H*W and one more with a class token."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        out: Tensor = x + self.drop_path(self.ffn(self.norm2(x), grid))
        return out


class ConvProjectionAttention(nn.Module):
    """out(softmax(q(x) k(x)^T / sqrt(C)) v(x)), with convolutions in the projections.

    - `proj=separable` (CvT): a depthwise 3x3 convolution, BatchNorm and a linear layer; those of
      keys and values have stride `kv_stride`; `out` is linear,
    - `proj=residual` (ATC): each of q, k, v and out is a Res unit,
    - `proj=linear`: plain linear layers.

    Source: CvT, arXiv 2103.15808, section 3.2; the scale is 1/sqrt(C) as in the official code.
    """

    def __init__(self, spec: RunSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.scale = spec.width**-0.5
        kv_stride = spec.count("kv_stride")
        self.q = build_projection(spec, 1)
        self.k = build_projection(spec, kv_stride)
        self.v = build_projection(spec, kv_stride)
        residual = spec.word("proj") == "residual"
        self.out = build_projection(spec, 1) if residual else Linear(spec.width, spec.width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        q, k, v = (self._heads(part(x, grid)) for part in (self.q, self.k, self.v))
        mixed = attend(q, k, v, scale=self.scale)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2), grid)
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, heads, L, d)."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class Linear(nn.Linear):
    """A linear layer on tokens that takes their grid, as its convolutional siblings do."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """(N, L, C) -> (N, L, C')."""
        return super().forward(x)


class SeparableConv(nn.Module):
    """linear(norm(depthwise(x))): depthwise 3x3 without bias, BatchNorm, pointwise with bias.

    The class token skips the depthwise convolution and its norm.

    Source: CvT, arXiv 2103.15808, section 3.2.
    """

    def __init__(self, in_width: int, width: int, stride: int, bn_eps: float) -> None:
        super().__init__()
        self.conv = Conv2d(in_width, in_width, 3, stride, 1, groups=in_width, bias=False)
        self.norm = BatchNorm2d(in_width, eps=bn_eps)
        self.linear = nn.Linear(in_width, width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(N, L, C) -> (N, L', C'), on the grid divided by the stride, rounded up."""
        token, image = split_token(x, grid)
        out: Tensor = self.linear(join_token(token, self.norm(self.conv(to_map(image, grid)))))
        return out


class ResUnit(nn.Module):
    """pool(x) + pointwise(act(norm(depthwise(x)))): ATC's residual separable convolution.

    Depthwise 3x3 and pointwise have no bias. A class token, which the convolutions cannot see,
    goes through a linear layer of its own.

    Args:
        width: C.
        stride: of the depthwise convolution; the identity is pooled by averages.
        act: activation's name.
        bn_eps: epsilon of BatchNorm.
        has_token: whether there is a class token.

    Source: ATC (2023), Figure 3 and Table 2. 11C + C^2 parameters, which its counts force.
    Departures: where the activation and the norm stand, and the pooled identity, are not said;
    the report has no class token in stages of Res units (its third stage is CvT's).
    """

    def __init__(
        self, width: int, *, stride: int, act: str, bn_eps: float, has_token: bool
    ) -> None:
        super().__init__()
        self.depthwise = Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.norm = BatchNorm2d(width, eps=bn_eps)
        self.act = activation(act)
        self.pointwise = Conv2d(width, width, 1, bias=False)
        self.pool = down_sample("avg", stride) if stride > 1 else nn.Identity()
        self.token = nn.Linear(width, width) if has_token else None

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(N, L, C) -> (N, L', C), on the grid divided by the stride, rounded up."""
        token, image = split_token(x, grid)
        map_ = to_map(image, grid)
        out = self.pool(map_) + self.pointwise(self.act(self.norm(self.depthwise(map_))))
        return join_token(None if token is None or self.token is None else self.token(token), out)


class MlpFfn(Mlp):
    """The linear FFN, which takes the tokens' grid as its convolutional siblings do."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        return super().forward(x)


class ConvFfn(nn.Module):
    """second(act(first(x))), each a separable convolution or a Res unit.

    Source: ATC (2023), Table 2.
    """

    def __init__(self, first: nn.Module, second: nn.Module, act: str) -> None:
        super().__init__()
        self.first = first
        self.act = activation(act)
        self.second = second

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        out: Tensor = self.second(self.act(self.first(x, grid)), grid)
        return out


def build_projection(spec: RunSpec, stride: int) -> nn.Module:
    """One projection of tokens (N, L, C), of the kind that the option `proj` names."""
    proj = spec.word("proj")
    if proj == "linear":
        return Linear(spec.width, spec.width)
    if proj == "separable":
        return SeparableConv(spec.width, spec.width, stride, spec.number("bn_eps"))
    return res_unit(spec, stride)


def build_ffn(spec: RunSpec) -> nn.Module:
    """The feed-forward part, of the kind that the option `ffn` names.

    linear: C -> ratio C -> C; separable: the same widths, each layer a separable convolution;
    residual: two Res units of width C, since a residual cannot change the width.
    """
    ffn, act, ratio = spec.word("ffn"), spec.word("act"), spec.number("mlp_ratio")
    if ffn == "linear":
        return MlpFfn(spec.width, ratio, act)
    if ffn == "residual":
        return ConvFfn(res_unit(spec, 1), res_unit(spec, 1), act)
    hidden, eps = int(spec.width * ratio), spec.number("bn_eps")
    first = SeparableConv(spec.width, hidden, 1, eps)
    return ConvFfn(first, SeparableConv(hidden, spec.width, 1, eps), act)


def res_unit(spec: RunSpec, stride: int) -> ResUnit:
    """A Res unit of the run's width and options."""
    return ResUnit(
        spec.width,
        stride=stride,
        act=spec.word("act"),
        bn_eps=spec.number("bn_eps"),
        has_token=spec.flag("cls_token"),
    )


def split_token(x: Tensor, grid: Grid) -> tuple[Tensor | None, Tensor]:
    """The class token (N, 1, C), if there is one, and the image tokens (N, H*W, C)."""
    prefix = x.shape[1] - grid[0] * grid[1]
    return (x[:, :prefix], x[:, prefix:]) if prefix else (None, x)


def join_token(token: Tensor | None, map_: Tensor) -> Tensor:
    """A map (N, C, H, W) as tokens, with the class token in front if there is one."""
    image = tokens(map_)
    return image if token is None else torch.cat([token, image], dim=1)
