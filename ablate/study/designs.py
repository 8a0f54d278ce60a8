"""Which combinations of levels a study trains."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ablate.errors import StudyError
from ablate.study.factors import Factor, Level

Row = Mapping[str, Level]
"""A level of every factor, by the factor's name."""


def baseline_row(factors: Sequence[Factor], given: Mapping[str, Level], design: str) -> Row:
    """The row that all others are compared with.

    A factor that `given` leaves out takes its first level; in leave_one_out the first that is
    not a component's absence, in add_one_in the first that is.

    Raises:
        StudyError: leave_one_out from a baseline that lacks a component, or add_one_in from one
            that has it already.
    """
    row = {factor.name: given.get(factor.name) or _default(factor, design) for factor in factors}
    for factor in factors:
        _check_start(factor, row[factor.name], design)
    return row


def _default(factor: Factor, design: str) -> Level:
    if design in ("leave_one_out", "add_one_in"):
        out = design == "add_one_in"
        return next((level for level in factor.levels if level.is_out == out), factor.levels[0])
    return factor.levels[0]


def _check_start(factor: Factor, level: Level, design: str) -> None:
    others_out = any(other.is_out for other in factor.levels if other is not level)
    if design == "leave_one_out" and level.is_out:
        raise StudyError(
            f"{level.place}: leave_one_out starts from the complete network, but the baseline has "
            f"{factor.name}={level.text}: give a baseline with the component, or use add_one_in"
        )
    if design == "add_one_in" and not level.is_out and others_out:
        raise StudyError(
            f"{level.place}: add_one_in starts without the components, but the baseline has "
            f"{factor.name}={level.text}: give a baseline without it, or use leave_one_out"
        )


def design_rows(factors: Sequence[Factor], design: str, baseline: Row) -> list[Row]:
    """The rows of a design, in the study's order; the baseline is among them.

    Args:
        factors: what varies.
        design: "grid": all combinations; "one_at_a_time", "leave_one_out", "add_one_in": the
            baseline, then each other level of each factor alone.
        baseline: a level of every factor.
    """
    if design == "grid":
        combinations = itertools.product(*(factor.levels for factor in factors))
        names = [factor.name for factor in factors]
        return [dict(zip(names, levels, strict=True)) for levels in combinations]
    changed = [
        {**baseline, factor.name: level}
        for factor in factors
        for level in factor.levels
        if level is not baseline[factor.name]
    ]
    return [baseline, *changed]


def matches(row: Row, levels: Row) -> bool:
    """Whether a row has all of the given levels."""
    return all(row.get(name) is level for name, level in levels.items())
