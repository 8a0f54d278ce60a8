"""Kind T: the transformer with relative attention of CoAtNet, over all tokens or in windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.grammar import RunSpec
from ablate.models.attention import attend
from ablate.models.layers import DropPath, init_tokens, to_map, tokens
from ablate.models.mbconv import down_sample
from ablate.models.mlp import Mlp

Grid = tuple[int, int]


class RelativeTransformerRun(nn.Module):
    """Transformer blocks in a row, on tokens; the first carries the stride and the change of width.

    Position tables are made for one grid; maps of another size read them resized.

    Source: CoAtNet, arXiv 2106.04803, sections 2.1 and 2.2.
    Departure: the initialisation is not printed; linear weights and tables are truncated normals
    of deviation 0.02, biases 0. The projection of the identity path is Xavier's: of deviation
    0.02 it shrinks the signal of narrow networks tenfold at each stage, so that those with three
    transformer stages stayed at chance.
    """

    def __init__(self, spec: RunSpec, grid: Grid) -> None:
        super().__init__()
        assert spec.in_width is not None
        self.grid = (-(-grid[0] // spec.stride), -(-grid[1] // spec.stride))
        self.first = EntryBlock(spec.in_width, spec.drop_path[0], spec, self.grid)
        self.blocks = nn.ModuleList(Block(rate, spec, self.grid) for rate in spec.drop_path[1:])
        init_tokens(self)
        if isinstance(self.first.shortcut, nn.Linear):
            nn.init.xavier_uniform_(self.first.shortcut.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(N, in_width, H, W) -> (N, width, ceil(H/stride), ceil(W/stride)), no class token."""
        x = self.first(x)
        grid = (x.shape[2], x.shape[3])
        x = tokens(x)
        for block in self.blocks:
            x = block(x, grid)
        return to_map(x, grid), None


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

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
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
        """(N, in_width, H, W) -> (N, width, ceil(H/stride), ceil(W/stride)), channels-last."""
        normed = to_map(self.norm1(tokens(x)), (x.shape[2], x.shape[3]))
        pooled = self.pool(x)
        grid = (pooled.shape[2], pooled.shape[3])
        shortcut: Tensor = self.shortcut(tokens(pooled))
        y = shortcut + self.drop_path(self.attn(tokens(self.pool(normed)), grid))
        return to_map(y + self.drop_path(self.mlp(self.norm2(y))), grid)


def attention(in_width: int, spec: RunSpec, grid: Grid) -> nn.Module:
    """Attention over all tokens of the grid, or in windows."""
    if spec.word("attn") == "window":
        window = spec.count("window")
        return WindowAttention(in_width, spec, (min(window, grid[0]), min(window, grid[1])))
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

    def forward(self, x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """(N, L, in_width) -> (N, L, width).

        Args:
            grid: (H, W) of the tokens, with H*W = L.
            mask: (1 or N, 1, 1, L), added to the logits: -inf where a key does not exist.
        """
        n, length, _ = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, L, d)
        bias = None if self.position is None else self.position(grid)
        if self.mode == "post":
            assert bias is not None
            out = self._post(q, k, v, bias, mask)
        else:
            out = attend(q, k, v, scale=self.head_dim**-0.5, bias=_sum(bias, mask))
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(n, length, -1))
        return projected

    def _post(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """(softmax(q k^T / sqrt(d)) + bias) v, with the bias of keys that do not exist at 0."""
        logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        if mask is not None:
            logits, bias = logits + mask, bias.masked_fill(mask.isinf(), 0)
        out: Tensor = (logits.softmax(-1) + bias).to(v.dtype) @ v
        return out


def _sum(bias: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """What is added to the logits."""
    return mask if bias is None else bias if mask is None else bias + mask


class RelativePosition(nn.Module):
    """A table of scalars (heads, 2H - 1, 2W - 1), read as a bias (1, heads, L, L).

    Args:
        num_heads: heads, each with its own table.
        grid: (H, W) of the tokens that the table is for; it is resized for others.
        mode: "pre" (initialised by a truncated normal of deviation 0.02) or "post" (at 0).
    """

    def __init__(self, num_heads: int, grid: Grid, mode: str) -> None:
        super().__init__()
        height, width = self.grid = grid
        self.table = nn.Parameter(torch.zeros(num_heads, 2 * height - 1, 2 * width - 1))
        if mode == "pre":
            nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, grid: Grid) -> Tensor:
        """The bias (1, heads, L, L) of the tokens of a grid."""
        (height, width), length = grid, grid[0] * grid[1]
        table = self.table if grid == self.grid else resize_table(self.table, grid)
        # [h, i, j, a, b] = table[h, i + a, j + b]: key (i', j') stands at a = H-1-i', b = W-1-j'
        windows = table.unfold(1, height, 1).unfold(2, width, 1)
        return windows.flip(3, 4).reshape(1, -1, length, length)


class WindowAttention(nn.Module):
    """Relative attention inside windows that do not overlap; the last ones are padded.

    A window larger than the grid is the grid. Tokens of the padding are no keys.

    Source: the local alternative that CoAtNet weighs (arXiv 2106.04803, section 2.2), with the
    windows of arXiv 2103.14030 and no shift.
    """

    def __init__(self, in_width: int, spec: RunSpec, window: Grid) -> None:
        super().__init__()
        self.window = window
        self.attn = RelativeAttention(in_width, spec, window)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(N, H*W, in_width) -> (N, H*W, width)."""
        n, (height, width) = x.shape[0], grid
        padding = (0, 0, 0, -width % self.window[1], 0, -height % self.window[0])
        mask = None
        if any(padding):
            absent = F.pad(x.new_zeros(1, *grid, 1), padding, value=float("-inf"))
            mask = self._split(absent).transpose(1, 2)[:, None].repeat(n, 1, 1, 1)
        parts = self._split(F.pad(x.reshape(n, *grid, -1), padding))
        mixed = self.attn(parts, self.window, mask)
        return self._join(mixed, (height + padding[5], width + padding[3]), grid)

    def _split(self, x: Tensor) -> Tensor:
        """(N, H', W', C) -> (N * windows, L, C), windows in row-major order."""
        n, height, width, channels = x.shape
        rows, columns = self.window
        parts = x.view(n, height // rows, rows, width // columns, columns, channels)
        return parts.transpose(2, 3).reshape(-1, rows * columns, channels)

    def _join(self, x: Tensor, padded: Grid, grid: Grid) -> Tensor:
        """(N * windows, L, C) -> (N, H*W, C), without the padding."""
        (height, width), (rows, columns) = padded, self.window
        parts = x.view(-1, height // rows, width // columns, rows, columns, x.shape[-1])
        whole = parts.transpose(2, 3).reshape(-1, height, width, x.shape[-1])
        return whole[:, : grid[0], : grid[1]].flatten(1, 2)


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
