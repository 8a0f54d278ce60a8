"""Contradictions in results: numbers that cannot all be true, and rows that fit no trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ablate.errors import ResultsError
from ablate.study.cells import Cell, StudyLike
from ablate.study.curves import CURVES, read_curves
from ablate.study.folder import run_folders
from ablate.study.rows import Row, read_rows
from ablate.study.shelf import SUPERSEDED, TRIALS, verdict
from ablate.study.store import known_cells, label, study_folder

NUMBERS = (
    "top1", "top5", "test_loss", "train_top1", "train_loss", "val_top1", "val_loss",
    "best_val_top1", "best_val_epoch", "params", "macs", "epochs", "steps", "train_images",
    "test_images",
)  # fmt: skip
"""The columns that one key has one value of."""

_PERCENT = ("top1", "top5", "train_top1", "val_top1", "best_val_top1")


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """One thing in the results that cannot be right.

    Args:
        kind: "damaged", "numbers", "range", "study", "variant", "key", "curve", or "derived": a
            table or figure that does not follow from the rows.
        key: of the trial, or None where a whole file is meant.
        message: what, and in which files.
    """

    kind: str
    key: str | None
    message: str


def check_results(
    study: StudyLike | None = None,
    *,
    results: str | Path = "results",
    runs: str | Path = "runs",
) -> list[Contradiction]:
    """Everything in committed results and run folders that contradicts something else.

    Args:
        study: check that its rows belong to its trials, too.
    """
    found: list[Contradiction] = []
    rows: list[tuple[str, Row]] = []
    for name in (TRIALS, SUPERSEDED):
        for path in sorted(Path(results).glob(f"*/{name}")):
            try:
                rows += ((str(path), row) for row in read_rows(path))
            except ResultsError as error:
                found.append(Contradiction(kind="damaged", key=None, message=str(error)))
    for place, row in rows:
        found += _check_row(place, row)
    found += _different_numbers([*rows, *_run_rows(Path(runs), {row["key"] for _, row in rows})])
    for path in sorted(Path(results).glob(f"*/{CURVES}")):
        found += _check_curves(path)
    if study is not None:
        found += _misfits(study, Path(results), Path(runs))
    return found


def _run_rows(runs: Path, keys: set[str]) -> Iterator[tuple[str, Row]]:
    for folder in run_folders(runs):
        if folder.key in keys and (result := verdict(folder)[0]) is not None:
            yield str(folder.path / "result.json"), result.model_dump()


def _check_row(place: str, row: Row) -> Iterator[Contradiction]:
    """A row by itself: in its own folder, with numbers that can be."""
    home = f"{row.get('study')}.{row['profile']}" if row.get("profile") else row.get("study")
    if Path(place).parent.name != home:
        message = f"{place}: the row of {row['key'][:12]} says it belongs to {home!r}"
        yield Contradiction(kind="study", key=row["key"], message=message)
    if row["status"] != "done":
        return
    for name in _PERCENT:
        value = row.get(name)
        if name == "top1" and value is None:
            value = math.nan
        if value is not None and not 0 <= value <= 100:
            message = f"{place}: {name}={value} of {row['key'][:12]} is no percentage"
            yield Contradiction(kind="range", key=row["key"], message=message)


def _different_numbers(rows: Iterable[tuple[str, Row]]) -> Iterator[Contradiction]:
    """The same key with different numbers, wherever they stand."""
    first: dict[str, tuple[str, Row]] = {}
    for place, row in rows:
        if row["status"] != "done":
            continue
        if row["key"] not in first:
            first[row["key"]] = (place, row)
            continue
        there, other = first[row["key"]]
        different = [name for name in NUMBERS if row.get(name) != other.get(name)]
        if different:
            name = different[0]
            message = (
                f"{row['key'][:12]}: {name}={other.get(name)} in {there} ({_made(other)}), but "
                f"{row.get(name)} in {place} ({_made(row)})"
            )
            yield Contradiction(kind="numbers", key=row["key"], message=message)


def _made(row: Row) -> str:
    return f"{row.get('device')}, commit {(row.get('commit') or 'unknown')[:12]}"


def _check_curves(path: Path) -> Iterator[Contradiction]:
    """Epochs of one key that stand twice with different numbers."""
    try:
        curves = read_curves(path).drop_duplicates()
    except ResultsError as error:
        yield Contradiction(kind="damaged", key=None, message=str(error))
        return
    twice = curves[curves.duplicated(["key", "variant_name", "epoch"])]
    for key, epoch in zip(twice["key"], twice["epoch"], strict=True):
        message = f"{path}: epoch {epoch} of {key[:12]} stands twice, differently"
        yield Contradiction(kind="curve", key=key, message=message)


def _misfits(study: StudyLike, results: Path, runs: Path) -> Iterator[Contradiction]:
    """Rows of a study's own file that belong to none of its trials."""
    path = study_folder(study, results) / TRIALS
    try:
        rows = read_rows(path)
        cells = known_cells(study, results, runs)
    except ResultsError:
        return  # told already
    by_key = {(cell.key, cell.variant_name): cell for cell in cells}
    by_name = {(cell.variant_name, cell.trial.seed): cell for cell in cells}
    names = {cell.variant_name for cell in cells}
    for row in rows:
        cell = by_key.get((row["key"], str(row.get("variant_name"))))
        if cell is not None:
            yield from _wrong_label(path, row, cell)
        elif row.get("variant_name") not in names:
            message = f"{path}: variant {row.get('variant_name')!r} is not in the study"
            yield Contradiction(kind="variant", key=row["key"], message=message)
        else:
            expected = by_name.get((str(row["variant_name"]), row["seed"]))
            told = f"its key is {expected.key[:12]}" if expected else "the study has no such seed"
            message = (
                f"{path}: the row {row['key'][:12]} of {row['variant_name']!r}, seed {row['seed']} "
                f"is no trial of the study: {told}"
            )
            yield Contradiction(kind="key", key=row["key"], message=message)


def _wrong_label(path: Path, row: Row, cell: Cell) -> Iterator[Contradiction]:
    for name in ("seed", "arch", "variant"):
        value = label(cell)[name]
        if row.get(name) != value:
            message = f"{path}: {name}={row.get(name)} of {row['key'][:12]} should be {value}"
            yield Contradiction(kind="key", key=row["key"], message=message)
