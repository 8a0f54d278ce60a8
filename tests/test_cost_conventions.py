"""FLOPs as the papers print them, from the same trace as the multiply-adds."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from torch import nn

from ablate.cost import CONVENTIONS, paper_flops, profile
from ablate.errors import ConfigError

COAT = {
    "coat-lite-tiny": (224, 1_598_305_520),
    "coat-lite-mini": (224, 1_996_900_336),
    "coat-lite-medium": (384, 28_734_453_008),
    "coat-tiny": (224, 4_349_991_232),
    "coat-tiny@coscale=none": (224, 4_342_483_648),
    "coat-tiny@coscale=cross": (224, 4_771_455_232),
    "coat-lite-tiny@cpe=false": (224, 1_591_701_104),
    "coat-lite-tiny@cpe=false;crpe=false": (224, 1_569_686_384),
}
"""fvcore's total of the official code, by preset and image size."""

TIMM = {
    "timm:coat_lite_tiny": 1_598_306_112,
    "timm:coat_tiny": 4_349_990_112,
    "timm:coatnet_0_224": 4_584_344_320,
}
"""fvcore's total of timm's code at 224 pixels."""

COATNET = {
    "coatnet-0": (224, "4.2"),
    "coatnet-0-dagger": (224, "4.6"),
    "coatnet-1": (224, "8.4"),
    "coatnet-2": (224, "15.7"),
    "coatnet-2-dagger": (224, "16.6"),
    "coatnet-0@stride_at=expand": (384, "13.4"),
}
"""As printed, in 10^9."""


def slow_but_first(models: Iterable[str]) -> list[object]:
    first, *others = models
    return [first, *(pytest.param(model, marks=pytest.mark.slow) for model in others)]


@pytest.mark.parametrize("model", slow_but_first(COAT))
def test_coat_is_fvcore_on_the_official_code(model: str) -> None:
    size, total = COAT[model]
    assert paper_flops(model, "coat", image_size=size) == total


@pytest.mark.parametrize("model", slow_but_first(TIMM))
def test_fvcore_total_of_the_code_as_it_is(model: str) -> None:
    assert paper_flops(model, "fvcore") == TIMM[model]


def test_fvcore_total_of_einsums_rounds_each_to_four_digits() -> None:
    cost = profile("cvt-13")
    assert paper_flops(cost, "fvcore-einsum") == 4_584_573_392
    products = cost.per_operator["aten.bmm"]
    assert paper_flops(cost, "fvcore") == 4_584_573_392 - 508_370_000 + products


@pytest.mark.parametrize("model", slow_but_first(COATNET))
def test_coatnet_s_fitted_convention_comes_within_a_printed_digit(model: str) -> None:
    """0.03 beyond the rounding interval, as the fit itself."""
    size, printed = COATNET[model]
    found = paper_flops(model, "coatnet", image_size=size)
    assert abs(found / 1e9 - float(printed)) <= 0.05 + 0.03
    assert profile(model, image_size=size).macs < found


def test_cvt_s_convention_truncates_to_the_printed_numbers() -> None:
    for model, printed in {"cvt-13": 4.5, "cvt-21": 7.1}.items():
        assert int(paper_flops(model, "cvt") / 1e8) / 10 == printed


@pytest.mark.parametrize(
    "model", slow_but_first(["coatnet-micro", "coat-micro", "cvt-micro", "timm:coatnet_0_224"])
)
def test_both_counters_give_one_fvcore_total(model: str) -> None:
    size = 224 if ":" in model else 32
    ours = profile(model, image_size=size, num_classes=10)
    theirs = profile(model, image_size=size, num_classes=10, counter="fvcore")
    assert paper_flops(ours, "fvcore") == paper_flops(theirs, "fvcore") > ours.macs


def test_norms_without_weights_cost_less() -> None:
    norm = nn.LayerNorm(4, elementwise_affine=False)
    assert paper_flops(norm, "fvcore", image_size=4) == 4 * 48
    assert paper_flops(nn.LayerNorm(4), "fvcore", image_size=4) == 5 * 48
    assert paper_flops(nn.GroupNorm(3, 3), "fvcore", image_size=4) == 5 * 48
    assert paper_flops(nn.BatchNorm2d(3), "fvcore", image_size=4) == 2 * 48
    assert paper_flops(nn.BatchNorm2d(3, affine=False), "fvcore", image_size=4) == 48
    assert paper_flops(nn.AdaptiveAvgPool2d(1), "fvcore", image_size=4) == 48
    assert paper_flops(nn.UpsamplingBilinear2d(8), "fvcore", image_size=4) == 4 * 3 * 64


def test_macs_is_a_convention_too() -> None:
    cost = profile("coatnet-0")
    assert paper_flops(cost, "macs") == cost.macs == 4_141_888_512


def test_an_unknown_convention_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown convention 'fvcor' .did you mean 'fvcore'"):
        paper_flops("coatnet-0", "fvcor")


def test_only_our_counter_knows_the_single_calls() -> None:
    cost = profile("coat-lite-micro", image_size=32, counter="fvcore")
    assert paper_flops(cost, "macs") == cost.macs
    for convention in set(CONVENTIONS) - {"macs", "fvcore"}:
        with pytest.raises(ConfigError, match="computed from counter='ablate'"):
            paper_flops(cost, convention)
