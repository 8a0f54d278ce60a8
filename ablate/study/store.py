"""Rows from run folders and committed results, and back: the one place that reads and writes them.

Reading needs neither torch nor the images.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.config import TrialResult
from ablate.errors import ResultsError, unknown
from ablate.study.cells import Cell, StudyLike
from ablate.study.environment import code_digest
from ablate.study.files import write_atomic
from ablate.study.folder import RunFolder, run_folders
from ablate.study.ledger import Failure
from ablate.study.meta import write_meta
from ablate.study.resolution import recorded
from ablate.study.rows import (
    CELL_TYPES,
    COLUMNS,
    CURVE_COLUMNS,
    Row,
    best_of_each,
    read_curve_rows,
    read_rows,
    write_curve_rows,
    write_rows,
)

TRIALS, SUPERSEDED, CURVES, PREDICTIONS = (
    "trials.csv", "superseded.csv", "curves.csv", "predictions",
)  # fmt: skip

PathLike = str | Path


def study_folder(study: StudyLike, results: PathLike) -> Path:
    """Where the committed results of a study lie."""
    return Path(results) / study.full_name


def recorded_cells(study: StudyLike, results: PathLike) -> list[Cell]:
    """The cells of a study, with its data as it was when its results were last written."""
    return recorded(study, study_folder(study, results)).cells


def load_results(
    study_or_folder: StudyLike | PathLike, results: PathLike = "results", runs: PathLike = "runs"
) -> pd.DataFrame:
    """One row a trial, sorted by key.

    Args:
        study_or_folder: a study: each of its trials, with those that failed or are missing, from
            run folders and committed rows; or the name of, or path to, a folder of committed
            results: the rows that stand there.
        results: the folder of committed results.
        runs: the folder of run folders.

    Returns:
        The columns `COLUMNS`; `variant` holds dicts; `status` is done, failed or missing.

    Raises:
        ResultsError: there are no such results, or a file is damaged.
    """
    if not isinstance(study_or_folder, (str, Path)):
        found = recorded_cells(study_or_folder, results)
        return frame(study_rows(found, Path(runs), committed_rows(results)))
    folder = _results_folder(study_or_folder, Path(results))
    return frame(best_of_each(read_rows(folder / TRIALS)))


def load_curves(
    study_or_folder: StudyLike | PathLike, results: PathLike = "results", runs: PathLike = "runs"
) -> pd.DataFrame:
    """One row a trial and epoch, with the columns `CURVE_COLUMNS`; as `load_results`."""
    if isinstance(study_or_folder, (str, Path)):
        folder = _results_folder(study_or_folder, Path(results))
        keys = {row["key"] for row in read_rows(folder / TRIALS)}
        rows = [row for row in read_curve_rows(folder / CURVES) if row["key"] in keys]
    else:
        found = recorded_cells(study_or_folder, results)
        rows = _study_curves(found, Path(runs), _committed_curves(Path(results)))
    curves = pd.DataFrame(rows, columns=list(CURVE_COLUMNS))
    return curves.sort_values(["key", "variant_name", "epoch"], ignore_index=True)


def load_predictions(
    key: str, results: PathLike = "results", runs: PathLike = "runs"
) -> dict[str, np.ndarray[Any, Any]]:
    """The label, prediction and confidence of a finished trial for each test image.

    Raises:
        ResultsError: there are none for that key.
    """
    places = [Path(runs) / key / "predictions.npz"]
    places += sorted(Path(results).glob(f"*/{PREDICTIONS}/{key}.npz"))
    for place in places:
        if place.exists():
            with np.load(place) as arrays:
                return dict(arrays)
    raise ResultsError(f"no predictions of {key} under {runs} or {results}")


def _results_folder(name: PathLike, results: Path) -> Path:
    for folder in (results / name, Path(name)):
        if (folder / TRIALS).exists():
            return folder
    names = sorted(path.parent.name for path in results.glob(f"*/{TRIALS}"))
    raise ResultsError(f"{results}: {unknown('results', str(name), names)}")


def committed_rows(results: PathLike) -> dict[str, Row]:
    """The best row of each key in all committed results: a result before a failure."""
    found: list[Row] = []
    for name in (SUPERSEDED, TRIALS):
        for path in sorted(Path(results).glob(f"*/{name}")):
            found += ({**row, "variant_name": None} for row in read_rows(path))
    return {row["key"]: row for row in best_of_each(found)}


def study_rows(cells: Iterable[Cell], runs: Path, committed: Mapping[str, Row]) -> list[Row]:
    """One row for each cell, from its run folder or else from a committed row, sorted by key."""
    present = {folder.key: folder for folder in run_folders(runs)}
    rows = [_row(cell, present.get(cell.key), committed.get(cell.key)) for cell in cells]
    return sorted(rows, key=lambda row: (row["key"], row["variant_name"]))


def _row(cell: Cell, folder: RunFolder | None, committed: Row | None) -> Row:
    result, failure = verdict(folder) if folder is not None else (None, None)
    if folder is not None and result is not None:
        return {**label(cell), **result.model_dump(), **_provenance(folder)}
    if committed is not None and committed["status"] == "done":
        return {**committed, **label(cell), "status": "done"}
    if folder is not None and failure is not None:
        return {**label(cell), **_failed(failure), **_provenance(folder)}
    if committed is not None:
        return {**committed, **label(cell), "status": committed["status"]}
    return {**label(cell), "status": "missing"}


def verdict(folder: RunFolder) -> tuple[TrialResult | None, Failure | None]:
    """The result or the failure of a run folder; a damaged file counts as none."""
    try:
        result = folder.result()
    except ValueError:
        result = None
    try:
        return result, folder.failure() if result is None else None
    except ValueError:
        return result, None


def label(cell: Cell) -> Row:
    """The columns that say which cell a row is for."""
    return {
        "key": cell.key,
        "study": cell.study,
        "profile": cell.profile,
        "variant_name": cell.variant_name,
        "variant": json.loads(json.dumps(dict(cell.variant))),  # as it reads back
        "seed": cell.trial.seed,
        "arch": cell.trial.arch,
    }


def _failed(failure: Failure) -> Row:
    return {"status": "failed", "failure": failure.kind, "failure_message": failure.message}


def _provenance(folder: RunFolder) -> Row:
    then = folder.environment()
    return {
        "code": code_digest(then["code"]) if then.get("code") else None,
        "fingerprint": then.get("fingerprint"),
    }


_DTYPES = {int: "Int64", float: "float64"}


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with the columns `COLUMNS`, typed even where it is empty."""
    listed = list(rows)
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        values = [row.get(name) for row in listed]
        columns[name] = pd.Series(values, dtype=_DTYPES.get(CELL_TYPES[name], "object"))
    return pd.DataFrame(columns)


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
    rows = study_rows(found, Path(runs), committed_rows(results))
    rows = [row for row in rows if row["status"] != "missing"]
    if not rows:
        return Written(folder=folder, changed=False)
    folder.mkdir(parents=True, exist_ok=True)
    _write_superseded(folder, rows)
    changed = write_rows(folder / TRIALS, rows)
    if changed:
        _write_curves(folder, found, rows, Path(runs), Path(results))
        _write_predictions(folder, rows, Path(runs), Path(results), renewed)
        write_meta(folder, found, rows, record)
    return Written(folder=folder, changed=changed)


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


