"""Weighted sums of means, tested together: Welch-Satterthwaite or pooled t, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from ablate.report.summaries import ALPHA, Floats, pooled_deviation

Variances = Literal["welch", "pooled"]

ONE_RUN = "one run has no spread to compare with"
NO_RUN = "no finished run"
NO_SPREAD = "all seeds gave the same value"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference of means, such as a variant minus the baseline, and what supports it.

    Args:
        low, high: interval at the level at which the comparison was decided (see `method`): it
            excludes 0 exactly where the difference is supported. None where nothing was tested.
        p: p-value adjusted for the number of comparisons; None where nothing was tested.
        supported: whether the difference holds at the family's error rate.
        n: runs of every mean that takes part; of the variant and the baseline, in this order.
        level: error rate at which this comparison was decided.
        method: the test in words.
        reason: why nothing was tested, where nothing was.
    """

    estimate: float
    n: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    p: float | None = None
    supported: bool = False
    level: float = ALPHA
    method: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A weighted sum of means with its standard error and degrees of freedom.

    Args:
        error: standard error; None where it is unknown, with the `reason`.
        n: runs of every mean.
    """

    estimate: float
    n: tuple[int, ...]
    error: float | None = None
    df: float = 0.0
    reason: str = ""

    def p(self) -> float:
        """Two-sided p-value, unadjusted."""
        assert self.error is not None
        return float(2 * special.stdtr(self.df, -abs(self.estimate / self.error)))

    def interval(self, level: float) -> tuple[float, float]:
        """The interval that misses with probability `level`."""
        assert self.error is not None
        half = float(special.stdtrit(self.df, 1 - level / 2)) * self.error
        return self.estimate - half, self.estimate + half


def contrast(
    samples: Sequence[Floats],
    weights: Sequence[float],
    *,
    variances: Variances = "welch",
    pool: Sequence[Floats] = (),
) -> Contrast:
    """The weighted sum of the samples' means.

    Args:
        samples: the seeds of every mean; no NaN.
        weights: one a sample; they sum to 0 for a difference.
        variances: "welch" takes each sample's own variance, with Satterthwaite's degrees of
            freedom; "pooled" one variance for all.
        pool: the samples that "pooled" takes its variance from (default: `samples`).
    """
    n = tuple(map(len, samples))
    if min(n) == 0:
        return Contrast(estimate=math.nan, n=n, reason=NO_RUN)
    estimate = float(sum(w * s.mean() for w, s in zip(weights, samples, strict=True)))
    if variances == "pooled":
        return _pooled(estimate, samples, weights, pool or samples)
    if min(n) < 2:
        return Contrast(estimate=estimate, n=n, reason=ONE_RUN)
    parts = [w**2 * s.var(ddof=1) / len(s) for w, s in zip(weights, samples, strict=True)]
    total = float(sum(parts))
    if total == 0:
        return Contrast(estimate=estimate, n=n, reason=NO_SPREAD)
    df = total**2 / sum(part**2 / (size - 1) for part, size in zip(parts, n, strict=True))
    return Contrast(estimate=estimate, n=n, error=math.sqrt(total), df=float(df))


def _pooled(
    estimate: float, samples: Sequence[Floats], weights: Sequence[float], pool: Sequence[Floats]
) -> Contrast:
    n = tuple(map(len, samples))
    deviation = pooled_deviation(pool)
    if deviation is None or deviation[0] == 0:
        reason = ONE_RUN if deviation is None else NO_SPREAD
        return Contrast(estimate=estimate, n=n, reason=reason)
    sd, df = deviation
    error = sd * math.sqrt(sum(w**2 / size for w, size in zip(weights, n, strict=True)))
    return Contrast(estimate=estimate, n=n, error=error, df=df)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """Error rate at which Holm's procedure decided each comparison, in the order given.

    A rejected one was tested at alpha / (hypotheses left); the first that is kept, and all after
    it, at the level where the procedure stopped. An interval at that level excludes 0 exactly
    where Holm rejects. Each such interval covers with at least 1 - alpha; they are not a
    simultaneous region.
    """
    order = np.argsort(p_values, kind="stable")
    levels = [alpha] * len(p_values)
    stopped: float | None = None
    for rank, index in enumerate(order):
        level = alpha / (len(p_values) - rank) if stopped is None else stopped
        levels[index] = level
        if stopped is None and p_values[index] > level:
            stopped = level
    return levels


def decide(contrasts: Sequence[Contrast], alpha: float = ALPHA) -> list[Difference]:
    """All contrasts as one family under Holm's correction; those without an error untested."""
    tested = [c.p() for c in contrasts if c.error is not None]
    adjusted, levels = iter(holm(tested)), iter(holm_levels(tested, alpha))
    method = f"Holm over {len(tested)}" if len(tested) > 1 else "one comparison"
    return [
        untested(c) if c.error is None else _decided(c, next(adjusted), next(levels), alpha, method)
        for c in contrasts
    ]


def untested(found: Contrast) -> Difference:
    """The difference that could not be tested, with the reason."""
    return Difference(estimate=found.estimate, n=found.n, reason=found.reason)


def _decided(
    found: Contrast, adjusted: float, level: float, alpha: float, method: str
) -> Difference:
    low, high = found.interval(level)
    return Difference(
        estimate=found.estimate,
        n=found.n,
        low=low,
        high=high,
        p=adjusted,
        supported=adjusted <= alpha,
        level=level,
        method=method,
    )
