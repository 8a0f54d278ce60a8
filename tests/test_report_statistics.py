"""Intervals, comparisons and effects, and simulations that hold their rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablate.errors import ResultsError
from ablate.report.contrasts import holm_levels
from ablate.report.dunnett import dunnett_p, dunnett_tail
from ablate.report.factorial import effects, is_factorial
from ablate.report.paired import bootstrap_difference, mcnemar, probability_of_improvement
from ablate.report.statistics import (
    compare_pairs,
    compare_with_baseline,
    dunnett_critical,
    holm,
    summarize,
)

# --- one variant ---------------------------------------------------------------------------------


def test_summary_is_the_student_t_interval() -> None:
    found = summarize([70.0, 72.0, 74.0])
    half = stats.t.ppf(0.975, 2) * 2.0 / math.sqrt(3)
    assert (found.mean, found.n, found.sd) == (72.0, 3, 2.0)
    assert found.low == pytest.approx(72 - half)
    assert found.high == pytest.approx(72 + half)


def test_one_run_has_a_mean_and_no_interval() -> None:
    found = summarize([70.0])
    assert (found.mean, found.n, found.low, found.high, found.sd) == (70.0, 1, None, None, None)


def test_failed_runs_are_not_averaged() -> None:
    assert summarize([70.0, math.nan, 74.0]).mean == 72.0
    assert summarize([math.nan]).n == 0


def test_intervals_cover_the_truth_in_95_percent_at_every_n() -> None:
    generator = np.random.default_rng(1)
    for n in (2, 3, 5, 10):
        draws = generator.normal(70, 1.3, size=(4000, n))
        hits = [s.low <= 70 <= s.high for s in map(summarize, draws) if s.low and s.high]
        assert np.mean(hits) == pytest.approx(0.95, abs=0.015), n


# --- several comparisons -------------------------------------------------------------------------


def test_holm_is_the_step_down_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_intervals_of_holm_exclude_zero_exactly_where_it_rejects() -> None:
    generator = np.random.default_rng(2)
    for _ in range(300):
        pairs = [(generator.normal(mu, 1, 4), generator.normal(0, 1, 4)) for mu in (0, 1, 2, 4)]
        for found in compare_pairs(pairs):
            assert found.low is not None
            assert found.high is not None
            assert found.supported == (found.low > 0 or found.high < 0)


def test_holm_stops_at_the_first_kept_hypothesis() -> None:
    assert holm_levels([0.01, 0.03, 0.04, 0.5]) == pytest.approx(
        [0.0125, 0.05 / 3] + [0.05 / 3] * 2
    )


def test_welch_is_scipys() -> None:
    first, second = [70.1, 71.0, 72.2], [68.0, 68.4, 70.9, 69.5]
    (found,) = compare_pairs([(first, second)])
    expected = stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ({"a": [70.0], "b": [71.0, 72.0]}, "one run has no spread"),
        ({"a": [70.0, 71.0], "b": []}, "no finished run"),
        ({"a": [70.0, 70.0], "b": [71.0, 71.0]}, "all seeds gave the same value"),
    ],
)
def test_what_cannot_be_tested_is_not_claimed(samples: dict[str, list[float]], reason: str) -> None:
    found = compare_with_baseline(samples, "a")["b"]
    assert reason in found.reason
    assert not found.supported
    assert found.p is None
    assert found.low is None


def test_dunnett_matches_published_critical_values() -> None:
    """Two-sided 5% values of Dunnett (1964), equal groups."""
    assert dunnett_critical((0.5, 0.5), 5) == pytest.approx(3.03, abs=0.005)
    assert dunnett_critical((0.5,) * 4, 10) == pytest.approx(2.89, abs=0.005)
    assert dunnett_critical((0.5,), 10) == pytest.approx(stats.t.ppf(0.975, 10))


def test_dunnett_matches_scipy_with_unequal_groups() -> None:
    generator = np.random.default_rng(3)
    samples = {str(n): generator.normal(0.1 * n, 1, n) for n in (3, 4, 6)}
    samples["base"] = generator.normal(1.5, 1, 5)
    expected = stats.dunnett(
        samples["3"], samples["4"], samples["6"], control=samples["base"],
        rng=np.random.default_rng(0),
    )  # fmt: skip
    bounds = expected.confidence_interval(0.95)
    found = compare_with_baseline(samples, "base", variances="pooled")
    for index, name in enumerate(("3", "4", "6")):
        assert found[name].p == pytest.approx(expected.pvalue[index], abs=2e-3)
        assert found[name].low == pytest.approx(bounds.low[index], abs=0.02)
        assert found[name].high == pytest.approx(bounds.high[index], abs=0.02)


def test_dunnetts_p_values_between_grid_points_are_the_integrals() -> None:
    shares, df = (0.5, 0.5, 0.4), 9
    for t in (0.013, 1.234, 2.9, 5.678, 11.1):
        exact = dunnett_tail(np.array([t]), shares, df)[0]
        assert dunnett_p(t, shares, df) == pytest.approx(exact, rel=1e-3)


def false_winners(variances: str, baseline_sd: float, draws: int = 2000) -> float:
    """Share of null studies of 11 variants and 3 seeds that claim any difference."""
    generator = np.random.default_rng(4)
    claims = 0
    for _ in range(draws):
        values = generator.normal(70, 1, size=(11, 3))
        values[0] = 70 + (values[0] - 70) * baseline_sd
        samples = {str(index): sample for index, sample in enumerate(values)}
        found = compare_with_baseline(samples, "0", variances=variances)  # type: ignore[arg-type]
        claims += any(difference.supported for difference in found.values())
    return claims / draws


@pytest.mark.slow
@pytest.mark.parametrize("baseline_sd", [1.0, 2.0, 0.5])
def test_welch_with_holm_holds_its_rate_whatever_the_baselines_deviation(
    baseline_sd: float,
) -> None:
    assert false_winners("welch", baseline_sd) <= 0.065


@pytest.mark.slow
def test_dunnett_holds_its_rate_for_equal_variances_only() -> None:
    assert 0.035 <= false_winners("pooled", 1.0) <= 0.065
    assert false_winners("pooled", 2.0) > 0.10, "this is why variances have to be declared"


def test_a_large_difference_is_found() -> None:
    generator = np.random.default_rng(5)
    samples = {str(mu): generator.normal(70 + mu, 0.5, 5) for mu in (0, 5, -5)}
    found = compare_with_baseline(samples, "0")
    assert found["5"].supported
    assert found["5"].estimate > 0
    assert found["-5"].supported
    assert found["-5"].estimate < 0


# --- factorial designs ---------------------------------------------------------------------------

SWITCHES = {"cpe": [False, True], "crpe": [False, True]}


def cells(table: dict[tuple[bool, bool], float], n: int = 4, sd: float = 0.3) -> dict:  # type: ignore[type-arg]
    generator = np.random.default_rng(6)
    return {cell: generator.normal(mean, sd, n) for cell, mean in table.items()}


def test_main_effects_average_over_the_other_factor_and_interactions_compare_effects() -> None:
    exact = {
        (False, False): [68.0, 70.0], (False, True): [74.0, 76.0],
        (True, False): [75.0, 77.0], (True, True): [76.0, 78.0],
    }  # fmt: skip
    cpe, crpe, both = effects(SWITCHES, exact)
    assert cpe.parts == (("cpe", True, False),)
    assert cpe.difference.estimate == pytest.approx(4.5)
    assert crpe.difference.estimate == pytest.approx(3.5)
    assert both.interaction
    assert both.difference.estimate == pytest.approx((77 - 75) - (76 - 69))


def test_an_effect_with_equal_variances_is_the_regression_of_the_textbook() -> None:
    data = cells({(False, False): 68, (False, True): 75, (True, False): 76, (True, True): 77})
    x = np.array([[1, a, b, a * b] for (a, b), sample in data.items() for _ in sample], dtype=float)
    x[:, 3] = (2 * x[:, 1] - 1) * (2 * x[:, 2] - 1)  # centred, so that main effects average
    x[:, 1:3] -= 0.5
    y = np.concatenate(list(data.values()))
    coefficients, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
    variance = residual[0] / (len(y) - 4)
    error = np.sqrt(variance * np.linalg.inv(x.T @ x)[1, 1])
    cpe = effects(SWITCHES, data, variances="pooled")[0].difference
    assert cpe.estimate == pytest.approx(coefficients[1])
    assert cpe.low is not None
    half = stats.t.isf(cpe.level / 2, len(y) - 4) * error
    assert cpe.estimate - cpe.low == pytest.approx(half)


def test_parts_that_add_up_show_no_interaction() -> None:
    data = cells({(False, False): 70, (False, True): 74, (True, False): 73, (True, True): 77})
    _, _, both = effects(SWITCHES, data)
    assert not both.difference.supported
    data = cells({(False, False): 70, (False, True): 76, (True, False): 76, (True, True): 77})
    _, _, both = effects(SWITCHES, data)
    assert both.difference.supported
    assert both.difference.estimate < 0


def test_an_incomplete_grid_is_not_factorial() -> None:
    data = cells({(False, False): 70, (False, True): 74, (True, False): 73, (True, True): 77})
    assert is_factorial(SWITCHES, data)
    assert not is_factorial(SWITCHES, {**data, (True, True): [math.nan]})


# --- image by image ------------------------------------------------------------------------------


def test_mcnemar_counts_the_images_on_which_two_runs_disagree() -> None:
    first = np.array([True] * 12 + [False] * 2 + [True] * 86)
    second = np.array([False] * 12 + [True] * 2 + [True] * 86)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second, found.difference) == (12, 2, 10.0)
    assert found.p == pytest.approx(stats.binomtest(2, 14).pvalue)
    assert mcnemar(first, first).p == 1.0


def test_other_test_images_cannot_be_compared() -> None:
    with pytest.raises(ResultsError, match="same test images, but got 3 and 4"):
        mcnemar(np.ones(3, dtype=bool), np.ones(4, dtype=bool))


def test_the_bootstrap_marks_few_seeds_as_conditional() -> None:
    generator = np.random.default_rng(7)
    images = generator.random(400) < 0.2
    first = (generator.random((12, 400)) < 0.85) & ~images
    second = (generator.random((12, 400)) < 0.70) & ~images
    many = bootstrap_difference(first, second, generator=generator, draws=500)
    few = bootstrap_difference(first[:3], second[:3], generator=generator, draws=500)
    assert not many.conditional
    assert few.conditional
    assert many.low < many.difference < many.high
    assert many.low > 0


@pytest.mark.slow
def test_the_bootstrap_over_seeds_and_images_covers_at_ten_seeds() -> None:
    """Seeds and images are both drawn anew; there is no true difference."""
    generator = np.random.default_rng(8)
    hits = 0
    for _ in range(300):
        easy = generator.normal(1.0, 1.0, 200)
        samples = [
            generator.random((10, 200))
            < stats.norm.cdf(easy[None] + shift + 0.2 * generator.normal(size=(10, 1)))
            for shift in (0.0, 0.0)
        ]
        found = bootstrap_difference(samples[0], samples[1], generator=generator, draws=200)
        hits += found.low <= 0 <= found.high
    assert hits / 300 >= 0.92


def test_probability_of_improvement_counts_pairs() -> None:
    assert probability_of_improvement([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert probability_of_improvement([1.0], [1.0]) == 0.5
    with pytest.raises(ResultsError, match="needs a finished run of both"):
        probability_of_improvement([], [1.0])
