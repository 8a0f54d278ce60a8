"""The key `space:` of a search: dimensions, each checked against the grammar and the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ablate.errors import AblateError, StudyError, unknown
from ablate.grammar import Arch
from ablate.grammar.arch import parse_option
from ablate.kinds import KINDS, letters
from ablate.options import NET_OPTIONS, OPTIONS, format_value
from ablate.presets import expand
from ablate.study.schema import CONFIGS, fields, shown, validated
from ablate.study.search_space import STEM, Dimension, Space
from ablate.study.variants import is_comparison
from ablate.study.yaml_source import Document

_DIMENSION_KEYS = ("values", "low", "high", "step", "log", "when")


def parse_space(document: Document) -> Space:
    """The space of a search; its syntax is told in `ablate.study.search_parse.parse_search`.

    Raises:
        StudyError: an unknown dimension, kind or value, or one that no network of the space takes.
    """
    model = document.data.get("model")
    place = document.place("model")
    if not isinstance(model, str) or is_comparison(model):
        raise StudyError(f"{place}: design search needs `model:`, an arch of ours to vary")
    try:
        base = expand(model)
    except AblateError as error:
        raise StudyError(f"{place}: model: {error}") from error
    given = document.data.get("space")
    if not given:
        raise document.error("design search needs a `space:` of what varies", "design")
    found: dict[str, Dimension] = {}
    for name, value in given.items():
        found[name] = _dimension(document, base, name, value, found)
    if "layout" in found and any(d.what == "kind" for d in found.values()):
        raise document.error("in space: layout and stageN.kind say the same; keep one", "space",
                             "layout")  # fmt: skip
    space = Space(
        model=model, options=document.data.get("options") or {}, dimensions=tuple(found.values())
    )
    _check_built(document, space)
    return space


def _dimension(
    document: Document, base: Arch, name: Any, value: Any, earlier: Mapping[str, Dimension]
) -> Dimension:
    path = ("space", name)
    _check_name(document, base, name)
    given = {"values": value} if isinstance(value, list) else value
    if not isinstance(given, dict):
        raise document.error(
            f"space: {name} needs a list of values or a range {{low: ..., high: ...}}, but got "
            f"{shown(value)}", *path,
        )  # fmt: skip
    for key in given:
        if key not in _DIMENSION_KEYS:
            raise document.error(f"in space.{name}: {unknown('key', key, _DIMENSION_KEYS)}", *path)
    values = given.get("values")
    ranged = {key: given[key] for key in ("low", "high", "step", "log") if key in given}
    if (values is None) == (not ranged):
        raise document.error(f"space: {name} needs either values or low and high", *path)
    when = _conditions(document, name, given.get("when") or {}, earlier)
    if values is not None:
        _check_values(document, name, values)
        return Dimension(name=name, values=tuple(values), when=when)
    return Dimension(name=name, when=when, **_range(document, name, ranged))


def _check_name(document: Document, base: Arch, name: Any) -> None:
    path = ("space", name)
    top, dot, _ = str(name).partition(".")
    options = [option for option, entry in OPTIONS.items() if not entry.local]
    if top == "train" and dot:
        choices = [f"train.{inner}" for inner in fields("train")]
    elif not dot:
        choices = ["layout", *sorted({*options, *NET_OPTIONS})]
    else:
        stages = [f"stage{number}" for number, _ in enumerate(base.stages, 1)]
        stages += ["stem"] if base.stem else []
        if top not in stages:
            raise document.error(f"in space: {unknown('stage', top, stages)}", *path)
        local = sorted({o for kind in KINDS.values() for o in kind.options} - {*NET_OPTIONS})
        shapes = ("depth", "width") if top == "stem" else ("kind", "depth", "width")
        choices = [f"{top}.{inner}" for inner in (*shapes, *local)]
    if name not in choices:
        raise document.error(f"in space: {unknown('dimension', name, choices)}", *path)
    mixed = [stage for stage in base.stages if len(stage) > 1]
    if mixed and (name == "layout" or (dot and top not in ("train", "stem"))):
        raise document.error(
            f"in space: {name} needs one run a stage, but the model has "
            f"{'+'.join(map(str, mixed[0]))}", *path,
        )  # fmt: skip


def _check_values(document: Document, name: str, values: Any) -> None:
    path = ("space", name)
    scalar = (bool, int, float, str)
    if not isinstance(values, list) or not values:
        raise document.error(f"space: {name} needs values, but got {shown(values)}", *path)
    for value in values:
        if not isinstance(value, scalar):
            raise document.error(
                f"space: {name} needs numbers, texts, true or false, but got {shown(value)}", *path
            )
    if len({format_value(value) for value in values}) < len(values):
        raise document.error(f"space: {name} has a value twice: {shown(values)}", *path)


def _range(document: Document, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    path = ("space", name)
    low, high = given.get("low"), given.get("high")
    numbers = [v for v in (low, high) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < 2 or not numbers[0] < numbers[1]:
        raise document.error(f"space: {name} needs numbers low < high, but got {shown(given)}",
                             *path)  # fmt: skip
    whole = all(isinstance(number, int) for number in numbers)
    step, log = given.get("step", 1), bool(given.get("log", False))
    if not isinstance(step, int) or step < 1 or (step > 1 and (log or not whole)):
        raise document.error(
            f"space: {name}: step is a whole number of at least 1, for whole numbers without log, "
            f"but got {shown(given)}", *path,
        )  # fmt: skip
    if log and numbers[0] <= 0:
        raise document.error(f"space: {name}: log needs low above 0, but got {low}", *path)
    return {"low": low, "high": high, "step": step, "log": log}


def _conditions(
    document: Document, name: str, given: Any, earlier: Mapping[str, Dimension]
) -> dict[str, tuple[Any, ...]]:
    path = ("space", name)
    if not isinstance(given, dict):
        raise document.error(
            f"space: {name}: when must be a mapping of dimensions to values, but got "
            f"{shown(given)}", *path,
        )  # fmt: skip
    found = {}
    for other, wanted in given.items():
        if other not in earlier:
            told = unknown("dimension above it:", other, earlier)
            raise document.error(f"space: {name}: in when: {told}", *path)
        values = tuple(wanted) if isinstance(wanted, list) else (wanted,)
        choices = earlier[other].listed
        for value in values:
            if choices is not None and value not in choices:
                told = unknown(f"value of {other}:", value, map(format_value, choices))
                raise document.error(f"space: {name}: in when: {told}", *path)
        found[other] = values
    return found


def _check_built(document: Document, space: Space) -> None:
    """Every value by itself, with the first values of the others; costs are told later."""
    for dimension in space.dimensions:
        _check_dimension(document, space, dimension)
    reached: set[str] = set()
    for point in space.first_points():
        reached.update(point)
        for name, value in space.train_settings(point).items():
            own = name.partition(".")[2]
            base = {**(document.data.get("train") or {}), own: value}
            place = document.place("space", name)
            validated(CONFIGS["train"], base, lambda path, place=place: place, "train.")  # type: ignore[misc]
    unreached = [d.name for d in space.dimensions if d.name not in reached]
    for name in unreached:
        raise document.error(f"space: {name} is taken by no block of any network of the space",
                             "space", name)  # fmt: skip


def _check_dimension(document: Document, space: Space, dimension: Dimension) -> None:
    """The values by themselves: kinds of the grammar, options inside their rules."""
    path = ("space", dimension.name)
    values: Iterable[Any] = dimension.values or (dimension.low, dimension.high)
    for value in values:
        if dimension.what == "kind":
            _check_kind(document, space, dimension, value)
        elif dimension.name == "layout":
            parts = str(value).split("-")
            for kind in parts:
                if kind not in letters("block"):
                    told = unknown(f"kind in {value}:", kind, letters("block"))
                    raise document.error(f"space: layout: {told}", *path)
            if len(parts) != len(space.base.stages):
                raise document.error(f"space: layout {value} has {len(parts)} stages, but the "
                                     f"model has {len(space.base.stages)}", *path)  # fmt: skip
        elif dimension.what in ("depth", "width"):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise document.error(f"space: {dimension.name} needs whole numbers of at least 1, "
                                     f"but got {shown(value)}", *path)  # fmt: skip
        elif not dimension.name.startswith("train."):
            try:
                parse_option(dimension.what, format_value(value))
            except ValueError as error:
                raise document.error(
                    f"space: {dimension.name}={format_value(value)}: {error}", *path
                ) from None


def _check_kind(document: Document, space: Space, dimension: Dimension, value: Any) -> None:
    path = ("space", dimension.name)
    if value not in letters("block"):
        told = unknown("kind", value, letters("block"))
        raise document.error(f"space: {dimension.name}: {told}", *path)
    if dimension.stage == STEM + 1 and KINDS[value].needs_stem and space.base.stem is None:
        raise document.error(
            f"space: {dimension.name}: kind {value} cannot read images: give the model a stem",
            *path,
        )
