"""What a study varies: factors, their levels, and the settings that a level stands for.

A setting is one thing that can be changed: `model`, `layout`, `depths`, `widths`, an option of the
grammar (`cpe`), or a dotted path into the data or the recipe (`data.train_fraction`, `train.lr`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ablate.errors import StudyError, unknown
from ablate.grammar import resolve
from ablate.grammar.override import SHAPES
from ablate.options import OPTIONS, format_value
from ablate.presets import expand
from ablate.study.schema import CONFIGS, fields, shown
from ablate.study.yaml_source import Document, KeyPath

Scalar = bool | int | float | str | None | list[Any]

REMOVED: Mapping[str, Scalar] = {
    "coscale": "none",
    "cpe": False,
    "crpe": False,
    "ffn": "linear",
    "proj": "linear",
    "rel_attn": "none",
    "se_ratio": 0,
}
"""The components that `factors: auto` takes out of a network, and what stands in their place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """One value of a factor.

    Args:
        value: as the study writes it: a value, or the name of a named level.
        settings: what it changes, by setting; empty where the base stays as it is.
        place: where it stands.
    """

    value: Scalar
    settings: Mapping[str, Any]
    place: str

    @property
    def text(self) -> str:
        """The value as it stands in a name."""
        return "null" if self.value is None else format_value(self.value)

    @property
    def is_out(self) -> bool:
        """Whether the level is a component's absence."""
        return self.value is None or self.value in (False, 0, "none", "off", "without")


@dataclass(frozen=True, kw_only=True, eq=False)
class Factor:
    """What a study varies.

    Args:
        name: a setting, or a name of its own where the levels are named.
        levels: at least one, all different.
        place: where it stands.
        bare: the levels name themselves: "C-C-T-T" instead of "layout=C-C-T-T".
    """

    name: str
    levels: tuple[Level, ...]
    place: str
    bare: bool = False

    @property
    def values(self) -> list[Scalar]:
        """The levels as the study writes them."""
        return [level.value for level in self.levels]

    @property
    def settings(self) -> set[str]:
        """All settings that some level changes."""
        return {name for level in self.levels for name in level.settings}

    def find(self, value: Any, place: str) -> Level:
        """The level of a value.

        Raises:
            StudyError: the factor has no such level.
        """
        for level in self.levels:
            if same(level.value, value):
                return level
        choices = [level.text for level in self.levels]
        text = "null" if value is None else format_value(value)
        raise StudyError(f"{place}: {unknown(f'level of factor {self.name!r}:', text, choices)}")

    def label(self, level: Level) -> str:
        """The level in a variant's name."""
        return level.text if self.bare else f"{self.name.rpartition('.')[2]}={level.text}"


