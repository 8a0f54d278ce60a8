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
from ablate.study.files import write_atomic

Row = dict[str, Any]

IDENTITY = ("key", "study", "profile", "variant_name", "variant", "seed", "status")
PROVENANCE = ("failure", "failure_message", "code", "fingerprint")
"""`code` is a digest of the code, `fingerprint` of the images, that a row was made with."""

COLUMNS: tuple[str, ...] = (
    *IDENTITY,
    *(name for name in TrialResult.model_fields if name not in IDENTITY),
    *PROVENANCE,
)
CURVE_COLUMNS = (
    "key", "variant_name", "seed", "epoch",
    "train_loss_running", "train_loss", "train_top1", "val_loss", "val_top1", "lr",
)  # fmt: skip
_CURVE_INTEGERS = {"seed", "epoch"}
_RANK = {"done": 0, "failed": 1, "missing": 2}


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


CELL_TYPES: Mapping[str, type] = {name: _cell_type(name) for name in COLUMNS}

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
    return _read(path, lambda name: CELL_TYPES.get(name, str), required=("key", "status"))


def read_curve_rows(path: Path) -> list[Row]:
    """The rows of a curves.csv, as `read_rows`."""

    def cell_type(name: str) -> type:
        if name in _CURVE_INTEGERS:
            return int
        return str if name in ("key", "variant_name") else float

    return _read(path, cell_type, required=("key", "epoch"))


def _read(path: Path, cell_type: Callable[[str], type], required: Sequence[str]) -> list[Row]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = csv.reader(io.StringIO(text))
    header = next(lines, [])
    missing = [name for name in required if name not in header]
    if missing:
        raise ResultsError(f"{path}, line 1: the header has no column {missing[0]!r}")
    readers = [(name, _READERS[cell_type(name)]) for name in header]
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


def format_rows(rows: Iterable[Row], columns: Sequence[str], order: Sequence[str]) -> str:
    """The text of a CSV file, sorted by the columns in `order`.

    Columns that `rows` have beyond `columns` are kept behind them.
    """
    listed = sorted(rows, key=lambda row: tuple((row[name] is None, row[name]) for name in order))
    known = set(columns)
    extra = sorted({name for row in listed for name in row if name not in known})
    names = [*columns, *extra]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([format_cell(row.get(name)) for name in names] for row in listed)
    return text.getvalue()


def write_rows(path: Path, rows: Iterable[Row]) -> bool:
    """Write a trials.csv, sorted by key; False where it already says the same."""
    return _write(path, format_rows(rows, COLUMNS, order=("key", "variant_name")))


def write_curve_rows(path: Path, rows: Iterable[Row]) -> bool:
    """Write a curves.csv, sorted by key and epoch; False where it already says the same."""
    return _write(path, format_rows(rows, CURVE_COLUMNS, order=("key", "variant_name", "epoch")))


def _write(path: Path, text: str) -> bool:
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
