"""Dunnett's many-to-one test: critical values and p-values by quadrature, cached.

Given the control's mean and the pooled deviation the comparisons are independent, so that the
probability of all of them staying inside is a product, integrated over those two.

Source: C. W. Dunnett, A multiple comparison procedure for comparing several treatments with a
    control, 1955.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from ablate.report.summaries import ALPHA, Floats

_GRID: Floats = np.concatenate([np.linspace(0, 6, 241), np.linspace(6.05, 40, 680)])


def dunnett_critical(shares: tuple[float, ...], df: int, alpha: float = ALPHA) -> float:
    """The value that the largest |t| against one control exceeds with probability `alpha`.

    Args:
        shares: n_i / (n_i + n_0) for every variant i compared with the control 0.
        df: degrees of freedom of the pooled variance.
    """
    return _dunnett_critical(tuple(sorted(shares)), df, alpha)


def dunnett_p(t: float, shares: tuple[float, ...], df: int) -> float:
    """The adjusted p-value of one comparison, |t| against the control.

    Args:
        t: the statistic; above 40 the value at 40 is an upper bound, and is given.
        shares, df: as for `dunnett_critical`.
    """
    return float(np.exp(np.interp(abs(t), _GRID, _log_tail(tuple(sorted(shares)), df))))


@lru_cache(maxsize=64)
def _log_tail(shares: tuple[float, ...], df: int) -> Floats:
    """The logarithm of the tail on a grid: a study asks for many p-values of one kind."""
    return np.log(np.maximum(dunnett_tail(_GRID, shares, df), 1e-12))


@lru_cache(maxsize=256)
def _dunnett_critical(shares: tuple[float, ...], df: int, alpha: float) -> float:
    bonferroni = float(special.stdtrit(df, 1 - alpha / (2 * len(shares))))
    single = float(special.stdtrit(df, 1 - alpha / 2))
    if len(shares) == 1:
        return single
    from scipy import optimize

    return float(
        optimize.brentq(
            lambda c: dunnett_tail(np.array([c]), shares, df)[0] - alpha, single, bonferroni + 1e-6
        )
    )


@lru_cache(maxsize=32)
def _nodes(df: int) -> tuple[Floats, Floats, Floats]:
    """Quadrature over the control's mean z (normal) and the deviation s (chi / sqrt(df))."""
    z, z_weight = special.roots_hermitenorm(48)
    u, u_weight = special.roots_legendre(64)
    s = np.sqrt(2 * special.gammaincinv(df / 2, (u + 1) / 2) / df)
    weight = np.outer(u_weight / 2, z_weight / z_weight.sum())
    return z[None, :], s[:, None], weight


def dunnett_tail(t: Floats, shares: tuple[float, ...], df: int) -> Floats:
    """P(largest |t| against the control exceeds t), for every t given.

    Args:
        t: values of the statistic.
        shares: n_i / (n_i + n_0) for every variant i compared with the control 0.
        df: degrees of freedom of the pooled variance.
    """
    z, s, weight = _nodes(df)
    tails = np.empty(len(t))
    distinct, counts = np.unique(np.round(shares, 12), return_counts=True)
    for index, value in enumerate(np.abs(t)):
        inside = np.ones_like(weight)
        for share, count in zip(distinct, counts, strict=True):
            shift, scale = math.sqrt(share) * z, math.sqrt(1 - share)
            upper = special.ndtr((value * s + shift) / scale)
            lower = special.ndtr((-value * s + shift) / scale)
            inside *= (upper - lower) ** count
        tails[index] = min(1.0, max(0.0, 1 - float((inside * weight).sum())))
    return tails
