"""What a number of seeds can detect: power of the two-sample t-test, by the noncentral t.

One variant is compared with the baseline, `n` seeds each, two-sided. With several comparisons
under Holm's procedure the smallest p-value must pass alpha / comparisons, which is the level used
here: the answer holds for the hardest comparison, and the others detect no less.

Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from ablate.errors import ConfigError

_MOST_SEEDS = 100_000


def detection_power(
    effect: float, sd: float, n: int, *, alpha: float = 0.05, comparisons: int = 1
) -> float:
    """The probability that the t-test detects a true difference of `effect`.

    Args:
        effect: true difference of the two means, in the unit of `sd`.
        sd: standard deviation between seeds, of either variant.
        n: seeds of each of the two variants.
        alpha: probability of a false claim, two-sided, over all comparisons.
        comparisons: number of variants compared with the baseline.

    Returns:
        A probability; 0 where n < 2, since one seed shows no deviation.

    Raises:
        ConfigError: an argument outside its range.
    """
    _check(sd=sd, n=n, alpha=alpha, comparisons=comparisons)
    if n < 2:
        return 0.0
    return _power(abs(effect) / (sd * math.sqrt(2 / n)), n, alpha / comparisons)


def minimum_detectable_effect(
    sd: float, n: int, *, alpha: float = 0.05, power: float = 0.8, comparisons: int = 1
) -> float:
    """The smallest true difference that `n` seeds detect with probability `power`.

    Args:
        sd: standard deviation between seeds.
        n: seeds of each of the two variants.
        alpha: probability of a false claim, two-sided, over all comparisons.
        power: probability of detection, in (alpha / comparisons, 1).
        comparisons: number of variants compared with the baseline.

    Returns:
        A difference in the unit of `sd`; infinite where n < 2.

    Raises:
        ConfigError: an argument outside its range.
    """
    _check(sd=sd, n=n, alpha=alpha, comparisons=comparisons)
    level = alpha / comparisons
    if not level < power < 1:
        raise ConfigError(f"`power` must lie in ({level:g}, 1), but got {power!r}")
    if n < 2:
        return math.inf
    from scipy import optimize

    high = 2.0
    while _power(high, n, level) < power:
        high *= 2
    noncentrality = optimize.brentq(lambda nc: _power(nc, n, level) - power, 0.0, high, xtol=1e-9)
    return float(noncentrality) * sd * math.sqrt(2 / n)


def seeds_needed(
    effect: float, sd: float, *, alpha: float = 0.05, power: float = 0.8, comparisons: int = 1
) -> int:
    """The fewest seeds of each variant that detect `effect` with probability `power`.

    Args:
        effect: true difference to detect, in the unit of `sd`, not 0.
        sd: standard deviation between seeds.
        alpha: probability of a false claim, two-sided, over all comparisons.
        power: probability of detection.
        comparisons: number of variants compared with the baseline.

    Raises:
        ConfigError: an argument outside its range, or more than 100,000 seeds.
    """
    if not (math.isfinite(effect) and effect != 0):
        raise ConfigError(f"`effect` must be a number other than 0, but got {effect!r}")

    def enough(n: int) -> bool:
        found = minimum_detectable_effect(sd, n, alpha=alpha, power=power, comparisons=comparisons)
        return found <= abs(effect)

    high = 2
    while not enough(high):
        if high >= _MOST_SEEDS:
            raise ConfigError(
                f"an effect of {effect:g} at a deviation of {sd:g} needs more than "
                f"{_MOST_SEEDS:,} seeds"
            )
        high *= 2
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _power(noncentrality: float, n: int, level: float) -> float:
    # scipy.special alone: scipy.stats takes half a second to import, and tables ask for this.
    # Far out in a tail nctdtr underflows to NaN, which stands for 0.
    freedom = 2 * n - 2
    critical = special.stdtrit(freedom, 1 - level / 2)
    below = np.nan_to_num(special.nctdtr(freedom, noncentrality, [critical, -critical]))
    return float(1 - below[0] + below[1])


def _check(*, sd: float, n: int, alpha: float, comparisons: int) -> None:
    if not (math.isfinite(sd) and sd > 0):
        raise ConfigError(f"`sd` must be a number above 0, but got {sd!r}")
    if n < 1:
        raise ConfigError(f"`n` must be at least 1 seed, but got {n!r}")
    if not 0 < alpha < 1:
        raise ConfigError(f"`alpha` must lie in (0, 1), but got {alpha!r}")
    if comparisons < 1:
        raise ConfigError(f"`comparisons` must be at least 1, but got {comparisons!r}")
