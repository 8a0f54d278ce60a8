"""Curves: a row for each epoch of a trial, from `metrics.csv` files and committed `curves.csv`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.errors import ResultsError
from ablate.files import write_atomic
from ablate.study.cells import Cell
from ablate.study.folder import run_keys

CURVES = "curves.csv"
CURVE_COLUMNS = (
    "key", "variant_name", "seed", "epoch",
    "train_loss_running", "train_loss", "train_top1", "val_loss", "val_top1", "lr",
)  # fmt: skip
_NUMBERS = CURVE_COLUMNS[4:]
_TYPES: dict[str, str] = {
    "key": "str", "variant_name": "str", "seed": "int64", "epoch": "int64",
    **dict.fromkeys(_NUMBERS, "float64"),
}  # fmt: skip
_ORDER = ["key", "variant_name", "epoch"]


def read_curves(path: Path) -> pd.DataFrame:
    """The rows of a curves.csv, typed and exact; none where there is no file.

    Raises:
        ResultsError: the file is damaged; names the line where one is to blame.
    """
    if not path.exists():
        return empty_curves()
    text = path.read_text(encoding="utf-8")
    header, _, body = text.partition("\n")
    body = body.replace(header + "\n", "")  # a git union merge of two new files keeps both
    try:
        texts = pd.read_csv(io.StringIO(f"{header}\n{body}"), dtype=str, keep_default_na=False)
    except ValueError as error:
        raise ResultsError(f"{path} is damaged: {error}") from error
    missing = [name for name in CURVE_COLUMNS if name not in texts]
    if missing:
        raise ResultsError(f"{path}, line 1: the header has no column {missing[0]!r}")
    try:
        return _typed({name: texts[name] for name in CURVE_COLUMNS})
    except ValueError as error:
        raise ResultsError(f"{path} is damaged: {error}") from error


def _typed(texts: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Columns of text as numbers, exactly; an empty cell is no number."""
    columns = {}
    for name, cells in texts.items():
        kind = _TYPES[name]
        values: list[Any] = list(cells)
        if kind == "float64":
            values = [float(text) if text else math.nan for text in values]
        elif kind == "int64":
            values = [int(text) for text in values]
        columns[name] = pd.Series(values, dtype=kind)
    return pd.DataFrame(columns)


def empty_curves() -> pd.DataFrame:
    """No curves, in typed columns."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _TYPES.items()})


def read_metrics(path: Path) -> pd.DataFrame:
    """The rows of a run folder's `metrics.csv`; a torn last line is left out."""
    text = path.read_text(encoding="utf-8")
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    return _typed({name: [row[name] for row in rows] for name in ("epoch", *_NUMBERS)})


def committed_curves(results: Path) -> pd.DataFrame:
    """All committed curves, of each key and epoch the last."""
    found = [read_curves(path) for path in sorted(results.glob(f"*/{CURVES}"))]
    if not found:
        return empty_curves()
    return pd.concat(found, ignore_index=True).drop_duplicates(["key", "epoch"], keep="last")


def study_curves(
    cells: Sequence[Cell], runs: Path, committed: pd.DataFrame, open_keys: Collection[str]
) -> pd.DataFrame:
    """The curves of a study's trials, sorted, under the names that the study has for them.

    Args:
        committed: curves by key, from any study.
        open_keys: trials whose run folder is read even where there is a committed curve.
    """
    known = set(committed["key"])
    present = run_keys(runs)
    fresh = {
        cell.key: path
        for cell in cells
        if cell.key in present
        and (cell.key in open_keys or cell.key not in known)
        and (path := runs / cell.key / "metrics.csv").exists()
    }
    read = [read_metrics(path).assign(key=key) for key, path in fresh.items()]
    numbers = pd.concat([committed[~committed["key"].isin(set(fresh))], *read], ignore_index=True)
    names = pd.DataFrame(
        {
            "key": [cell.key for cell in cells],
            "variant_name": [cell.variant_name for cell in cells],
            "seed": [cell.trial.seed for cell in cells],
        }
    ).astype({"key": "str", "variant_name": "str", "seed": "int64"})
    merged = names.merge(numbers.drop(columns=["variant_name", "seed"]), on="key")
    return sort_curves(merged[list(CURVE_COLUMNS)].astype(_TYPES))


def sort_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Curves by key, variant and epoch."""
    return curves.sort_values(_ORDER, ignore_index=True)


def write_curves(path: Path, parts: Iterable[pd.DataFrame]) -> None:
    """Write a curves.csv; the same curves give the same bytes."""
    curves = sort_curves(pd.concat(list(parts), ignore_index=True))
    write_atomic(path, curves.to_csv(index=False, lineterminator="\n"))
