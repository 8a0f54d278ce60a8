"""The committed results of a study, written from run folders and what was committed before."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablate.files import write_atomic
from ablate.study.cells import Cell, StudyLike
from ablate.study.curves import CURVES, committed_curves, read_curves, study_curves, write_curves
from ablate.study.meta import write_meta
from ablate.study.rows import Row, best_of_each, read_rows, write_rows
from ablate.study.shelf import SUPERSEDED, TRIALS, Shelf
from ablate.study.store import PREDICTIONS, PathLike, open_keys, study_folder, study_rows


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `write_results` did: the folder, and whether anything in it changed."""

    folder: Path
    changed: bool


def write_results(
    study: StudyLike,
    found: list[Cell],
    *,
    runs: PathLike,
    results: PathLike,
    record: Mapping[str, Any],
    renewed: Collection[str] = (),
) -> Written:
    """Bring the committed results of a study up to date; writes nothing that says the same.

    Rows that the study no longer asks for move to `superseded.csv`: they count as done when it
    asks for them again.

    Args:
        found: the study's cells.
        record: what the study's data and initial weights turned out to be.
        renewed: keys that were trained anew; their predictions are written again.
    """
    folder = study_folder(study, results)
    shelf = Shelf(Path(runs), Path(results))
    rows = [row for row in study_rows(found, shelf) if row["status"] != "missing"]
    found = [cell for cell in found if cell.key]
    complete = all((folder / name).exists() for name in (CURVES, "meta.json"))
    if rows == shelf.rows(folder / TRIALS) and (complete or not rows):
        return Written(folder=folder, changed=False)
    folder.mkdir(parents=True, exist_ok=True)
    _write_superseded(folder, rows)
    write_rows(folder / TRIALS, rows)
    _write_curves(folder, found, shelf, Path(runs), Path(results))
    _write_predictions(folder, rows, Path(runs), Path(results), renewed)
    write_meta(folder, found, rows, record)
    return Written(folder=folder, changed=True)


def _write_superseded(folder: Path, rows: Iterable[Row]) -> None:
    asked = {(row["key"], row["variant_name"]) for row in rows}
    before = read_rows(folder / SUPERSEDED) + read_rows(folder / TRIALS)
    left = [
        row
        for row in best_of_each(before)
        if (row["key"], row["variant_name"]) not in asked and row["status"] == "done"
    ]
    if left or (folder / SUPERSEDED).exists():
        write_rows(folder / SUPERSEDED, left)


def _write_curves(folder: Path, cells: list[Cell], shelf: Shelf, runs: Path, results: Path) -> None:
    """Curves of finished trials; those that the study no longer asks for stay."""
    done = [cell for cell in cells if shelf.find(cell.key).done]
    kept = read_curves(folder / CURVES)
    kept = kept[~kept["key"].isin({cell.key for cell in done})]
    committed = committed_curves(results)
    now = study_curves(done, runs, committed, open_keys(done, shelf))
    write_curves(folder / CURVES, [kept, now])


def _write_predictions(
    folder: Path, rows: Iterable[Row], runs: Path, results: Path, renewed: Collection[str]
) -> None:
    """A compact file for each finished trial, so that two machines never write the same one."""
    (folder / PREDICTIONS).mkdir(exist_ok=True)
    copies = {path.name: path for path in sorted(results.glob(f"*/{PREDICTIONS}/*.npz"))}
    present = {path.name for path in (folder / PREDICTIONS).iterdir() if path.stem not in renewed}
    for key in sorted({row["key"] for row in rows if _is_evidence(row)}):
        name = f"{key}.npz"
        if name in present:
            continue
        if (source := runs / key / "predictions.npz").exists():
            write_atomic(folder / PREDICTIONS / name, compact(source), durable=False)
        elif name in copies:
            write_atomic(folder / PREDICTIONS / name, copies[name].read_bytes(), durable=False)


def _is_evidence(row: Row) -> bool:
    """Whether a row's predictions on test are kept: those of tuning trials answer nothing."""
    return row["status"] == "done" and row.get("role") != "tune"


def compact(path: Path) -> bytes:
    """A predictions.npz with the smallest integers that hold its classes, and half floats."""
    packed: dict[str, Any] = {}
    with np.load(path) as arrays:
        for name, array in arrays.items():
            is_float = array.dtype.kind == "f"
            smallest = np.float16 if is_float else np.min_scalar_type(array.max(initial=0))
            packed[name] = array.astype(smallest)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **packed)
    return buffer.getvalue()
