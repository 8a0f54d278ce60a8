"""What a few seeds support: chosen pairs, and many variants against one baseline.

The comparison with a baseline is Welch's t with Holm's correction, which holds its rate when
variances differ; Dunnett's test has more power and holds its rate for equal variances only, so a
study has to declare them beforehand (`variances: pooled`). No pre-test chooses between the two:
choosing by the data would spoil the rate of either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scipy import special

from ablate.report.contrasts import (
    Contrast,
    Difference,
    Variances,
    contrast,
    decide,
    holm,
    untested,
)
from ablate.report.dunnett import dunnett_critical, dunnett_p
from ablate.report.summaries import (
    ALPHA,
    Floats,
    Summary,
    Values,
    finite,
    pooled_deviation,
    summarize,
)

__all__ = [
    "ALPHA",
    "Difference",
    "Floats",
    "Summary",
    "Values",
    "Variances",
    "compare_pairs",
    "compare_with_baseline",
    "dunnett_critical",
    "finite",
    "holm",
    "pooled_deviation",
    "summarize",
]


def compare_pairs(pairs: Sequence[tuple[Values, Values]], alpha: float = ALPHA) -> list[Difference]:
    """Chosen pairs (first minus second) by Welch's t with Holm's correction over the pairs."""
    contrasts = [contrast([finite(a), finite(b)], [1, -1]) for a, b in pairs]
    return [
        replace(found, method=f"Welch's t, {found.method}") if found.method else found
        for found in decide(contrasts, alpha)
    ]


def compare_with_baseline(
    samples: Mapping[str, Values],
    baseline: str,
    *,
    variances: Variances = "welch",
    alpha: float = ALPHA,
) -> dict[str, Difference]:
    """Every other variant minus the baseline, the family's error rate held at `alpha`.

    Args:
        samples: the values of every variant's seeds, by name; NaN is a run that has none.
        baseline: the name of the variant that all others are compared with.
        variances: "welch" is Welch with Holm; "pooled" is Dunnett, for studies that declare
            equal variances beforehand.
        alpha: the probability of any claimed difference where there is none.

    Source: C. W. Dunnett, 1955; B. L. Welch, 1947; S. Holm, 1979.
    """
    others = [name for name in samples if name != baseline]
    if variances == "pooled":
        groups = {name: finite(samples[name]) for name in others}
        return _dunnett(groups, finite(samples[baseline]), alpha)
    pairs = [(samples[name], samples[baseline]) for name in others]
    return dict(zip(others, compare_pairs(pairs, alpha), strict=True))


def _dunnett(groups: Mapping[str, Floats], control: Floats, alpha: float) -> dict[str, Difference]:
    pool = [control, *groups.values()]
    contrasts = {
        name: contrast([group, control], [1, -1], variances="pooled", pool=pool)
        for name, group in groups.items()
    }
    tested = [c for c in contrasts.values() if c.error is not None]
    if not tested:
        return {name: untested(c) for name, c in contrasts.items()}
    shares = tuple(c.n[0] / sum(c.n) for c in tested)
    critical = dunnett_critical(shares, int(tested[0].df), alpha)
    return {
        name: untested(c) if c.error is None else _many_to_one(c, shares, critical)
        for name, c in contrasts.items()
    }


def _many_to_one(found: Contrast, shares: tuple[float, ...], critical: float) -> Difference:
    assert found.error is not None
    df, half = int(found.df), critical * found.error
    ratio = abs(found.estimate) / found.error
    return Difference(
        estimate=found.estimate,
        n=found.n,
        low=found.estimate - half,
        high=found.estimate + half,
        p=dunnett_p(ratio, shares, df),
        supported=ratio > critical,
        level=float(2 * special.stdtr(df, -critical)),
        method=f"Dunnett over {len(shares)}, variance pooled with {df} degrees of freedom",
    )
