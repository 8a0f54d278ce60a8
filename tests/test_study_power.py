"""What a number of seeds can detect."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablate.errors import ConfigError
from ablate.study.power import detection_power, minimum_detectable_effect, seeds_needed


@pytest.mark.parametrize(("effect", "n"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_seeds_needed_agree_with_cohens_table(effect: float, n: int) -> None:
    assert seeds_needed(effect, 1.0) == n
    assert detection_power(effect, 1.0, n) >= 0.8 > detection_power(effect, 1.0, n - 1)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_minimum_effect_is_found_with_the_stated_power(n: int) -> None:
    effect = minimum_detectable_effect(0.7, n)
    assert detection_power(effect, 0.7, n) == pytest.approx(0.8, abs=1e-6)


def test_simulated_experiments_detect_it_in_four_of_five() -> None:
    effect = minimum_detectable_effect(1.3, 4)
    generator = np.random.default_rng(0)
    baseline = generator.normal(70.0, 1.3, (20_000, 4))
    variant = generator.normal(70.0 + effect, 1.3, (20_000, 4))
    detected = stats.ttest_ind(variant, baseline, axis=1).pvalue < 0.05
    assert detected.mean() == pytest.approx(0.8, abs=0.01)


def test_more_seeds_detect_less_and_more_comparisons_need_more() -> None:
    assert minimum_detectable_effect(1.0, 6) < minimum_detectable_effect(1.0, 3)
    assert minimum_detectable_effect(1.0, 3, comparisons=10) > minimum_detectable_effect(1.0, 3)
    assert minimum_detectable_effect(2.0, 5) == pytest.approx(2 * minimum_detectable_effect(1.0, 5))


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("n", [2, 3, 50])
def test_power_grows_from_alpha_to_certainty_without_a_gap(alpha: float, n: int) -> None:
    powers = [detection_power(effect, 1.0, n, alpha=alpha) for effect in np.linspace(0, 150, 60)]
    assert powers[0] == pytest.approx(alpha)
    assert np.all(np.diff(powers) > -1e-9)
    assert powers[-1] > 0.99


def test_one_seed_detects_nothing() -> None:
    assert minimum_detectable_effect(1.0, 1) == math.inf
    assert detection_power(5.0, 1.0, 1) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minimum_detectable_effect(0.0, 3), r"`sd` must be a number above 0, but got 0\.0"),
        (lambda: minimum_detectable_effect(1.0, 0), r"`n` must be at least 1 seed, but got 0"),
        (lambda: minimum_detectable_effect(1.0, 3, alpha=1.0), r"`alpha` must lie in \(0, 1\)"),
        (
            lambda: minimum_detectable_effect(1.0, 3, power=0.01),
            r"`power` must lie in",
        ),
        (lambda: minimum_detectable_effect(1.0, 3, comparisons=0), r"`comparisons` must be at"),
        (lambda: seeds_needed(0.0, 1.0), r"`effect` must be a number other than 0"),
        (lambda: seeds_needed(1e-6, 1.0), r"needs more than 100,000 seeds"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        call()
