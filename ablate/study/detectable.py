"""What a study can show with its seeds, from a given deviation or that of finished trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ablate.study.power import minimum_detectable_effect
from ablate.study.spec import Study


@dataclass(frozen=True, kw_only=True)
class Detectable:
    """What the study's seeds can show, by the two-sample t-test.

    Args:
        sd: standard deviation between seeds, in points of top-1; None where nothing is known.
        source: where it is from.
        seeds: of each variant.
        alpha, power: of the statement.
        comparisons: variants compared with the baseline; Holm's first step divides alpha by it.
        effect: smallest true difference found, in points (in standard deviations where `sd` is
            None); infinite with one seed.
        effect_alone: the same for a single comparison.
    """

    sd: float | None
    source: str
    seeds: int
    alpha: float
    power: float
    comparisons: int
    effect: float
    effect_alone: float

    def __str__(self) -> str:
        if math.isinf(self.effect):
            return "One seed shows no deviation: nothing can be detected; use seeds: 2 or more."
        unit = "points" if self.sd is not None else "standard deviations"
        deviation = f"sd {self.sd:.2f}, {self.source}" if self.sd is not None else self.source
        alone = (
            f" ({self.effect_alone:.1f} for a single comparison)" if self.comparisons > 1 else ""
        )
        return (
            f"{self.power:.0%} power at alpha {self.alpha:g} for differences of {self.effect:.1f} "
            f"{unit} from the baseline{alone}; {deviation}."
        )


def detectable(study: Study, runs: str | Path, results: str | Path) -> Detectable:
    """What the seeds of a study can show.

    Args:
        study: its `sd`, alpha, power and seeds are read.
        runs, results: where finished trials are looked up for a piloted deviation.
    """
    sd, source = study.sd, "given in the study (sd)"
    if sd is None:
        sd, source = _piloted(study, runs, results)
    comparisons = max(1, len(study.variants) - 1)
    seeds = len(study.seeds)

    def effect(comparisons: int) -> float:
        return minimum_detectable_effect(
            sd or 1.0, seeds, alpha=study.alpha, power=study.power, comparisons=comparisons
        )

    return Detectable(
        sd=sd, source=source, seeds=seeds, alpha=study.alpha, power=study.power,
        comparisons=comparisons, effect=effect(comparisons), effect_alone=effect(1),
    )  # fmt: skip


def _piloted(study: Study, runs: str | Path, results: str | Path) -> tuple[float | None, str]:
    """The deviation between seeds in finished trials, pooled over variants."""
    from ablate.study.store import load_results

    rows = load_results(study, results, runs)
    top1 = rows[rows["status"] == "done"].groupby("variant_name")["top1"]
    counts, variances = top1.count(), top1.var(ddof=1)
    freedom = (counts - 1).clip(lower=0)
    total = int(freedom.sum())
    pooled = float((variances.fillna(0.0) * freedom).sum() / total) if total else 0.0
    if pooled <= 0:
        return None, "no deviation known: effects are in standard deviations (set sd:, or pilot)"
    trials = int(counts.sum())
    return math.sqrt(pooled), f"piloted: {trials} finished trials, {total} degrees of freedom"
