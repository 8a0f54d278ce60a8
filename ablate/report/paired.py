"""Comparisons by the single test image: more sensitive, and conditional on the test images.

Two networks that were tested on the same images are compared image by image: McNemar's exact test
for two single runs, and a bootstrap over seeds and images for several runs of each.

Source: Q. McNemar, 1947; A. B. Owen, The pigeonhole bootstrap, 2007 (seeds x images).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablate.errors import ResultsError
from ablate.report.summaries import ALPHA, Values, finite

Correct = NDArray[np.bool_]
"""Whether each test image was classified rightly: (images,) of one run, (seeds, images) of many."""

ENOUGH_SEEDS = 10
"""Below, resampling few seeds understates their spread: the interval is marked conditional."""


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Two single runs on the same images.

    Args:
        only_first, only_second: images that only one of the two classifies rightly.
        difference: accuracy of the first minus the second, in points.
        p: two-sided exact p-value. It says nothing about other seeds.
    """

    only_first: int
    only_second: int
    difference: float
    p: float


def mcnemar(first: Correct, second: Correct) -> McNemar:
    """Whether two runs differ on these images by more than chance (exact binomial test)."""
    from scipy import stats

    _check(first[None], second[None])
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(stats.binomtest(one, one + other).pvalue) if one + other else 1.0
    return McNemar(
        only_first=one, only_second=other, difference=100 * (one - other) / first.size, p=p
    )


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """The difference of two variants by the two-way bootstrap.

    Args:
        difference: mean accuracy of the first minus the second, in points.
        low, high: percentile interval over resampled seeds and images.
        n: seeds of the first and of the second.
        conditional: fewer than 10 seeds, so that the interval holds for these seeds only.
    """

    difference: float
    low: float
    high: float
    n: tuple[int, int]
    conditional: bool


def bootstrap_difference(
    first: Correct,
    second: Correct,
    *,
    generator: np.random.Generator,
    draws: int = 2000,
    alpha: float = ALPHA,
) -> Bootstrap:
    """Resample seeds (each variant's own) and images (shared by both) with replacement.

    Args:
        first, second: (seeds, images); the images in the same order.
        generator: source of randomness.
        draws: bootstrap samples.
        alpha: 1 - confidence.
    """
    _check(first, second)
    n, images = (len(first), len(second)), first.shape[1]
    picks = [generator.multinomial(k, np.full(k, 1 / k), size=draws) / k for k in n]
    differences = np.empty(draws)
    for draw in range(draws):
        by_image = picks[0][draw] @ first - picks[1][draw] @ second
        counts = np.bincount(generator.integers(images, size=images), minlength=images)
        differences[draw] = 100 * float(counts @ by_image) / images
    low, high = np.quantile(differences, [alpha / 2, 1 - alpha / 2])
    return Bootstrap(
        difference=100 * float(first.mean() - second.mean()),
        low=float(low),
        high=float(high),
        n=n,
        conditional=min(n) < ENOUGH_SEEDS,
    )


def probability_of_improvement(first: Values, second: Values) -> float:
    """P(A > B): the share of pairs of runs in which the first is higher; ties count half.

    Source: Bouthillier et al., Accounting for variance in machine learning benchmarks, 2021,
        arXiv 2103.03098.

    >>> probability_of_improvement([3.0, 4.0], [1.0, 3.0])
    0.875
    """
    a, b = finite(first), finite(second)
    if not len(a) or not len(b):
        raise ResultsError("P(A > B) needs a finished run of both variants")
    above = (a[:, None] > b[None, :]).mean() + 0.5 * (a[:, None] == b[None, :]).mean()
    return float(above)


def _check(first: Correct, second: Correct) -> None:
    if not first.size or not second.size:
        raise ResultsError("a paired comparison needs predictions of both variants")
    if first.shape[1] != second.shape[1]:
        raise ResultsError(
            f"a paired comparison needs the same test images, but got {first.shape[1]} and "
            f"{second.shape[1]}"
        )
