"""Archs resized to a budget: within tolerance, stated, or refused with the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.cost import match, profile
from ablate.cost.matching import Matched, _counter
from ablate.cost.resizable import Resizable, Shape
from ablate.cost.surrogate import Counter, Surrogate
from ablate.errors import AblateError, ConfigError, GrammarError, ModelError
from ablate.grammar import canonical, override, resolve
from ablate.presets import expand

COATNET_0 = {"params": 25_036_820, "macs": 4_141_888_512}
SMALL = {"image_size": 32, "num_classes": 10}


def layout(name: str) -> str:
    return canonical(override(expand("coatnet-0"), layout=name))


def assert_matched(found: Matched, tolerance: float, **size: int) -> None:
    """Its count is the built network's, lies within tolerance, and says what it changed."""
    cost = profile(found.arch, **size)
    assert found.value == getattr(cost, found.by)
    assert abs(found.error) <= tolerance
    assert found.error == (found.value - found.budget) / found.budget
    for name in ("widths", "depths"):
        assert (name in found.changed) == (name in found.how)


@pytest.mark.parametrize("by", ["params", pytest.param("macs", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["C-C-C-C", "C-C-C-T", "C-C-T-T", "C-T-T-T", "ViT_rel"])
def test_coatnet_s_layouts_and_vit_rel_match_coatnet_0_within_one_percent(
    name: str, by: str
) -> None:
    arch = "vit-rel" if name == "ViT_rel" else layout(name)
    found = match(arch, COATNET_0[by], by=by, tolerance=0.01)
    assert_matched(found, 0.01)
    kinds = [stage[0].kind for stage in resolve(found.arch).stages]
    assert kinds == (["T"] if name == "ViT_rel" else name.split("-"))
    assert ("depths" in found.changed) == (name == "ViT_rel")


def test_what_lies_within_the_tolerance_stays_as_it_is() -> None:
    found = match("coatnet-0", 25_000_000)
    assert (found.arch, found.value) == (layout("C-C-T-T"), 25_036_820)
    assert (found.changed, found.how) == ({}, "as it is")


def test_widths_come_before_depths_and_in_one_proportion_before_each_on_its_own() -> None:
    found = match("coat-lite-micro", 500_000, **SMALL)
    assert found.changed == {"widths": ((32, 64, 96, 128), (24, 56, 80, 112))}
    assert found.how == "widths 32/64/96/128 -> 24/56/80/112"


def test_depths_alone_come_before_both() -> None:
    """One more parallel block is 8% of CoaT Tiny; a step of its one width is 10%."""
    found = match("coat-tiny", 5_965_332, tolerance=0.005)
    assert found.changed == {"depths": ((2, 2, 2, 2, 6), (2, 2, 2, 2, 7))}


def test_both_where_neither_will_do() -> None:
    found = match("vit-rel", 25_036_820)
    assert set(found.changed) == {"widths", "depths"}


def test_a_result_depends_on_the_arguments_alone() -> None:
    arguments = ("cvt-micro@proj=linear", 520_000)
    first = match(*arguments, tolerance=0.02, **SMALL)
    match("coatnet-micro", 600_000, tolerance=0.05, **SMALL)
    _counter.cache_clear()
    assert match(*arguments, tolerance=0.02, **SMALL) == first


def test_of_depths_the_least_change_comes_first() -> None:
    found = match("coat-micro", 559_122, **SMALL)
    assert found.changed == {"depths": ((1, 1, 1, 1, 2), (1, 1, 1, 2, 3))}


def test_heads_groups_and_options_survive() -> None:
    """Head sizes stay (CvT counts head_dim, CoaT num_heads), equal widths stay equal."""
    cvt = resolve(match("cvt-micro", 700_000, tolerance=0.05, **SMALL).arch)
    assert {spec.head_dim for spec in cvt.runs} == {32}
    coat = resolve(match("coat-micro@crpe=false", 600_000, tolerance=0.05, **SMALL).arch)
    assert {spec.num_heads for spec in coat.runs} == {8}
    assert len({spec.width for spec in coat.runs}) == 1
    assert not any(spec.flag("crpe") for spec in coat.runs)


@pytest.mark.parametrize("by", ["params", pytest.param("macs", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "model", ["coat-lite-micro", "coat-micro", "coatnet-micro", "cvt-micro", "atc-micro",
              "S2x16:C2x32-C1x48+T2x64@se_ratio=0;rel_attn=post",
              "A1x32-A1x64-V1x128(cls_token=true)@head_dim=32;stem_stride=2;embed=residual"],
)  # fmt: skip
def test_the_surrogate_is_exact(model: str, by: str) -> None:
    """Costs are quadratic in widths and linear in depths: fitted once, true for all shapes."""
    resizable = Resizable(str(expand(model)))
    count = Counter(by, (32, 32), 10)
    predict = Surrogate(resizable, count)
    for factor, blocks in ((1, 0), (2, 1), (3, 4)):
        shape = Shape(
            tuple(factor * width for width in resizable.base.widths),
            tuple(depth + blocks for depth in resizable.base.depths),
        )
        predicted = predict(np.array([shape.widths]), shape.depths)[0]
        assert predicted == pytest.approx(count(resizable.with_shape(shape)), rel=1e-6)


def test_a_shape_can_be_put_back() -> None:
    resizable = Resizable(str(expand("coat-tiny")))
    larger = resizable.with_shape(Shape((160,), (1, 2, 3, 4, 5)))
    assert larger == canonical("F1x160-F2x160-F3x160-F4x160|P5")
    assert Resizable(larger).with_shape(resizable.base) == resizable.arch


@pytest.mark.parametrize(
    ("budget", "reason"),
    [(10, "at most a factor of 3"), (10**12, "at most a factor of 3")],
)
def test_an_impossible_budget_names_the_nearest_and_why(budget: int, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as raised:
        match("coatnet-micro", budget, **SMALL)
    message = str(raised.value)
    nearest = message.split("the nearest is ")[1].split(" with ")[0]
    value = int(message.split(" with ")[1].split(" (")[0].replace(",", ""))
    assert profile(nearest, **SMALL).params == value
    assert "96 by 32" in message


def test_a_tolerance_too_small_for_the_steps_says_so() -> None:
    with pytest.raises(ModelError, match=r"cannot be resized to 700,000 params within 1e-05"):
        match("vit-rel-micro", 700_000, tolerance=1e-5, **SMALL)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"budget": 0}, ConfigError, "whole number of at least 1, but got 0"),
        ({"budget": -5}, ConfigError, "whole number of at least 1, but got -5"),
        ({"budget": 2.5e6}, ConfigError, "whole number of at least 1, but got 2500000.0"),
        ({"tolerance": 0}, ConfigError, r"a number in \(0, 1\), as 0.01 for 1%, not 0"),
        ({"tolerance": 1}, ConfigError, r"a number in \(0, 1\)"),
        ({"tolerance": "1%"}, ConfigError, "not '1%'"),
        ({"by": "flops"}, ConfigError, "unknown budget 'flops'; choose from params, macs"),
        ({"arch": "timm:vit_tiny_patch16_224"}, ModelError, "cannot be resized to a budget"),
        ({"arch": "coatnet-zero"}, ModelError, "unknown model"),
        ({"arch": "T2x100"}, GrammarError, "width must be divisible by head_dim"),
        ({"image_size": 8}, ModelError, "8x8 is too small"),
    ],
)
def test_one_clear_message_for(changed: dict, error: type[AblateError], message: str) -> None:
    arguments = {"arch": "coatnet-0", "budget": 25_000_000, **changed}
    with pytest.raises(error, match=message):
        match(**arguments)
