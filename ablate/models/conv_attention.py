"""Kind F: the serial block of CoaT, with its two convolutional position encodings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.grammar import RunSpec
from ablate.models.convolution import Conv2d
from ablate.models.embedding import TokenEmbedding
from ablate.models.image_tokens import AddConvolved, AddGated
from ablate.models.layers import DropPath, init_tokens, to_map, tokens
from ablate.models.mlp import Mlp
from ablate.models.routes import compute_dtype, on_cpu

Grid = tuple[int, int]
NARROW = 64
"""Widths up to which a CPU mixes all heads in one product: it does more work in less time."""


class ConvPositionEncoding(nn.Module):
    """F + dwconv3x3(F) on the image tokens; the class token passes (CPE).

    The result replaces the tokens: it stands outside the residual branch, before the norm.

    Source: arXiv 2104.06399, section 3.4; arXiv 2102.10882 (CPVT).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(N, L, C) -> (N, L, C), where L is H*W and one more with a class token."""
        if on_cpu(x):
            out: Tensor = AddConvolved.apply(x, *self.proj.parameters(), grid, compute_dtype(x))
            return out
        prefix = x.shape[1] - grid[0] * grid[1]
        image = to_map(x[:, prefix:], grid)
        image = tokens(image + self.proj(image))
        return torch.cat([x[:, :prefix], image], dim=1) if prefix else image


class ConvRelativePositionEncoding(nn.Module):
    """EV = q * dwconv(v) on the image tokens; zero on the class token's row (CRPE).

    Heads are dealt to depthwise convolutions of different windows in their order, and channels
    are head-major (channel = head * head_dim + j), so each window takes a block of channels.

    Args:
        head_dim: width of one head.
        windows: (window, heads) pairs; CoaT has ((3, 2), (5, 3), (7, 3)).

    Source: arXiv 2104.06399, equations 5 and 6; windows from the official code.
    """

    def __init__(self, head_dim: int, windows: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.widths = [heads * head_dim for _, heads in windows]
        self.convs = nn.ModuleList(
            Conv2d(width, width, window, padding=window // 2, groups=width)
            for (window, _), width in zip(windows, self.widths, strict=True)
        )

    def forward(self, mixed: Tensor, q: Tensor, v: Tensor, grid: Grid) -> Tensor:
        """What attention mixed, unscaled queries and values, each (N, L, C) -> mixed + EV.

        `mixed` may be written into.
        """
        if on_cpu(v):
            out: Tensor = AddGated.apply(mixed, q, v, grid, *self.convs.parameters())
            return out
        prefix = v.shape[1] - grid[0] * grid[1]
        maps = torch.split(to_map(v[:, prefix:], grid), self.widths, dim=1)
        convolved = [conv(part) for conv, part in zip(self.convs, maps, strict=True)]
        image = q[:, prefix:] * tokens(torch.cat(convolved, dim=1))
        return mixed + (F.pad(image, (0, 0, prefix, 0)) if prefix else image)


class ConvAttention(nn.Module):
    """project(scale * q (softmax(k)^T v) + EV): factorized attention in O(L C d).

    factorized: phi(q) = q, the keys go through a softmax over all tokens, the class token
    included, and scale = head_dim^-1/2.
    efficient: phi(q) = softmax of q over the channels of its head, scale = 1: both sides are
    normalised, so each output is a weighted mean of values. EV keeps the plain q.

    Args:
        width: C.
        num_heads: heads; they divide C.
        attn: "factorized" or "efficient".

    Source: arXiv 2104.06399, equations 3 and 6; arXiv 1812.01243, section 3 (efficient).
    Departure: the paper prints 1/sqrt(C); its code, and we, use 1/sqrt(head_dim).
    """

    def __init__(self, width: int, num_heads: int, attn: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn = attn
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, grid: Grid, crpe: ConvRelativePositionEncoding | None) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        q, k, v = self.qkv(x).chunk(3, dim=2)  # each (N, L, C), head-major
        out: Tensor = self.proj(self.mix(q, k, v, grid, crpe))
        return out

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: Grid,
        crpe: ConvRelativePositionEncoding | None,
    ) -> Tensor:
        """Attention before its output projection: q, k, v (N, L, C) -> (N, L, C)."""
        if self.attn == "factorized" and q.shape[2] <= NARROW and on_cpu(q):
            out = self._mix_at_once(q, k, v)
        else:
            out = self._mix_by_head(q, k, v)
        return out if crpe is None else crpe(out, q, v, grid)

    def _mix_by_head(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries, values = self._heads(q), self._heads(v)  # (N, h, L, d)
        if self.attn == "efficient":
            queries = queries.softmax(dim=3)
        keys = self._heads(k.softmax(dim=1))
        context = keys.transpose(2, 3) @ values  # (N, h, d, d)
        if self.attn == "factorized":  # scaling d x d numbers is cheaper than L x d
            context = context * (q.shape[2] // self.num_heads) ** -0.5
        return (queries @ context).transpose(1, 2).flatten(2)

    def _mix_at_once(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All heads in one product, whose numbers across heads are struck out."""
        head_dim = q.shape[2] // self.num_heads
        own = q.new_full((head_dim, head_dim), head_dim**-0.5)
        within: Tensor = torch.block_diag(*[own] * self.num_heads)  # type: ignore[no-untyped-call]
        context = (k.softmax(dim=1).transpose(1, 2) @ v) * within  # (N, C, C)
        out: Tensor = q @ context
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class ConvAttentionBlock(nn.Module):
    """x = CPE(x); x = x + drop(attention(norm(x))); x = x + drop(mlp(norm(x))).

    CPE and CRPE belong to the run, and come in with each call: all its blocks share them.

    Source: arXiv 2104.06399, figure 2 and section 4.1.
    """

    def __init__(self, spec: RunSpec, drop_path: float) -> None:
        super().__init__()
        eps = spec.number("ln_eps")
        self.norm1 = nn.LayerNorm(spec.width, eps=eps)
        self.attn = ConvAttention(spec.width, spec.num_heads, spec.word("attn"))
        self.norm2 = nn.LayerNorm(spec.width, eps=eps)
        ratio = spec.number("mlp_ratio")
        self.mlp = Mlp(spec.width, ratio, spec.word("act"))
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        cpe: ConvPositionEncoding | None,
        crpe: ConvRelativePositionEncoding | None,
    ) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        if cpe is not None:
            x = cpe(x, grid)
        x = x + self.drop_path(self.attn(self.norm1(x), grid, crpe))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class ConvAttentionRun(nn.Module):
    """A stage of CoaT: embed, prepend a class token, blocks, split the token off again.

    One CPE and one CRPE serve every block of the run (and the parallel group). `norm` is the
    stage's output norm: the network applies it to what its head reads; the official models own
    and count one in every stage, so the others are kept, frozen (a backbone has none).

    Args:
        spec: the run; options act, attn, cls_token, cpe, crpe, crpe_windows, embed, ln_eps,
            mlp_ratio, patch_size.
        grid: (H, W) of the incoming map.

    Attributes:
        grid: (H, W) of the outgoing map for that input. Other input sizes work too.
        attn: "factorized" or "efficient".

    Source: arXiv 2104.06399, section 4.1, and official code.
    """

    def __init__(self, spec: RunSpec, grid: Grid) -> None:
        super().__init__()
        assert spec.in_width is not None
        self.attn = spec.word("attn")
        self.embed = TokenEmbedding(
            spec.in_width, spec.width, embed=spec.word("embed"),
            kernel_size=spec.count("patch_size"), stride=spec.stride, act=spec.word("act"),
        )  # fmt: skip
        self.grid = self.embed.grid(grid)
        self.cls_token: nn.Parameter | None = None
        if spec.flag("cls_token"):
            self.cls_token = nn.Parameter(torch.empty(1, 1, spec.width))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.cpe = ConvPositionEncoding(spec.width) if spec.flag("cpe") else None
        self.crpe = (
            ConvRelativePositionEncoding(spec.head_dim, spec.pairs("crpe_windows"))
            if spec.flag("crpe")
            else None
        )
        self.blocks = nn.ModuleList(ConvAttentionBlock(spec, rate) for rate in spec.drop_path)
        self.norm: nn.LayerNorm | None = nn.LayerNorm(spec.width, eps=spec.number("ln_eps"))
        init_tokens(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, in_width, H, W) -> map (N, C, H', W') and class token (N, C), both un-normed."""
        x = self.embed(x)
        grid = (x.shape[2], x.shape[3])
        x = join(x, None if self.cls_token is None else self.cls_token.expand(x.shape[0], 1, -1))
        for block in self.blocks:
            x = block(x, grid, self.cpe, self.crpe)
        return split(x, grid)


def join(x: Tensor, token: Tensor | None) -> Tensor:
    """A map (N, C, H, W) and a class token (N, 1, C) or None -> tokens (N, L, C), token first."""
    return tokens(x) if token is None else torch.cat([token, tokens(x)], dim=1)


def split(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    """Tokens (N, L, C) -> map (N, C, H, W) and class token (N, C) or None; inverse of `join`."""
    prefix = x.shape[1] - grid[0] * grid[1]
    token, image = torch.split(x, [prefix, x.shape[1] - prefix], dim=1)
    return to_map(image, grid), token[:, 0] if prefix else None