def _write_curves(
    folder: Path, found: list[Cell], rows: list[Row], runs: Path, results: Path
) -> None:
    """Curves of finished trials; those that the study no longer asks for stay."""
    done = {row["key"] for row in rows if row["status"] == "done"}
    asked = [cell for cell in found if cell.key in done]
    committed = _committed_curves(results)
    kept = [row for row in read_curve_rows(folder / CURVES) if row["key"] not in done]
    write_curve_rows(folder / CURVES, [*kept, *_study_curves(asked, runs, committed)])


def _committed_curves(results: Path) -> dict[str, list[Row]]:
    """The curve of each key in all committed results."""
    found: dict[str, dict[int, Row]] = {}
    for path in sorted(results.glob(f"*/{CURVES}")):
        for row in read_curve_rows(path):
            found.setdefault(row["key"], {})[row["epoch"]] = row
    return {key: list(epochs.values()) for key, epochs in found.items()}


def _study_curves(
    found: Iterable[Cell], runs: Path, committed: Mapping[str, list[Row]]
) -> list[Row]:
    present = {folder.key: folder.path for folder in run_folders(runs)}
    rows: list[Row] = []
    for cell in found:
        curve: Iterable[Row] = committed.get(cell.key, [])
        if cell.key in present and (present[cell.key] / "metrics.csv").exists():
            curve = _metrics(present[cell.key] / "metrics.csv")
        named = {"key": cell.key, "variant_name": cell.variant_name, "seed": cell.trial.seed}
        rows += ({**row, **named} for row in curve)
    return rows


def _metrics(path: Path) -> Iterator[Row]:
    """The rows of a run folder's `metrics.csv`; a torn last line is left out."""
    text = path.read_text()
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        numbers = {name: float(row[name]) if row.get(name) else None for name in CURVE_COLUMNS[4:]}
        yield {"epoch": int(row["epoch"]), **numbers}


def _write_predictions(
    folder: Path, rows: Iterable[Row], runs: Path, results: Path, renewed: Collection[str]
) -> None:
    """A compact file for each finished trial, so that two machines never write the same one."""
    (folder / PREDICTIONS).mkdir(exist_ok=True)
    present = {path.name for path in (folder / PREDICTIONS).iterdir() if path.stem not in renewed}
    for key in sorted({row["key"] for row in rows if row["status"] == "done"}):
        name = f"{key}.npz"
        if name in present:
            continue
        if (source := runs / key / "predictions.npz").exists():
            write_atomic(folder / PREDICTIONS / name, compact(source), durable=False)
        elif copies := sorted(results.glob(f"*/{PREDICTIONS}/{name}")):
            write_atomic(folder / PREDICTIONS / name, copies[0].read_bytes(), durable=False)


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
