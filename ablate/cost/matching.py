"""Resizing an arch to another's budget, so that a comparison is fair."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ablate.cost.counting import Size, size_for
from ablate.cost.resizable import Resizable, Shape
from ablate.cost.surrogate import Counter, Numbers, Surrogate
from ablate.errors import ConfigError, ModelError, unknown
from ablate.models.comparison import is_comparison
from ablate.presets import expand

BUDGETS = ("params", "macs")

LARGEST_FACTOR = 3.0
"""Widths and depths are changed by at most this factor, up or down."""

_VERIFIED = 4
"""Shapes of one kind of change that are counted before the next kind is tried."""

_SINGLE_DEPTHS = 250
"""Depths of single runs that are tried: all of them up to five runs."""

_MARGIN = 1.2
"""The prediction may be a little off where an option rounds a width: shapes up to this part of
the tolerance are counted."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """An arch at a budget.

    Args:
        arch: canonical string of the resized arch.
        by: "params" or "macs".
        budget: what was asked for.
        value: its count, of the built network.
        raw_arch: canonical string before resizing; raw_value: its count.
        changed: what was changed, "widths" and "depths", as (before, after); widths are the
            distinct ones of the network, depths those of its runs and parallel group.
        how: the same in words.
    """

    arch: str
    by: str
    budget: int
    value: int
    raw_arch: str
    raw_value: int
    changed: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    how: str

    @property
    def error(self) -> float:
        """(value - budget) / budget."""
        return (self.value - self.budget) / self.budget


def match(
    arch: str,
    budget: int,
    *,
    by: str = "params",
    tolerance: float = 0.01,
    image_size: Size = 224,
    num_classes: int = 1000,
) -> Matched:
    """The arch, resized until its params or MACs meet a budget.

    The first of these that lies within the tolerance is taken, and of several of one kind the
    one nearest to the budget:

    1. the arch as it is;
    2. all widths by one factor, each rounded to its step;
    3. all widths by one factor, each rounded up or down on its own;
    4. depths, widths kept;
    5. depths and widths, the least change of depths first, widths as in 2 or else 3.

    Depths change all by one factor, rounded, or by one block up or down, each run on its own; the
    least change is the least sum of |ln(after / before)|.

    Steps of a width: the head dimension (the number of heads where the kind counts those), for
    blocks without heads 8 channels, 4 below 64. Equal widths stay equal. Strides, heads' sizes
    and all other options stay. The result depends on the arguments alone.

    Args:
        arch: preset or arch string.
        budget: parameters, or multiply-adds of one image's forward pass.
        by: "params" or "macs".
        tolerance: largest |value - budget| / budget, in (0, 1).
        image_size: side of the input in pixels, or (height, width).
        num_classes: width of the logits.

    Raises:
        ConfigError: a budget, tolerance or `by` outside its rules.
        ModelError: a network that cannot be resized (torchvision, timm), or no shape lies within
            the tolerance; tells the nearest and why.

    >>> match("coat-lite-micro", 500_000, image_size=32, num_classes=10).how
    'widths 32/64/96/128 -> 24/56/80/112'
    """
    _check(budget, by, tolerance)
    if is_comparison(arch):
        raise ModelError(f"{arch} is no arch of ours: it cannot be resized to a budget")
    resizable = Resizable(str(expand(arch)))
    count = _counter(by, size_for(arch, image_size), num_classes)
    return _Search(resizable, count, budget, tolerance).result()


def _check(budget: Any, by: str, tolerance: Any) -> None:
    if by not in BUDGETS:
        raise ConfigError(unknown("budget", by, BUDGETS))
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1:
        raise ConfigError(f"a budget of {by} is a whole number of at least 1, but got {budget!r}")
    number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if not number or not 0 < tolerance < 1:
        raise ConfigError(f"a tolerance is a number in (0, 1), as 0.01 for 1%, not {tolerance!r}")


@lru_cache(maxsize=64)
def _counter(by: str, image_size: tuple[int, int], num_classes: int) -> Counter:
    """One counter a budget, size and head, so that variants share what is counted."""
    return Counter(by, image_size, num_classes)


class _Search:
    """The order of preference of `match`, over shapes that the surrogate predicts."""

    def __init__(self, resizable: Resizable, count: Counter, budget: int, tolerance: float) -> None:
        self.resizable = resizable
        self.count = count
        self.budget = budget
        self.tolerance = tolerance
        self.raw = count(resizable.arch)
        self.nearest = (self._error(self.raw), resizable.base)

    def result(self) -> Matched:
        base = self.resizable.base
        if self._error(self.raw) <= self.tolerance:
            return self._matched(base, self.raw)
        predict = Surrogate(self.resizable, self.count)
        for widths, depths in self._kinds_of_change():
            errors = self._error(predict(widths, depths))
            for index in np.argsort(errors, kind="stable")[:_VERIFIED]:
                shape = Shape(tuple(int(width) for width in widths[index]), depths)
                self.nearest = min(self.nearest, (float(errors[index]), shape), key=_first)
                if errors[index] > self.tolerance * _MARGIN:
                    break
                value = self.count(self.resizable.with_shape(shape))
                if self._error(value) <= self.tolerance:
                    return self._matched(shape, value)
        raise self._nothing()

    def _error(self, value: Any) -> Any:
        return abs(value - self.budget) / self.budget

    def _kinds_of_change(self) -> Iterator[tuple[Numbers, tuple[int, ...]]]:
        """Shapes of equal rank: distinct widths (M, W), and the depths of them all."""
        base = self.resizable.base
        together, freely = self._widths(freely=False), self._widths(freely=True)
        yield together, base.depths
        yield freely, base.depths
        for depths in self._depths():
            yield np.array([base.widths], dtype=np.float64), depths
        for depths in self._depths():
            yield together, depths
            yield freely, depths

    def _widths(self, *, freely: bool) -> Numbers:
        """Widths by one factor: each rounded to its step, or (freely) up or down on its own."""
        base, steps = self.resizable.base.widths, self.resizable.steps
        found: dict[tuple[int, ...], None] = {}
        for factor in _factors(base, steps, whole=freely):
            scaled = [factor * width / step for width, step in zip(base, steps, strict=True)]
            counts = [{int(s), int(s) + 1} if freely else {round(s)} for s in scaled]
            for chosen in itertools.product(*map(sorted, counts)):
                widths = [max(1, n) * step for n, step in zip(chosen, steps, strict=True)]
                if len(set(widths)) == len(widths):
                    found[tuple(widths)] = None
        return np.array(list(found), dtype=np.float64)

    def _depths(self) -> list[tuple[int, ...]]:
        """Depths by one factor, or single blocks up or down; the least change first."""
        base = self.resizable.base.depths
        factors = _factors(base, (1,) * len(base), whole=False)
        together = {tuple(max(1, round(f * depth)) for depth in base) for f in factors}
        near = [sorted({depth, max(1, depth - 1), depth + 1}) for depth in base]
        singly = sorted(itertools.product(*near), key=partial(_change, base))
        found = (together | set(singly[:_SINGLE_DEPTHS])) - {base}
        return sorted(found, key=lambda other: (_change(base, other), other))

    def _matched(self, shape: Shape, value: int) -> Matched:
        base = self.resizable.base
        changed = {
            name: (before, after)
            for name, before, after in (
                ("widths", base.widths, shape.widths), ("depths", base.depths, shape.depths),
            )
            if before != after
        }  # fmt: skip
        return Matched(
            arch=self.resizable.with_shape(shape),
            by=self.count.by,
            budget=self.budget,
            value=value,
            raw_arch=self.resizable.arch,
            raw_value=self.raw,
            changed=changed,
            how=_in_words(changed),
        )

    def _nothing(self) -> ModelError:
        shape = self.nearest[1]
        nearest = self.resizable.with_shape(shape)
        value = self.count(nearest)
        error = (value - self.budget) / self.budget
        base = self.resizable.base
        steps = ", ".join(
            f"{w} by {step}" for w, step in zip(base.widths, self.resizable.steps, strict=True)
        )
        return ModelError(
            f"{self.resizable.arch} cannot be resized to {self.budget:,} {self.count.by} within "
            f"{self.tolerance:.3g}: the nearest is {nearest} with "
            f"{value:,} ({error:+.2%}). Its widths move in steps ({steps}), its depths in whole "
            f"blocks, both by at most a factor of {LARGEST_FACTOR:g} from its own "
            f"{self.raw:,} {self.count.by}"
        )


def _factors(numbers: Sequence[int], steps: Sequence[int], *, whole: bool) -> list[float]:
    """One factor between any two at which a rounded number changes, the least change first."""
    edges = {1 / LARGEST_FACTOR, LARGEST_FACTOR}
    for number, step in zip(numbers, steps, strict=True):
        for n in range(1, int(LARGEST_FACTOR * number / step) + 2):
            edge = (n if whole else n - 0.5) * step / number
            if 1 / LARGEST_FACTOR < edge < LARGEST_FACTOR:
                edges.add(edge)
    ordered = sorted(edges)
    middles = [(low * high) ** 0.5 for low, high in itertools.pairwise(ordered)]
    return sorted(middles, key=lambda factor: (abs(math.log(factor)), factor))


def _change(before: Sequence[int], after: Sequence[int]) -> float:
    return sum(abs(math.log(b / a)) for a, b in zip(before, after, strict=True))


def _first(pair: tuple[float, Shape]) -> float:
    return pair[0]


def _in_words(changed: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    if not changed:
        return "as it is"
    return "; ".join(
        f"{name} {'/'.join(map(str, before))} -> {'/'.join(map(str, after))}"
        for name, (before, after) in changed.items()
    )
