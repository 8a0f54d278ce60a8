"""A table of evidence, once; every output format is rendered from the same cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ablate.errors import AblateError, unknown

DASH = "–"
"""What stands where nothing was run or printed."""

MINUS = "−"

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Args:
        key: its name in CSV and JSON.
        title: its name for readers.
        numeric: whether it is aligned to the right.
        wide: holds sentences, which may wrap.
    """

    key: str
    title: str
    numeric: bool = False
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What readers see, and the values behind it.

    Args:
        text: for readers.
        values: for CSV and JSON, by suffix of the column's key ("" is the column itself).
        bold: the evidence supports a difference here.
    """

    text: str
    values: Mapping[str, Scalar] = field(default_factory=dict)
    bold: bool = False


EMPTY = Cell(text=DASH, values={"": None})


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells under columns, with notes that say what the numbers mean.

    Args:
        name: short name, as in `coat.table6` or the study's name.
        title: one line above the table.
        rows: cells by the column's key; a missing key is a dash.
        statements: what the numbers support, one sentence each.
        notes: conditions and warnings below the table.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Cell], ...]
    statements: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def cells(self, row: Mapping[str, Cell]) -> list[Cell]:
        """The cells of one row in the order of the columns."""
        return [row.get(column.key, EMPTY) for column in self.columns]

    def records(self) -> list[dict[str, Scalar]]:
        """One flat mapping a row, for CSV and JSON; the same keys in every row."""
        flat = [
            {
                _joined(column.key, suffix): value
                for column, cell in zip(self.columns, self.cells(row), strict=True)
                for suffix, value in (cell.values or {"": cell.text}).items()
            }
            for row in self.rows
        ]
        keys = _ordered_keys(self.columns, flat)
        return [{key: row.get(key) for key in keys} for row in flat]

    def render(self, format: str = "terminal", *, width: int | None = None) -> str:
        """The table as text in one of `FORMATS`.

        Args:
            format: terminal, md, latex, csv or html.
            width: columns of the terminal (default: as wide as it is).

        Raises:
            AblateError: an unknown format.
        """
        from ablate.report import render  # the renderers know this class

        if format not in render.RENDERERS:
            raise AblateError(unknown("table format", format, render.RENDERERS))
        if format == "terminal":
            return render.terminal(self, width)
        return render.RENDERERS[format](self)

    def to_json(self) -> dict[str, Any]:
        """Everything in the table as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "rows": self.records(),
            "statements": list(self.statements),
            "notes": list(self.notes),
        }


def _joined(key: str, suffix: str) -> str:
    return f"{key}_{suffix}" if suffix else key


def _ordered_keys(columns: tuple[Column, ...], flat: list[dict[str, Scalar]]) -> list[str]:
    """All keys, those of one column side by side even where the first rows lack some."""
    seen = dict.fromkeys(key for row in flat for key in row)
    own = [c.key for c in columns]

    def place(key: str) -> int:
        owners = [name for name in own if key == name or key.startswith(f"{name}_")]
        return own.index(max(owners, key=len))

    return sorted(seen, key=place)


def number(value: float | None, digits: int = 1) -> str:
    """A number for readers; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign, for differences."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:+.{digits}f}"
    return text.replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int = 1, *, plus: bool = False) -> str:
    """`[low, high]`, or nothing where there is no interval."""
    if low is None or high is None:
        return ""
    show = signed if plus else number
    return f"[{show(low, digits)}, {show(high, digits)}]"


def count(value: float | None, billion: str = "G", digits: int = 3) -> str:
    """A number of parameters or multiply-adds, in a few digits and k, M or G.

    Args:
        value: what is counted.
        billion: the letter for 10^9: papers write B of parameters.
        digits: significant digits.

    >>> count(5_722_856), count(4_141_888_512), count(2_440_000_000)
    ('5.72M', '4.14G', '2.44G')
    """
    if value is None or not math.isfinite(value):
        return DASH
    for size, unit in ((1e9, billion), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            short = value / size
            return (f"{short:#.{digits}g}".rstrip(".") if short < 999.5 else f"{short:.0f}") + unit
    return f"{value:g}"


def probability(value: float | None) -> str:
    """An adjusted p-value for readers."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
