"""The keys of a study file, their types and rules; nothing here builds a network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ablate.config import DataConfig, TrainConfig
from ablate.errors import StudyError, unknown
from ablate.study.yaml_source import Document, KeyPath

DESIGNS = ("grid", "one_at_a_time", "leave_one_out", "add_one_in", "search")
BUDGETS = ("params", "macs")
CONFIGS: Mapping[str, type[DataConfig] | type[TrainConfig]] = {
    "data": DataConfig,
    "train": TrainConfig,
}

Text = Annotated[str, Field(min_length=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class Scalars(BaseModel):
    """The keys of a study that do not depend on each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    question: Text | None = None
    paper: Text | None = None
    model: Text | None = None
    design: Literal["grid", "one_at_a_time", "leave_one_out", "add_one_in", "search"] = "grid"
    variances: Literal["welch", "pooled"] = "welch"
    alpha: OpenFraction = 0.05
    power: OpenFraction = 0.8
    sd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()


_MAPPINGS = ("options", "baseline", "match", "tune", "cluster", "search", "space", "profiles")
_LISTS = ("exclude", "include", "plugins")
KEYS = (*Scalars.model_fields, "factors", "seeds", *_MAPPINGS, *_LISTS)
_NOT_IN_PROFILES = ("study", "profiles", "plugins")


@dataclass(frozen=True, kw_only=True)
class Match:
    """A budget that every variant is resized to: that of the baseline.

    Args:
        budget: "params" or "macs".
        tolerance: largest relative difference, such as 0.01.
    """

    budget: str
    tolerance: float

    def __str__(self) -> str:
        return f"{self.budget} within {100 * self.tolerance:g}%"


def fields(config: str) -> list[str]:
    """The names of the fields of "data" or "train"."""
    return list(CONFIGS[config].model_fields)


def check_structure(document: Document) -> None:
    """Check every key and type of the file, its profiles included.

    Raises:
        StudyError: one line for each mistake, with its place.
    """
    problems = list(_structure(document, (), KEYS))
    profiles = document.data.get("profiles")
    if isinstance(profiles, dict):
        allowed = [key for key in KEYS if key not in _NOT_IN_PROFILES]
        for name in profiles:
            problems += _structure(document, ("profiles", name), allowed)
    if problems:
        raise StudyError("\n".join(problems))


def _structure(document: Document, path: KeyPath, allowed: Sequence[str]) -> Iterator[str]:
    part = document.get(*path) if path else document.data
    if part is None:
        return
    if not isinstance(part, dict):
        told = f"profile {path[-1]!r} must be a mapping, but got {shown(part)}"
        yield f"{document.place(*path)}: {told}"
        return
    for key, value in part.items():
        at = (*path, key)
        if key not in allowed:
            yield _unknown_key(document, at, allowed)
        elif value is not None:
            yield from _type(document, at, value)


def _type(document: Document, path: KeyPath, value: Any) -> Iterator[str]:
    key = path[-1]
    if key in CONFIGS:
        if isinstance(value, dict):
            for name in value:
                if name not in fields(key):
                    yield _unknown_key(document, (*path, name), fields(key))
            return
        wanted = "a mapping of settings"
    elif key in _MAPPINGS:
        wanted = "" if isinstance(value, dict) else "a mapping"
    else:
        wanted = "a list" if key in _LISTS and not isinstance(value, list) else ""
    if wanted:
        yield f"{document.place(*path)}: {key} must be {wanted}, but got {shown(value)}"


def _unknown_key(document: Document, path: KeyPath, allowed: Sequence[str]) -> str:
    where = f"in {'.'.join(map(str, path[:-1]))}: " if len(path) > 1 else ""
    return f"{document.place(*path)}: {where}{unknown('key', path[-1], allowed)}"


