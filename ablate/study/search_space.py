"""The space of a search: what may vary, under which conditions, and the network of each point."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ablate.grammar import Arch, canonical, override
from ablate.grammar.arch import Run, parse_option
from ablate.kinds import KINDS
from ablate.options import NET_OPTIONS, format_value
from ablate.presets import expand

Point = Mapping[str, Any]
"""The value of every dimension that is asked for, by its name."""

STEM = 0
_SHAPE = ("kind", "depth", "width")


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One thing that varies: a list of values, or a range of numbers.

    Args:
        name: "stage1.kind", "stem.width", "layout", an option of the whole net, "train.lr".
        values: to choose from; empty for a range.
        low, high: ends of the range, both included.
        step: of a range of whole numbers.
        log: whether the range is drawn from by its logarithm.
        when: the dimension is asked for only where these others have one of these values.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    step: int = 1
    log: bool = False
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def stage(self) -> int | None:
        """The stage it belongs to, 0 for the stem; None where it is of the whole study."""
        top, dot, _ = self.name.partition(".")
        if not dot or top == "train":
            return None
        return STEM if top == "stem" else int(top.removeprefix("stage"))

    @property
    def what(self) -> str:
        """Its name inside its stage: "kind", "depth", "width" or an option."""
        return self.name if self.stage is None else self.name.partition(".")[2]

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return not self.values and isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """All values in order, or None where they cannot be counted."""
        if self.values:
            return self.values
        if not self.is_whole:
            return None
        assert isinstance(self.low, int)
        assert isinstance(self.high, int)
        return tuple(range(self.low, self.high + 1, self.step))

    def __str__(self) -> str:
        if self.values:
            text = ", ".join(map(format_value, self.values))
        else:
            text = f"{self.low:g} to {self.high:g}" + (", log" if self.log else "")
            text += f", step {self.step}" if self.step > 1 else ""
        return text


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a search varies around a base network.

    Args:
        model: the base; what no dimension names stays as it is there.
        options: of the study, set wherever blocks take them.
        dimensions: in the file's order; a condition names an earlier one.
    """

    model: str
    options: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]

    def point(self, ask: Callable[[Dimension], Any]) -> dict[str, Any]:
        """The point whose every active dimension has the value that `ask` gives."""
        chosen: dict[str, Any] = {}
        for dimension in self.dimensions:
            if self.is_active(dimension, chosen):
                chosen[dimension.name] = ask(dimension)
        return chosen

    def is_active(self, dimension: Dimension, chosen: Point) -> bool:
        """Whether a dimension has an effect where the earlier ones are as chosen."""
        for name, values in dimension.when.items():
            if name not in chosen or chosen[name] not in values:
                return False
        if dimension.name == "layout" or dimension.name.startswith("train."):
            return True
        if dimension.stage is None:
            takers = [*self.kinds(chosen), *([self.base.stem.kind] if self.base.stem else [])]
            takers += [self.base.group.kind] if self.base.group else []
            return dimension.what in NET_OPTIONS or any(
                dimension.what in KINDS[kind].options for kind in takers
            )
        return dimension.what in _SHAPE or dimension.what in KINDS[
            self._kind(dimension.stage, chosen)
        ].options  # fmt: skip

    @property
    def base(self) -> Arch:
        """The base network."""
        return expand(self.model)

    def kinds(self, chosen: Point) -> list[str]:
        """The kind of each stage."""
        if "layout" in chosen:
            return str(chosen["layout"]).split("-")
        return [
            str(chosen.get(f"stage{number}.kind", stage[0].kind))
            for number, stage in enumerate(self.base.stages, 1)
        ]

    def _kind(self, stage: int, chosen: Point) -> str:
        if stage == STEM:
            assert self.base.stem is not None
            return self.base.stem.kind
        return self.kinds(chosen)[stage - 1]

    def arch(self, point: Point) -> str:
        """The canonical string of the network at a point.

        Raises:
            AblateError: this network cannot be built.
        """
        kinds = self.kinds(point)
        arch = self.base
        if kinds != [stage[0].kind for stage in arch.stages]:
            arch = override(arch, layout="-".join(kinds))
        arch = _shaped(arch, point)
        for name, value in self.options.items():
            if _takes(arch, name):
                arch = override(arch, **{name: value})
        net = [d.name for d in self.dimensions if d.stage is None and d.name in point]
        for name in net:
            if name != "layout" and not name.startswith("train."):
                arch = override(arch, **{name: point[name]})
        return canonical(_with_options(arch, self.dimensions, point))

    def unused_options(self) -> set[str]:
        """Options of the study that no network of the space takes."""
        kinds = {part.kind for part in self.base.parts()}
        for dimension in self.dimensions:
            if dimension.what == "kind" or dimension.name == "layout":
                kinds.update(*(str(value).split("-") for value in dimension.values))
        taken = {name for kind in kinds for name in KINDS[kind].options}
        return {*self.options} - taken - {*NET_OPTIONS}

    def train_settings(self, point: Point) -> dict[str, Any]:
        """The settings of the recipe at a point."""
        return {name: value for name, value in point.items() if name.startswith("train.")}

    def size(self) -> int | None:
        """How many points there are; None where a range is continuous."""
        deciding = {name for dimension in self.dimensions for name in dimension.when}
        deciding |= {d.name for d in self.dimensions if d.what == "kind" or d.name == "layout"}
        if any(dimension.listed is None for dimension in self.dimensions):
            return None
        return self._count(self.dimensions, {}, deciding)

    def _count(self, left: tuple[Dimension, ...], chosen: Point, deciding: set[str]) -> int:
        for place, dimension in enumerate(left):
            if dimension.name in deciding and self.is_active(dimension, chosen):
                rest = (*left[:place], *left[place + 1 :])
                assert dimension.listed is not None
                return sum(
                    self._count(rest, {**chosen, dimension.name: value}, deciding)
                    for value in dimension.listed
                )
        return math.prod(
            len(dimension.listed or ()) for dimension in left if self.is_active(dimension, chosen)
        )

    def points(self) -> Iterator[dict[str, Any]]:
        """Every point once, the last dimension running fastest."""
        yield from self._points(0, {})

    def _points(self, place: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if place == len(self.dimensions):
            yield chosen
            return
        dimension = self.dimensions[place]
        if not self.is_active(dimension, chosen):
            yield from self._points(place + 1, chosen)
            return
        assert dimension.listed is not None
        for value in dimension.listed:
            yield from self._points(place + 1, {**chosen, dimension.name: value})

    def first_points(self) -> Iterator[dict[str, Any]]:
        """Points that have every value of every list, and both ends of every range, once.

        The other dimensions have their first value, or one under which this one is active.
        """
        for dimension in self.dimensions:
            fitting = self._fitting(dimension)
            for value in dimension.values or (dimension.low, dimension.high):
                fixed = {**fitting, dimension.name: value}
                yield self.point(_Preferring(fixed))

    def _fitting(self, own: Dimension) -> dict[str, Any]:
        """Values of earlier dimensions under which this one is active."""
        found: dict[str, Any] = {}
        for other in self.dimensions:
            if own.what in _SHAPE or own.name.startswith("train."):
                break
            if other.what == "kind" and own.stage in (None, other.stage):
                found |= _taker(other, own.what, lambda value: [value])
            elif other.name == "layout":
                found |= _taker(other, own.what, lambda value: str(value).split("-"))
        for name, values in own.when.items():
            other = next(d for d in self.dimensions if d.name == name)
            found |= {**self._fitting(other), name: values[0]}
        return found


@dataclass(frozen=True)
class _Preferring:
    """Answers with a fixed value where there is one, else with the first."""

    fixed: Point

    def __call__(self, dimension: Dimension) -> Any:
        first = dimension.values[0] if dimension.values else dimension.low
        return self.fixed.get(dimension.name, first)


def _taker(dimension: Dimension, option: str, kinds: Callable[[Any], list[str]]) -> dict[str, Any]:
    for value in dimension.values:
        if any(kind in KINDS and option in KINDS[kind].options for kind in kinds(value)):
            return {dimension.name: value}
    return {}


def _takes(arch: Arch, name: str) -> bool:
    return name in ("layout", "depths", "widths", *NET_OPTIONS) or any(
        name in KINDS[part.kind].options for part in arch.parts()
    )


def _shaped(arch: Arch, point: Point) -> Arch:
    """With the depths and widths of a point."""
    stem = _resized(arch.stem, "stem", point) if arch.stem else None
    stages = tuple(
        tuple(_resized(run, f"stage{number}", point) for run in stage)
        for number, stage in enumerate(arch.stages, 1)
    )
    return dataclasses.replace(arch, stem=stem, stages=stages)


def _resized(run: Run, place: str, point: Point) -> Run:
    changes = {
        name: point[f"{place}.{name}"] for name in ("depth", "width") if f"{place}.{name}" in point
    }
    return dataclasses.replace(run, **changes)


def _with_options(arch: Arch, dimensions: tuple[Dimension, ...], point: Point) -> Arch:
    """With the options that dimensions set in a single stage."""
    named: dict[int, dict[str, Any]] = {}
    for dimension in dimensions:
        if dimension.stage is not None and dimension.what not in _SHAPE and dimension.name in point:
            named.setdefault(dimension.stage, {})[dimension.what] = point[dimension.name]
    stages = tuple(
        tuple(_set(run, named.get(number, {})) for run in stage)
        for number, stage in enumerate(arch.stages, 1)
    )
    stem = _set(arch.stem, named.get(STEM, {})) if arch.stem else None
    changed = dataclasses.replace(arch, stem=stem, stages=stages)
    return dataclasses.replace(changed, text=str(changed))


_HEADS = {"head_dim", "num_heads"}


def _set(run: Run, options: Mapping[str, Any]) -> Run:
    gone = {*options} | (_HEADS if _HEADS & {*options} else set())
    kept = tuple(pair for pair in run.options if pair[0] not in gone)
    own = tuple(
        (name, parse_option(name, format_value(value), run.kind)) for name, value in options.items()
    )
    return dataclasses.replace(run, options=(*kept, *own))
