"""Main effects and interactions of a factorial design, with intervals: do two parts add up?

The effect of a level is its mean against the first level of its factor, averaged evenly over all
combinations of the other factors; an interaction is how much the effect of one factor depends on
another. All effects of a study are one family (Holm).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.report.contrasts import Difference, Variances, contrast, decide
from ablate.report.summaries import ALPHA, Values, finite

Cell = tuple[Any, ...]
"""One level of every factor, in the order of the factors."""

Parts = tuple[tuple[str, Any, Any], ...]
"""Factor, level and the level it is compared with, for one or two factors."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A main effect (one part) or an interaction (two parts).

    Args:
        parts: what is compared.
        difference: estimate, interval and support.
    """

    parts: Parts
    difference: Difference

    @property
    def interaction(self) -> bool:
        """Whether it is an interaction of two factors."""
        return len(self.parts) > 1


def is_factorial(factors: Mapping[str, Sequence[Any]], cells: Mapping[Cell, Values]) -> bool:
    """Whether every combination of levels has a finished run."""
    return all(len(finite(cells.get(cell, ()))) for cell in itertools.product(*factors.values()))


def effects(
    factors: Mapping[str, Sequence[Any]],
    cells: Mapping[Cell, Values],
    *,
    variances: Variances = "welch",
    alpha: float = ALPHA,
) -> list[Effect]:
    """All main effects, then all two-way interactions, of a full factorial design.

    Args:
        factors: levels by factor; the first level is the one that others are compared with.
        cells: the values of the seeds, by combination of levels.
        variances: "welch" lets every cell have its own variance, "pooled" takes one.
        alpha: probability of any claimed effect where there is none.
    """
    names = list(factors)
    samples = {cell: finite(values) for cell, values in cells.items()}
    order = list(itertools.product(*factors.values()))
    found = [*_main(factors), *_interactions(factors)]
    contrasts = []
    for parts in found:
        weights = [_weight(cell, names, factors, parts) for cell in order]
        used = [(samples[cell], w) for cell, w in zip(order, weights, strict=True) if w]
        contrasts.append(
            contrast(
                [sample for sample, _ in used],
                [weight for _, weight in used],
                variances=variances,
                pool=[samples[cell] for cell in order],
            )
        )
    decided = decide(contrasts, alpha)
    return [Effect(parts=p, difference=d) for p, d in zip(found, decided, strict=True)]


def _main(factors: Mapping[str, Sequence[Any]]) -> Iterator[Parts]:
    for name, levels in factors.items():
        for level in levels[1:]:
            yield ((name, level, levels[0]),)


def _interactions(factors: Mapping[str, Sequence[Any]]) -> Iterator[Parts]:
    for (one, its), (two, others) in itertools.combinations(factors.items(), 2):
        for level, other in itertools.product(its[1:], others[1:]):
            yield (one, level, its[0]), (two, other, others[0])


def _weight(
    cell: Cell, names: Sequence[str], factors: Mapping[str, Sequence[Any]], parts: Parts
) -> float:
    """The cell's share in the contrast: +1 or -1 for each part, evenly over the other factors."""
    weight = 1.0
    named = {name for name, _, _ in parts}
    for name in set(names) - named:
        weight /= len(factors[name])
    for name, level, reference in parts:
        mine = cell[names.index(name)]
        weight *= (mine == level) - (mine == reference)
    return weight
