"""What the rows of a study say about one measured quantity, before it becomes a table or a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pandas as pd

from ablate.report.statistics import (
    Difference,
    Floats,
    Summary,
    Variances,
    compare_with_baseline,
    finite,
    pooled_deviation,
    summarize,
)
from ablate.study.power import minimum_detectable_effect

if TYPE_CHECKING:
    from ablate.study.spec import Study
    from ablate.study.variants import Variant

DATA_SIZE = "data.train_fraction"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One quantity of every variant of a study, compared with the baseline.

    Args:
        metric: column of the rows.
        baseline: name of the baseline variant.
        against: what each other variant is compared with: the baseline, or, where the study
            varies the data size beside something else, the baseline at the variant's own size.
        samples: one value a finished run, by the variant's name, in the study's order.
        differences: every other variant minus what it is compared with.
        deviation: between seeds, pooled over the variants, with its degrees of freedom.
        alpha: probability of any false claim, over all differences of one baseline.
        power: at which detectable differences are stated.
    """

    metric: str
    baseline: str
    against: Mapping[str, str]
    samples: Mapping[str, Floats]
    differences: Mapping[str, Difference]
    deviation: tuple[float, int] | None
    alpha: float
    power: float

    def summary(self, name: str) -> Summary:
        """Mean, n and interval of one variant."""
        return summarize(self.samples[name])

    def detectable(self, name: str) -> float | None:
        """The true difference to the baseline that these runs detect at the study's power."""
        found = self.differences.get(name)
        if found is None or self.deviation is None or self.deviation[0] == 0 or min(found.n) < 2:
            return None
        return minimum_detectable_effect(
            self.deviation[0],
            min(found.n),
            alpha=self.alpha,
            power=self.power,
            comparisons=list(self.against.values()).count(self.against[name]),
        )

    def verdict(self, name: str) -> str:
        """One phrase: what the runs support about this variant against the baseline."""
        if name == self.baseline:
            return "baseline"
        if name in self.against.values():
            return "baseline at its data size"
        if name not in self.differences:
            return ""
        return verdict(self.differences[name], self.detectable(name), self.power)


def verdict(difference: Difference, detectable: float | None, power: float) -> str:
    """The phrase for one comparison: higher, lower, not detectable, or why it was not tested."""
    if difference.reason:
        return f"not tested: {difference.reason}"
    if difference.supported:
        return "higher" if difference.estimate > 0 else "lower"
    first, second = difference.n
    runs = f"n = {first}" if first == second else f"n = {first} against {second}"
    seen = "" if detectable is None else f" ({power:.0%} power at {detectable:.1f} points)"
    return f"no detectable difference at {runs}{seen}"


def gather(study: Study, rows: pd.DataFrame, metric: str = "top1") -> Evidence:
    """The values of `metric` by variant, and their comparison with the study's baseline."""
    samples = {v.name: values(rows, v, metric) for v in study.variants}
    against = comparisons(study)
    differences: dict[str, Difference] = {}
    for ground in dict.fromkeys(against.values()):
        family = {name: samples[name] for name in samples if against.get(name, name) == ground}
        differences |= compare_with_baseline(
            family, ground, variances=cast(Variances, study.variances), alpha=study.alpha
        )
    return Evidence(
        metric=metric,
        baseline=study.baseline.name,
        against=against,
        samples=samples,
        differences=differences,
        deviation=pooled_deviation(list(samples.values())),
        alpha=study.alpha,
        power=study.power,
    )


def comparisons(study: Study) -> dict[str, str]:
    """What each variant is compared with, by name (see `Evidence.against`)."""
    base = study.baseline
    others = [v for v in study.variants if v.name != base.name]
    if set(study.factors) == {DATA_SIZE}:
        return {v.name: base.name for v in others}
    found = {v.name: _at_the_size_of(v, study).name for v in others}
    return {name: ground for name, ground in found.items() if name != ground}


def _at_the_size_of(variant: Variant, study: Study) -> Variant:
    """The baseline with the variant's data size; the baseline itself where there is none."""
    if DATA_SIZE not in variant.levels:
        return study.baseline
    wanted = {**study.baseline.levels, DATA_SIZE: variant.levels[DATA_SIZE]}
    return next((v for v in study.variants if v.levels == wanted), study.baseline)


def runs_of(rows: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """The finished rows of one variant, by seed."""
    mine = (rows["variant_name"] == variant.name) & (rows["status"] == "done")
    return rows.loc[mine].sort_values("seed")


def values(rows: pd.DataFrame, variant: Variant, metric: str) -> Floats:
    """The metric of every finished run of one variant, by seed."""
    return finite(runs_of(rows, variant)[metric].to_numpy(dtype=float))


def failures_of(rows: pd.DataFrame, variant: Variant) -> dict[str, int]:
    """How many runs of one variant failed, by the kind of failure."""
    mine = rows[(rows["variant_name"] == variant.name) & (rows["status"] == "failed")]
    return {str(kind): int(n) for kind, n in mine["failure"].value_counts().sort_index().items()}


def mixed_conditions(rows: pd.DataFrame) -> list[str]:
    """Warnings where the finished rows mix device classes, precisions, commits or versions."""
    done = rows[rows["status"] == "done"]
    kinds = {
        "device classes": [device_class(text) for text in done["device"].dropna()],
        "precisions": list(done["precision"].dropna()),
        "commits": [str(text)[:10] for text in done["commit"].dropna()],
        "versions of ablate": list(done["version"].dropna()),
    }
    found = {what: sorted(set(seen)) for what, seen in kinds.items()}
    return [
        f"These runs mix {what}: {', '.join(seen)}; part of a difference may come from that."
        for what, seen in found.items()
        if len(seen) > 1
    ]


def device_class(device: str) -> str:
    """CPU, or the kind of accelerator, from the device a row names.

    >>> device_class("cuda:0"), device_class("cpu (AMD EPYC)")
    ('CUDA', 'CPU')
    """
    head = "".join(letter if letter.isalnum() else " " for letter in device).split()
    return head[0].upper() if head else "?"
