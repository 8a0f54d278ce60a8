"""Rankings that a paper states, and whether the runs support them.

A step of a ranking agrees where the interval of the difference excludes the opposite order,
contradicts where it excludes the stated order, and is undecided otherwise. All steps of all
rankings of a table are one family (Welch with Holm); a study that varies more than the table, such
as the data size, is judged under each condition by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablate.papers import Claim, PaperTable
from ablate.report.evidence import DATA_SIZE, runs_of
from ablate.report.statistics import (
    ALPHA,
    Difference,
    compare_pairs,
    finite,
    pooled_deviation,
)
from ablate.report.table import interval, signed
from ablate.study.power import minimum_detectable_effect

if TYPE_CHECKING:
    from ablate.study.spec import Study
    from ablate.study.variants import Variant

Levels = tuple[tuple[str, str], ...]
Sample = np.ndarray[Any, np.dtype[np.float64]]

_WORDS = {"top1": "top-1", "gap": "generalization gap", "train_top1": "train top-1"}


def claims_of(paper: PaperTable) -> list[str]:
    """The rankings as the paper states them."""
    return [
        f"The paper ranks by {_WORDS[claim.metric]}: {claim.ranking} ({claim.text})."
        for claim in paper.claims
    ]


def judge_claims(paper: PaperTable, study: Study, rows: pd.DataFrame) -> list[str]:
    """One sentence a step of every ranking that this study measured on both sides."""
    conditions = _conditions(paper, study)
    told = []
    for rest, variants in conditions.items():
        runs = {name: runs_of(rows, variant) for name, variant in variants.items()}
        where = _where(rest, runs) if len(conditions) > 1 else ""
        told += [where + s for s in judge(paper, runs, alpha=study.alpha, power=study.power)]
    return told


def judge(
    paper: PaperTable, runs: Mapping[str, pd.DataFrame], *, alpha: float = ALPHA, power: float = 0.8
) -> list[str]:
    """One sentence a step of every ranking whose two rows have finished runs.

    Args:
        paper: gives the claims.
        runs: finished rows by the name of the paper's row.
        alpha: probability of any false decision over all steps.
        power: at which detectable differences are stated.
    """
    steps = [
        (claim, step, quantity(runs[step[0]], claim.metric), quantity(runs[step[2]], claim.metric))
        for claim in paper.claims
        for step in claim.steps()
        if step[0] in runs and step[2] in runs
    ]
    steps = [step for step in steps if len(step[2]) and len(step[3])]
    found = compare_pairs([(first, second) for _, _, first, second in steps], alpha)

    def detectable(samples: list[Sample]) -> float | None:
        pooled = pooled_deviation(samples)
        n = min(map(len, samples))
        if pooled is None or pooled[0] == 0 or n < 2:
            return None
        return minimum_detectable_effect(
            pooled[0], n, alpha=alpha, power=power, comparisons=len(steps)
        )

    return [
        _sentence(claim, step, difference, detectable([first, second]), power)
        for (claim, step, first, second), difference in zip(steps, found, strict=True)
    ]


def quantity(runs: pd.DataFrame, metric: str) -> Sample:
    """The ranked quantity of every run: the more, the better (the gap is eval minus train)."""
    if metric == "gap":
        return finite((runs["top1"] - runs["train_top1"]).to_numpy(dtype=float))
    return finite(runs[metric].to_numpy(dtype=float))


def _conditions(paper: PaperTable, study: Study) -> dict[Levels, dict[str, Variant]]:
    """The variants by the paper's row, under each combination of levels that no row names."""
    found: dict[Levels, dict[str, Variant]] = {}
    for variant in study.variants:
        row = paper.row_of(variant.levels)
        if row is not None:
            named = row.variant or {}
            rest = tuple((k, str(v)) for k, v in variant.levels.items() if k not in named)
            found.setdefault(rest, {})[row.name] = variant
    return found


def _where(rest: Levels, runs: Mapping[str, pd.DataFrame]) -> str:
    """`At 640 training images: `, or the levels of the condition."""
    sizes = {int(n) for own in runs.values() for n in own["train_images"].unique()}
    if [name for name, _ in rest] == [DATA_SIZE] and len(sizes) == 1:
        return f"At {sizes.pop():,} training images: "
    return f"At {', '.join(f'{name}={level}' for name, level in rest)}: "


def _sentence(
    claim: Claim,
    step: tuple[str, str, str],
    found: Difference,
    detectable: float | None,
    power: float,
) -> str:
    first, relation, second = step
    bounds = interval(found.low, found.high, plus=True)
    measured = f"measured {signed(found.estimate)} {bounds}".rstrip()
    return (
        f"{_WORDS[claim.metric]}: {first} {relation} {second}: "
        f"{support(relation, found, detectable, power)} ({measured})."
    )


def support(relation: str, found: Difference, detectable: float | None, power: float) -> str:
    """agrees, contradicts, or undecided at n with what these runs could have seen.

    "about equal" (~) can be contradicted by a difference, and is never proved by its absence.
    """
    if found.supported:
        if relation == "~":
            return "contradicts"
        return "agrees" if found.estimate > 0 else "contradicts"
    n = min(found.n)
    if found.reason:
        return f"undecided at n = {n}: {found.reason}"
    seen = "" if detectable is None else f" ({power:.0%} power at {detectable:.1f} points)"
    return f"undecided at n = {n}{seen}"
