"""Group P: CoaT's parallel blocks, where the last scales exchange what they attend to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.grammar import RunSpec
from ablate.models.conv_attention import ConvAttention, ConvAttentionRun, Grid, join, split
from ablate.models.image_tokens import ResizeTokens
from ablate.models.layers import DropPath, init_tokens, to_map, tokens
from ablate.models.mlp import Mlp
from ablate.models.routes import on_cpu

Features = tuple[Tensor, Tensor | None]


def resize(x: Tensor, grid: Grid, target: Grid) -> Tensor:
    """Image tokens resized bilinearly from grid to target; the class token is passed through.

    Sampling is by the target grid itself, without aligned corners and without antialiasing:
    halving an even grid is the mean of 2x2 cells, quartering takes the central 2x2 of each 4x4.
    """
    if grid == target:
        return x
    if on_cpu(x):
        out: Tensor = ResizeTokens.apply(x, grid, target)
        return out
    prefix = x.shape[1] - grid[0] * grid[1]
    token, image = torch.split(x, [prefix, x.shape[1] - prefix], dim=1)
    map_ = F.interpolate(to_map(image, grid), size=target, mode="bilinear", align_corners=False)
    return torch.cat([token, tokens(map_)], dim=1) if prefix else tokens(map_)


class ParallelBlock(nn.Module):
    """x_s = CPE_s(x_s); x_s = x_s + drop(c_s); x_s = x_s + drop(mlp(norm_s(x_s))).

    With a_s = attention_s(norm_s(x_s)), c_s is, by `coscale`:

    - none: a_s.
    - interp: a_s + sum over t != s of R(a_t), where R resizes to the grid of s. What is resized
      is the projected output, and class tokens are summed.
    - cross: sum over all t of proj_s(conv-attention_s(q_s, R(k_t), R(v_t))), with the softmax of
      the keys after resizing and CRPE_s with the resized values in every term.

    The scales share one MLP; norms, qkv and output projections are their own.

    Source: arXiv 2104.06399, section 4.2, figure 3; interp as in the official code. There is
        none for cross: its details are those that reproduce the 4.8 GFLOPs of Table 7.
    """

    def __init__(self, spec: RunSpec, attn: str, drop_path: float) -> None:
        super().__init__()
        names = [str(scale) for scale in spec.counts("scales")]
        eps = spec.number("ln_eps")
        self.coscale = spec.word("coscale")
        self.norm1 = nn.ModuleDict({s: nn.LayerNorm(spec.width, eps=eps) for s in names})
        self.attn = nn.ModuleDict(
            {s: ConvAttention(spec.width, spec.num_heads, attn) for s in names}
        )
        self.norm2 = nn.ModuleDict({s: nn.LayerNorm(spec.width, eps=eps) for s in names})
        self.mlp = Mlp(spec.width, spec.number("mlp_ratio"), spec.word("act"))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, xs: Sequence[Tensor], grids: Sequence[Grid], members: Sequence[ConvAttentionRun]
    ) -> list[Tensor]:
        """Tokens (N, L_s, C) of every scale -> the same."""
        encoded = [
            x if run.cpe is None else run.cpe(x, grid)
            for x, grid, run in zip(xs, grids, members, strict=True)
        ]
        attended = self.attend(encoded, grids, members)
        added = [x + self.drop_path(c) for x, c in zip(encoded, attended, strict=True)]
        return [
            x + self.drop_path(self.mlp(norm(x)))
            for x, norm in zip(added, self.norm2.values(), strict=True)
        ]

    def attend(
        self, xs: Sequence[Tensor], grids: Sequence[Grid], members: Sequence[ConvAttentionRun]
    ) -> list[Tensor]:
        """c_s of every scale, from tokens with their position encoding."""
        normed = [norm(x) for norm, x in zip(self.norm1.values(), xs, strict=True)]
        if self.coscale == "cross":
            return self._cross(normed, grids, members)
        attentions = zip(self.attn.values(), normed, grids, members, strict=True)
        own = [attend(x, grid, run.crpe) for attend, x, grid, run in attentions]
        if self.coscale == "none":
            return own
        return [self._interpolate(own, grids, scale) for scale in range(len(own))]

    def _interpolate(self, own: list[Tensor], grids: Sequence[Grid], scale: int) -> Tensor:
        total = own[scale]
        for other, x in enumerate(own):
            if other != scale:
                total = total + resize(x, grids[other], grids[scale])
        return total

    def _cross(
        self,
        normed: list[Tensor],
        grids: Sequence[Grid],
        members: Sequence[ConvAttentionRun],
    ) -> list[Tensor]:
        attentions = [part for part in self.attn.values() if isinstance(part, ConvAttention)]
        projected = [a.qkv(x).chunk(3, dim=2) for a, x in zip(attentions, normed, strict=True)]
        mixed = []
        for attention, (q, _, _), grid, run in zip(
            attentions, projected, grids, members, strict=True
        ):
            terms = [
                attention.mix(q, resize(k, other, grid), resize(v, other, grid), grid, run.crpe)
                for (_, k, v), other in zip(projected, grids, strict=True)
            ]
            mixed.append(
                sum((attention.proj(term) for term in terms[1:]), attention.proj(terms[0]))
            )
        return mixed


class ParallelGroup(nn.Module):
    """Parallel blocks over the last runs of several stages, from their own class tokens on.

    The blocks use the CPE and CRPE of the member runs, which own them: here they are in no
    state dict and are counted once.

    Args:
        spec: the group; options act, coscale, ln_eps, mlp_ratio, scales.
        members: the last run of every stage in `scales`, of one width.

    Source: arXiv 2104.06399, section 4.2, and official code.
    """

    def __init__(self, spec: RunSpec, members: Sequence[ConvAttentionRun]) -> None:
        super().__init__()
        self.members = tuple(members)  # a tuple is not registered: its parts have an owner
        self.blocks = nn.ModuleList(
            ParallelBlock(spec, members[0].attn, rate) for rate in spec.drop_path
        )
        init_tokens(self)

    def forward(self, features: Sequence[Features]) -> list[Features]:
        """Map (N, C, H_s, W_s) and class token (N, C) or None of every scale -> the same."""
        grids = [(map_.shape[2], map_.shape[3]) for map_, _ in features]
        xs = [join(map_, None if token is None else token[:, None]) for map_, token in features]
        for block in self.blocks:
            xs = block(xs, grids, self.members)
        return [split(x, grid) for x, grid in zip(xs, grids, strict=True)]