def check_scalars(document: Document) -> Scalars:
    """The keys that do not depend on each other, checked.

    Raises:
        StudyError: one line for each value outside its rules.
    """
    given = {
        key: value
        for key, value in document.data.items()
        if key in Scalars.model_fields and value is not None
    }
    found: Scalars = validated(Scalars, given, lambda path: document.place(*path))
    return found


def validated(
    model: type[BaseModel],
    values: Mapping[str, Any],
    place: Callable[[KeyPath], str],
    prefix: str = "",
) -> Any:
    """`values` as a config, with strict types (text is no number, true is no 1).

    Args:
        model: the config's class.
        values: plain values.
        place: where the value at a path stands.
        prefix: put before the keys in messages, such as "train.".

    Raises:
        StudyError: one line for each value outside its rules.
    """
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        lines = [_told(detail, place, prefix) for detail in error.errors()]
        raise StudyError("\n".join(lines)) from None


_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be letters, digits, '-' and '_' (it names a folder)",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
}


def _told(detail: Any, place: Callable[[KeyPath], str], prefix: str) -> str:
    path = tuple(detail["loc"])
    key = prefix + ".".join(map(str, path))
    if detail["type"] == "missing":
        return f"{place(path)}: key {key!r} is missing"
    if detail["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return f"{place(path)}: {key}: {unknown('value', detail['input'], choices)}"
    if detail["type"] == "value_error":
        return f"{place(path)}: {key.rstrip('.')}: {detail['ctx']['error']}"
    rule = _RULES.get(detail["type"]) or str(detail["msg"]).replace("Input should", "must")
    rule = rule.replace("must be less than or equal to", "must be at most")
    rule = rule.replace("must be greater than or equal to", "must be at least")
    rule = rule.replace("must be greater than", "must be above")
    rule = rule.replace("must be less than", "must be below")
    return f"{place(path)}: {key} {rule}, but got {shown(detail['input'])}"


def shown(value: Any) -> str:
    """A value as it would stand in the file, for messages."""
    return json.dumps(value, default=str)


def check_seeds(document: Document) -> tuple[int, ...]:
    """The seeds: a number n gives 0 to n - 1, a list is taken as it is.

    Raises:
        StudyError: no seeds, repeated ones, or something else.
    """
    value = document.data.get("seeds")
    if value is None:
        return (0,)
    if _is_natural(value) and value >= 1:
        return tuple(range(value))
    if not isinstance(value, list) or not value or not all(_is_natural(seed) for seed in value):
        raise document.error(
            f"seeds must be a number of at least 1 or a list of whole numbers, but got "
            f"{shown(value)}",
            "seeds",
        )
    if len(set(value)) < len(value):
        raise document.error(f"seeds must differ, but got {shown(value)}", "seeds")
    return tuple(value)


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_match(document: Document) -> Match | None:
    """The budget to match, or None.

    Raises:
        StudyError: an unknown budget, or a tolerance outside (0, 1).
    """
    given = document.data.get("match")
    if not given:
        return None
    if len(given) > 1:
        raise document.error(
            f"match takes one budget, but got {', '.join(map(str, given))}", "match"
        )
    budget, value = next(iter(given.items()))
    if budget not in BUDGETS:
        raise document.error(unknown("budget", budget, BUDGETS), "match", budget)
    tolerance = _share(value)
    if tolerance is None or not 0 < tolerance < 1:
        raise document.error(
            f"match.{budget} needs a tolerance above 0% and below 100%, such as 1% or 0.01, but "
            f"got {shown(value)}",
            "match",
            budget,
        )
    return Match(budget=budget, tolerance=tolerance)


def _share(value: Any) -> float | None:
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*%", value.strip())
        return float(found.group(1)) / 100 if found else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def check_texts(document: Document, key: str) -> tuple[str, ...]:
    """A list of texts.

    Raises:
        StudyError: an item that is not text.
    """
    items = document.data.get(key) or []
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item:
            raise document.error(
                f"{key} must be a list of texts, but got {shown(item)}", key, index
            )
    return tuple(items)
