"""Kind T: the transformer with relative attention of CoAtNet, over all tokens or in windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.grammar import RunSpec
from ablate.models.layers import DropPath, Mlp, init_tokens, to_map, tokens
from ablate.models.mbconv import down_sample

Grid = tuple[int, int]


class RelativeTransformerRun(nn.Module):
    """Transformer blocks in a row, on tokens; the first carries the stride and the change of width.

    Source: CoAtNet, arXiv 2106.04803, sections 2.1 and 2.2.
    """

    def __init__(self, spec: RunSpec, grid: Grid) -> None:
        super().__init__()
        assert spec.in_width is not None
        self.grid = (-(-grid[0] // spec.stride), -(-grid[1] // spec.stride))
        self.first = EntryBlock(spec.in_width, spec.drop_path[0], spec, self.grid)
        self.blocks = nn.Sequential(*(Block(rate, spec, self.grid) for rate in spec.drop_path[1:]))
        init_tokens(self)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(N, in_width, H, W) -> (N, width, ceil(H/stride), ceil(W/stride)), no class token."""
        return to_map(self.blocks(self.first(x)), self.grid), None


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)), on tokens (N, L, C)."""

    def __init__(self, drop_path: float, spec: RunSpec, grid: Grid) -> None:
        super().__init__()
        eps = spec.number("ln_eps")
        self.norm1 = nn.LayerNorm(spec.width, eps=eps)
        self.attn = attention(spec.width, spec, grid)
        self.norm2 = nn.LayerNorm(spec.width, eps=eps)
        self.mlp = Mlp(spec.width, spec.number("mlp_ratio"), spec.word("act"))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class EntryBlock(nn.Module):
    """project(pool(x)) + attn(pool(norm1(x))), then x + mlp(norm2(x)): the first of a run.

    The norm comes before the pool, and attention works at the output width. Without a stride and
    without a change of width it is a `Block`.

    Source: CoAtNet, arXiv 2106.04803, appendix A.1.
    Departure: the kernel of the pool is not printed; ours is its stride.
    """

    def __init__(self, in_width: int, drop_path: float, spec: RunSpec, grid: Grid) -> None:
        super().__init__()
        eps = spec.number("ln_eps")
        stride = spec.stride
        self.pool = down_sample(spec.word("pool"), stride) if stride > 1 else nn.Identity()
        same = in_width == spec.width
        self.shortcut = nn.Identity() if same else nn.Linear(in_width, spec.width)
        self.norm1 = nn.LayerNorm(in_width, eps=eps)
        self.attn = attention(in_width, spec, grid)
        self.norm2 = nn.LayerNorm(spec.width, eps=eps)
        self.mlp = Mlp(spec.width, spec.number("mlp_ratio"), spec.word("act"))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """A map (N, in_width, H, W) -> tokens (N, L, C)."""
        normed = to_map(self.norm1(tokens(x)), (x.shape[2], x.shape[3]))
        shortcut: Tensor = self.shortcut(tokens(self.pool(x)))
        y = shortcut + self.drop_path(self.attn(tokens(self.pool(normed))))
        out: Tensor = y + self.drop_path(self.mlp(self.norm2(y)))
        return out


def attention(in_width: int, spec: RunSpec, grid: Grid) -> nn.Module:
    """Attention over all tokens of the grid, or in windows."""
    if spec.word("attn") == "window":
        window = spec.count("window")
        return WindowAttention(in_width, spec, grid, (min(window, grid[0]), min(window, grid[1])))
    return RelativeAttention(in_width, spec, grid)


class RelativeAttention(nn.Module):
    """proj(softmax(q k^T / sqrt(d) + bias) v): multi-head attention with a relative position bias.

    The bias of query (i, j) and key (i', j') is table[h, i - i' + H - 1, j - j' + W - 1].

    - `rel_attn=pre` adds it before the softmax (adopted by the paper, Eqn 3 below),
    - `rel_attn=post` after it, without renormalisation; its table starts at 0,
    - `rel_attn=none` has no table.

    Args:
        in_width: channels of the tokens; queries, keys and values have `spec.width`.
        spec: width, heads and options.
        grid: (H, W) of the tokens.

    Source: CoAtNet, arXiv 2106.04803, Eqn 3.
    """

    def __init__(self, in_width: int, spec: RunSpec, grid: Grid) -> None:
        super().__init__()
        self.num_heads, self.head_dim = spec.num_heads, spec.head_dim
        self.mode = spec.word("rel_attn")
        self.qkv = nn.Linear(in_width, 3 * spec.width)
        self.proj = nn.Linear(spec.width, spec.width)
        self.position = (
            None if self.mode == "none" else RelativePosition(spec.num_heads, grid, self.mode)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, L, in_width) -> (N, L, width).

        Args:
            mask: (1 or N, 1, L, L), added to the logits: -inf where a key does not exist.
        """
        n, length, _ = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, L, d)
        bias = None if self.position is None else self.position(q.dtype)
        out = self._post(q, k, v, bias, mask) if self.mode == "post" else _pre(q, k, v, bias, mask)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(n, length, -1))
        return projected

    def _post(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """(softmax(q k^T / sqrt(d)) + bias) v, with the bias of keys that do not exist at 0."""
        assert bias is not None
        logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        if mask is not None:
            logits, bias = logits + mask, bias.masked_fill(mask.isinf(), 0)
        out: Tensor = (logits.softmax(-1).to(v.dtype) + bias) @ v
        return out


def _pre(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v."""
    if bias is not None and mask is not None:
        bias = bias + mask.to(bias.dtype)
    elif bias is None and mask is not None:
        bias = mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class RelativePosition(nn.Module):
    """A table of scalars (heads, 2H - 1, 2W - 1), read as a bias (1, heads, L, L).

    Args:
        num_heads: heads, each with its own table.
        grid: (H, W) of the tokens.
        mode: "pre" (initialised by a truncated normal of deviation 0.02) or "post" (at 0).
    """

    index: Tensor

    def __init__(self, num_heads: int, grid: Grid, mode: str) -> None:
        super().__init__()
        height, width = grid
        self.table = nn.Parameter(torch.zeros(num_heads, 2 * height - 1, 2 * width - 1))
        if mode == "pre":
            nn.init.trunc_normal_(self.table, std=0.02)
        rows = torch.arange(height).view(-1, 1) - torch.arange(height) + height - 1
        columns = torch.arange(width).view(-1, 1) - torch.arange(width) + width - 1
        index = rows[:, None, :, None] * (2 * width - 1) + columns[None, :, None, :]
        self.register_buffer(
            "index", index.reshape(height * width, height * width), persistent=False
        )

    def forward(self, dtype: torch.dtype) -> Tensor:
        """The bias (1, heads, L, L)."""
        flat = self.table.flatten(1)
        bias = flat[:, self.index.flatten()].view(1, flat.shape[0], *self.index.shape)
        return bias.to(dtype)


class WindowAttention(nn.Module):
    """Relative attention inside windows that do not overlap; the last ones are padded.

    A window larger than the grid is the grid. Tokens of the padding are no keys.

    Source: the local alternative that CoAtNet weighs (arXiv 2106.04803, section 2.2), with the
    windows of arXiv 2103.14030 and no shift.
    """

    mask: Tensor | None

    def __init__(self, in_width: int, spec: RunSpec, grid: Grid, window: Grid) -> None:
        super().__init__()
        self.grid, self.window = grid, window
        self.attn = RelativeAttention(in_width, spec, window)
        self.padded = tuple(
            -(-side // part) * part for side, part in zip(grid, window, strict=True)
        )
        self.register_buffer("mask", self._mask(), persistent=False)

    def _mask(self) -> Tensor | None:
        """(windows, 1, 1, L): -inf where a key is padding; None where nothing is padded."""
        if self.padded == self.grid:
            return None
        exists = torch.zeros(1, *self.grid, 1)
        padding = F.pad(exists, self._pads(), value=float("-inf"))
        return self._split(padding).reshape(-1, 1, 1, self.window[0] * self.window[1])

    def _pads(self) -> tuple[int, ...]:
        height, width = self.padded
        return 0, 0, 0, width - self.grid[1], 0, height - self.grid[0]

    def _split(self, x: Tensor) -> Tensor:
        """(N, H', W', C) -> (N * windows, L, C), windows in row-major order."""
        n, height, width, channels = x.shape
        rows, columns = self.window
        parts = x.view(n, height // rows, rows, width // columns, columns, channels)
        return parts.transpose(2, 3).reshape(-1, rows * columns, channels)

    def _join(self, x: Tensor) -> Tensor:
        """(N * windows, L, C) -> (N, H, W, C), without the padding."""
        (height, width), (rows, columns) = self.padded, self.window
        parts = x.view(-1, height // rows, width // columns, rows, columns, x.shape[-1])
        whole = parts.transpose(2, 3).reshape(-1, height, width, x.shape[-1])
        return whole[:, : self.grid[0], : self.grid[1]]

    def forward(self, x: Tensor) -> Tensor:
        """(N, H*W, in_width) -> (N, H*W, width)."""
        n = x.shape[0]
        padded = F.pad(x.reshape(n, *self.grid, -1), self._pads())
        mask = None if self.mask is None else self.mask.repeat(n, 1, 1, 1)
        return self._join(self.attn(self._split(padded), mask)).flatten(1, 2)


def resize_table(table: Tensor, grid: Grid) -> Tensor:
    """A table of relative positions for another grid, by bilinear resizing of each head.

    Args:
        table: (heads, 2H - 1, 2W - 1).
        grid: the new (H, W) of the tokens.

    Returns:
        (heads, 2H' - 1, 2W' - 1).

    Source: CoAtNet, arXiv 2106.04803, section 4.1 (fine-tuning at larger sizes).
    """
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    resized = F.interpolate(table[None].float(), size=size, mode="bilinear", align_corners=False)
    return resized[0].to(table.dtype)
