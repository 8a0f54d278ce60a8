"""A few seeds in numbers: mean, n, deviation and the 95% Student-t interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

ALPHA = 0.05
"""Error rate of a family of comparisons, and 1 - confidence of an interval."""

Floats = NDArray[np.float64]
Values = Sequence[float] | Floats


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean of the seeds of one variant, with its 95% Student-t interval.

    Args:
        low, high: ends of the interval; None where n < 2, which no interval can honestly describe.
        sd: sample standard deviation (n - 1); None where n < 2.
    """

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width."""
        return None if self.high is None else self.high - self.mean


def finite(values: Values) -> Floats:
    """The values that exist: failed and missing runs are NaN in the rows."""
    array: Floats = np.asarray(values, dtype=np.float64)
    kept: Floats = array[np.isfinite(array)]
    return kept


def summarize(values: Values, confidence: float = 1 - ALPHA) -> Summary:
    """Mean, n and Student-t interval of the values that are not NaN.

    >>> summarize([70.0, 72.0, 74.0]).mean
    72.0
    >>> summarize([70.0]).low is None
    True
    """
    sample = finite(values)
    n = len(sample)
    if n == 0:
        return Summary(mean=math.nan, n=0)
    mean = float(sample.mean())
    if n == 1:
        return Summary(mean=mean, n=1)
    sd = float(sample.std(ddof=1))
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * sd / math.sqrt(n)
    return Summary(mean=mean, n=n, sd=sd, low=mean - half, high=mean + half)


def pooled_deviation(samples: Sequence[Values]) -> tuple[float, int] | None:
    """Standard deviation inside the groups and its degrees of freedom; None without repeats."""
    groups = [group for group in map(finite, samples) if len(group) > 1]
    df = sum(len(group) - 1 for group in groups)
    if df == 0:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return math.sqrt(squares / df), df
