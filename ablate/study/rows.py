"""Rows as text: CSV files that are byte-identical when they are written again.

Cells are typed by `TrialResult`; numbers are written by `repr`, so that they read back exactly;
rows are sorted by key, one line each, so that git merges the files of two machines.
"""

from __future__ import annotations

import csv
import io
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.config import TrialResult
from ablate.errors import ResultsError
from ablate.files import write_atomic

Row = dict[str, Any]

IDENTITY = ("key", "study", "profile", "variant_name", "variant", "seed", "status")
PROVENANCE = ("failure", "failure_message", "code", "fingerprint")
"""`code` is a digest of the code, `fingerprint` of the images, that a row was made with."""

COLUMNS: tuple[str, ...] = (
    *IDENTITY,
    *(name for name in TrialResult.model_fields if name not in IDENTITY),
    *PROVENANCE,
)
EXTRA: Mapping[str, type] = {"role": str, "settings": dict, "number": int, "pruned_epoch": int}
"""Columns of tuned studies and searches only; see `ablate.study.cells.Cell`."""

_KNOWN = frozenset(COLUMNS)
_RANK = {"done": 0, "failed": 1, "pruned": 2, "missing": 3}


def _cell_type(name: str) -> type:
    """int, float, str, or dict and tuple (JSON text) of a column of trials.csv."""
    if name == "variant":
        return dict
    if name not in TrialResult.model_fields:
        return str
    annotation = TrialResult.model_fields[name].annotation
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not types.NoneType)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return str
    found = origin or annotation
    assert isinstance(found, type)
    return found


CELL_TYPES: Mapping[str, type] = {**{name: _cell_type(name) for name in COLUMNS}, **EXTRA}

_READERS: Mapping[type, Callable[[str], Any]] = {
    int: int,
    float: float,
    str: str,
    dict: json.loads,
    tuple: lambda text: tuple(json.loads(text)),
}


def format_cell(value: Any) -> str:
    """The text of a cell; the inverse of reading it by its column's type."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)


def read_rows(path: Path) -> list[Row]:
    """The rows of a trials.csv, typed; none where there is no file.

    Raises:
        ResultsError: a cell, a line or the header is damaged; names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = csv.reader(io.StringIO(text))
    header = next(lines, [])
    missing = [name for name in ("key", "status") if name not in header]
    if missing:
        raise ResultsError(f"{path}, line 1: the header has no column {missing[0]!r}")
    readers = [(name, _READERS[CELL_TYPES.get(name, str)]) for name in header]
    rows = []
    for cells in lines:
        if cells == header:  # a git union merge of two new files may keep both headers
            continue
        rows.append(_typed(cells, readers, path, lines.line_num))
    return rows


def _typed(
    cells: Sequence[str], readers: Sequence[tuple[str, Callable[[str], Any]]], path: Path, line: int
) -> Row:
    if len(cells) != len(readers):
        hint = " (an unresolved git merge?)" if cells and cells[0][:7] in _MARKERS else ""
        raise ResultsError(
            f"{path}, line {line}: {len(cells)} cells where the header has {len(readers)}{hint}"
        )
    row: Row = {}
    for text, (name, reader) in zip(cells, readers, strict=True):
        try:
            row[name] = None if text == "" else reader(text)
        except ValueError as error:
            raise ResultsError(f"{path}, line {line}, column {name!r}: {text!r} is damaged") from (
                error
            )
    return row


_MARKERS = ("<<<<<<<", "=======", ">>>>>>>")


def format_rows(rows: Iterable[Row]) -> str:
    """The text of a trials.csv, sorted by key.

    Columns that `rows` have beyond `COLUMNS` are kept behind them.
    """
    listed = sorted(rows, key=lambda row: (row["key"], row.get("variant_name") or ""))
    extra = sorted({name for row in listed for name in row.keys() - _KNOWN})
    names = [*COLUMNS, *extra]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([format_cell(row.get(name)) for name in names] for row in listed)
    return text.getvalue()


def write_rows(path: Path, rows: Iterable[Row]) -> bool:
    """Write a trials.csv; False where it already says the same."""
    text = format_rows(rows)
    if path.exists() and path.read_bytes() == text.encode():
        return False
    write_atomic(path, text)
    return True


def best_of_each(rows: Iterable[Row]) -> list[Row]:
    """One row for each key and variant: a result before a failure; of equals the last."""
    best: dict[tuple[str, str | None], Row] = {}
    for row in rows:
        place = (row["key"], row.get("variant_name"))
        if place not in best or _RANK[row["status"]] <= _RANK[best[place]["status"]]:
            best[place] = row
    return list(best.values())