def same(one: Any, other: Any) -> bool:
    """Whether two YAML values are equal; true is not 1."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def is_setting(name: object) -> bool:
    """Whether something of this name can be changed."""
    if not isinstance(name, str):
        return False
    top, dot, rest = name.partition(".")
    if dot:
        return top in CONFIGS and rest in fields(top)
    return name == "model" or name in SHAPES or (name in OPTIONS and not OPTIONS[name].local)


def check_setting(name: object, place: str, what: str = "setting") -> None:
    """Raise a StudyError with the nearest name where `name` is no setting."""
    if is_setting(name):
        return
    top = str(name).partition(".")[0]
    if top in CONFIGS and "." in str(name):
        choices = [f"{top}.{inner}" for inner in fields(top)]
    else:
        local = {option for option, entry in OPTIONS.items() if entry.local}
        choices = ["model", *SHAPES, *sorted(set(OPTIONS) - local), "data.NAME", "train.NAME"]
    raise StudyError(f"{place}: {unknown(what, name, choices)}")


def flat_settings(given: Any, document: Document, path: KeyPath) -> dict[str, Any]:
    """A mapping of settings with nested `data:`, `train:` and `options:` made dotted.

    Raises:
        StudyError: no mapping, or an unknown setting.
    """
    if not isinstance(given, dict):
        key = ".".join(map(str, path))
        raise document.error(f"{key} must be a mapping of settings, but got {shown(given)}", *path)
    flat: dict[str, Any] = {}
    for key, value in given.items():
        at = (*path, key)
        if key in (*CONFIGS, "options") and isinstance(value, dict):
            prefix = "" if key == "options" else f"{key}."
            pairs = [(f"{prefix}{name}", inner, (*at, name)) for name, inner in value.items()]
        else:
            pairs = [(key, value, at)]
        for name, inner, inside in pairs:
            check_setting(name, document.place(*inside))
            flat[name] = inner
    return flat


def parse_factors(document: Document) -> tuple[Factor, ...]:
    """The factors of a study, in its order.

    Raises:
        StudyError: no factor, a factor without levels, an unknown name, a level given twice, or
            a setting that two factors change.
    """
    given = document.data.get("factors")
    if given is None:
        return ()
    if not isinstance(given, dict):
        raise document.error(
            f"factors must be a mapping of names to levels, or auto, but got {shown(given)}",
            "factors",
        )
    factors = tuple(_factor(document, name, levels) for name, levels in given.items())
    owner: dict[str, str] = {}
    for factor in factors:
        for name in sorted(factor.settings):
            if name in owner:
                raise StudyError(
                    f"{factor.place}: factors {owner[name]!r} and {factor.name!r} both change "
                    f"{name!r}; the later would win"
                )
            owner[name] = factor.name
    return factors


def _factor(document: Document, name: Any, levels: Any) -> Factor:
    place = document.place("factors", name)
    if not isinstance(name, str):
        raise StudyError(f"{place}: a factor's name must be text, but got {shown(name)}")
    named = isinstance(levels, dict)
    if not named:
        check_setting(name, place, "factor")
        if not isinstance(levels, list):
            raise StudyError(
                f"{place}: factor {name!r} needs a list of levels or named levels, but got "
                f"{shown(levels)}"
            )
    if not levels:
        raise StudyError(f"{place}: factor {name!r} has no levels")
    read = _named_level if named else _listed_level
    found = tuple(
        read(document, name, index, levels) for index in (levels if named else range(len(levels)))
    )
    for position, level in enumerate(found):
        if any(same(level.value, earlier.value) for earlier in found[:position]):
            raise StudyError(f"{level.place}: factor {name!r} has level {level.text} twice")
    bare = named or name in ("model", "layout")
    return Factor(name=name, levels=found, place=place, bare=bare and _all_texts(found))


def _all_texts(levels: Iterable[Level]) -> bool:
    return all(isinstance(level.value, str) for level in levels)


def _listed_level(document: Document, factor: str, index: int, levels: list[Any]) -> Level:
    value = levels[index]
    place = document.place("factors", factor, index)
    if isinstance(value, dict):
        raise StudyError(
            f"{place}: a level with several settings needs a name: write `{factor}:` as a mapping "
            "of names to settings"
        )
    return Level(value=value, settings={factor: value}, place=place)


def _named_level(document: Document, factor: str, name: Any, levels: dict[Any, Any]) -> Level:
    given = levels[name]
    path = ("factors", factor, name)
    if given is None:
        settings = {}
    elif is_setting(factor) and not isinstance(given, dict):
        settings = {factor: given}
    else:
        settings = flat_settings(given, document, path)
    return Level(value=name, settings=settings, place=document.place(*path))


def own_components(model: str, place: str) -> tuple[Factor, ...]:
    """The removable components of a network as factors: its own level first, then its absence.

    Raises:
        StudyError: the network has none.
    """
    blueprint = resolve(expand(model))
    runs = [*blueprint.runs, *([blueprint.group] if blueprint.group else [])]
    factors = []
    for name, removed in REMOVED.items():
        values = [run.options[name] for run in runs if name in run.options]
        present = {format_value(value): value for value in values if value != removed}
        if not present:
            continue
        own: Any = next(iter(present.values())) if len(present) == 1 else "as_given"
        levels = (
            Level(value=own, settings={}, place=place),
            Level(value=removed, settings={name: removed}, place=place),
        )
        factors.append(Factor(name=name, levels=levels, place=place))
    if not factors:
        raise StudyError(
            f"{place}: factors: auto finds no component to remove in {model}; it knows "
            f"{', '.join(REMOVED)}"
        )
    return tuple(factors)
