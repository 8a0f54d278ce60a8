"""Classification heads: from the last maps and class tokens to logits (N, num_classes)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ablate.grammar import Blueprint, RunSpec
from ablate.kinds import KINDS

Features = tuple[Tensor, Tensor | None]
"""A map (N, C, H, W) and the class token (N, C) of its stage, where it has one."""


class MlpHead(nn.Module):
    """fc(tanh(hidden(norm(mean(x))))): mean over space, then LayerNorm, then a hidden layer.

    Source: arXiv 2106.04803; the hidden layer is fitted (the printed parameter counts of six of
    eight models need it), pooling before the norm follows the authors' later code.
    """

    def __init__(self, width: int, num_classes: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.hidden = nn.Linear(width, width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, features: Sequence[Features]) -> Tensor:
        pooled = features[-1][0].mean(dim=(2, 3))
        logits: Tensor = self.fc(torch.tanh(self.hidden(self.norm(pooled))))
        return logits


class LinearHead(nn.Module):
    """fc(norm(mean(x))): mean over space, LayerNorm, linear."""

    def __init__(self, width: int, num_classes: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, features: Sequence[Features]) -> Tensor:
        logits: Tensor = self.fc(self.norm(features[-1][0].mean(dim=(2, 3))))
        return logits


class ClassTokenHead(nn.Module):
    """fc(token): the last stage's class token, which arrives normed, through a linear layer.

    Source: CoaT-Lite (arXiv 2104.06399, section 4.1), CvT (arXiv 2103.15808, section 3.1).
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, num_classes)

    def forward(self, features: Sequence[Features]) -> Tensor:
        token = features[-1][1]
        assert token is not None, "head=cls without a class token"
        logits: Tensor = self.fc(token)
        return logits


class AggregateHead(nn.Module):
    """fc(sum_s a_s token_s + b): the normed class tokens of all scales, mixed by a 1x1 Conv1d.

    Source: CoaT, arXiv 2104.06399, section 4.2 and official code.
    """

    def __init__(self, width: int, scales: int, num_classes: int) -> None:
        super().__init__()
        self.aggregate = nn.Conv1d(scales, 1, kernel_size=1)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, features: Sequence[Features]) -> Tensor:
        tokens = [token for _, token in features if token is not None]
        mixed = self.aggregate(torch.stack(tokens, dim=1)).squeeze(1)  # (N, S, C) -> (N, C)
        logits: Tensor = self.fc(mixed)
        return logits


def build_head(blueprint: Blueprint, num_classes: int) -> nn.Module:
    """The head that a blueprint names, over its last run (and the scales of its group)."""
    width = blueprint.last.width
    if blueprint.head == "aggregate":
        return AggregateHead(width, len(blueprint.scales), num_classes)
    if blueprint.head == "cls":
        return ClassTokenHead(width, num_classes)
    averaging = {"mlp": MlpHead, "linear": LinearHead}
    return averaging[blueprint.head](width, num_classes, _norm_eps(blueprint.last))


def _norm_eps(last: RunSpec) -> float:
    """The epsilon of the last run's LayerNorms; 1e-5 where its blocks may have none."""
    always = "ln_eps" in last.options and "ln_eps" not in KINDS[last.kind].active
    return last.number("ln_eps") if always else 1e-5
