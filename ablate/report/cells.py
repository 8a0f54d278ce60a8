"""Summaries, differences and levels as cells of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ablate.report.contrasts import Difference
from ablate.report.summaries import Summary
from ablate.report.table import EMPTY, Cell, interval, number, probability, signed


def level_cell(level: Any) -> Cell:
    """A level for readers: yes and no for switches, lists joined."""
    if isinstance(level, bool):
        return Cell(text="yes" if level else "no", values={"": level})
    if level is None:
        return Cell(text="none", values={"": None})
    if isinstance(level, list | tuple):
        text = "/".join(map(str, level))
        return Cell(text=text, values={"": text})
    if isinstance(level, Mapping):
        text = ", ".join(f"{key}={value}" for key, value in level.items())
        return Cell(text=text, values={"": text})
    return Cell(text=str(level), values={"": level})


def measured_cell(summary: Summary, sample: Iterable[float] = ()) -> Cell:
    """Mean and half width of the interval, with every seed's value behind it."""
    if summary.n == 0:
        return EMPTY
    half = summary.half_width
    text = number(summary.mean) + (f" ± {number(half)}" if half is not None else "")
    return Cell(
        text=text,
        values={
            "": round(summary.mean, 4),
            "low": rounded(summary.low),
            "high": rounded(summary.high),
            "seeds": " ".join(f"{value:.4g}" for value in sample),
        },
    )


def difference_cells(found: Difference) -> dict[str, Cell]:
    """The difference with its interval, bold where it is supported, and its adjusted p."""
    bounds = interval(found.low, found.high, plus=True)
    return {
        "difference": Cell(
            text=f"{signed(found.estimate)} {bounds}".rstrip(),
            values={
                "": rounded(found.estimate),
                "low": rounded(found.low),
                "high": rounded(found.high),
            },
            bold=found.supported,
        ),
        "p": Cell(text=probability(found.p), values={"": rounded(found.p, 6)}),
    }


def rounded(value: float | None, digits: int = 4) -> float | None:
    """A value for CSV and JSON; None where there is none."""
    return None if value is None or value != value else round(value, digits)
