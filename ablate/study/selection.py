"""The rows of a study: its design, without `exclude:`, with `include:`, and the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ablate.errors import StudyError, unknown
from ablate.study.designs import Row, baseline_row, design_rows, matches
from ablate.study.factors import Factor, Level, flat_settings, is_setting
from ablate.study.schema import CONFIGS, shown
from ablate.study.variants import is_comparison
from ablate.study.yaml_source import Document, KeyPath


def study_rows(document: Document, design: str, factors: Sequence[Factor]) -> tuple[list[Row], int]:
    """The rows of a study in order, and the place of the baseline among them.

    A search has one row without levels: the network that it varies.

    Raises:
        StudyError: no rows, the baseline excluded, an unknown factor or level, a row excluded
            that is not there, or one included that is there already.
    """
    if design == "search":
        return [{}], 0
    given = _levels(document, ("baseline",), document.data.get("baseline") or {}, factors)
    baseline = baseline_row(factors, given, design)
    rows = design_rows(factors, design, baseline) if factors else []
    if not factors and document.data.get("include"):
        rows = [baseline]
    rows = _excluded(document, rows, factors)
    rows = _included(document, rows, factors, baseline)
    if not rows:
        raise document.error(
            "the study has no variants: give `factors:` with levels, or rows in `include:`",
            "exclude" if document.data.get("exclude") else "factors",
        )
    for index, row in enumerate(rows):
        if len(row) == len(baseline) and matches(row, baseline):
            return rows, index
    raise document.error("the baseline is excluded: nothing is left to compare with", "exclude")


def _levels(
    document: Document, path: KeyPath, given: Any, factors: Iterable[Factor]
) -> dict[str, Level]:
    """A mapping of factors to levels, as in `baseline:` and `exclude:`."""
    if not isinstance(given, dict):
        raise document.error(
            f"must be a mapping of factors to levels, but got {shown(given)}", *path
        )
    by_name = {factor.name: factor for factor in factors}
    found = {}
    for name, value in given.items():
        place = document.place(*path, name)
        if name not in by_name:
            raise StudyError(f"{place}: in {path[0]}: {unknown('factor', name, by_name)}")
        found[name] = by_name[name].find(value, place)
    return found


def _excluded(document: Document, rows: list[Row], factors: Sequence[Factor]) -> list[Row]:
    for index, given in enumerate(document.data.get("exclude") or []):
        levels = _levels(document, ("exclude", index), given, factors)
        kept = [row for row in rows if not (levels and matches(row, levels))]
        if len(kept) == len(rows):
            raise document.error(f"exclude: no variant has {shown(given)}", "exclude", index)
        rows = kept
    return rows


def _included(
    document: Document, rows: list[Row], factors: Sequence[Factor], baseline: Row
) -> list[Row]:
    rows = list(rows)
    for index, given in enumerate(document.data.get("include") or []):
        row = _included_row(document, ("include", index), given, factors, baseline)
        if any(len(other) == len(row) and matches(other, row) for other in rows):
            raise document.error(
                f"include: the design has {shown(given)} already", "include", index
            )
        rows.append(row)
    return rows


def _included_row(
    document: Document, path: KeyPath, given: Any, factors: Sequence[Factor], baseline: Row
) -> Row:
    """A row of levels and settings; a factor that it does not name is as in the baseline."""
    if not isinstance(given, dict) or not given:
        raise document.error(
            f"include: a row is a mapping of factors to levels, but got {shown(given)}", *path
        )
    names = {factor.name for factor in factors}
    for name in given:
        if name not in names and name not in (*CONFIGS, "options") and not is_setting(name):
            raise document.error(
                f"in include: {unknown('factor', name, sorted(names))}", *path, name
            )
    levels = _levels(document, path, {n: v for n, v in given.items() if n in names}, factors)
    more = flat_settings({n: v for n, v in given.items() if n not in names}, document, path)
    settings = {*more, *(name for level in levels.values() for name in level.settings)}
    comparison = is_comparison(str(_model(levels, more)))
    row: dict[str, Level] = {}
    for factor in factors:
        if factor.name in levels:
            row[factor.name] = levels[factor.name]
        elif not (settings & factor.settings or (comparison and _changes_arch(factor))):
            row[factor.name] = baseline[factor.name]
    for name, value in more.items():
        row[name] = Level(value=value, settings={name: value}, place=document.place(*path, name))
    return row


def _model(levels: dict[str, Level], more: dict[str, Any]) -> Any:
    found = [level.settings["model"] for level in levels.values() if "model" in level.settings]
    return more.get("model", found[0] if found else "")


def _changes_arch(factor: Factor) -> bool:
    return any("." not in name for name in factor.settings)
