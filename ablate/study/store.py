"""Rows from run folders and committed results: the one place that reads them.

Reading needs neither torch nor the images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.errors import ResultsError, unknown
from ablate.study.cells import Cell, StudyLike
from ablate.study.curves import (
    CURVES,
    committed_curves,
    read_curves,
    read_metrics,
    sort_curves,
    study_curves,
)
from ablate.study.environment import code_digest
from ablate.study.folder import RunFolder
from ablate.study.resolution import recorded
from ablate.study.rows import (
    CELL_TYPES,
    COLUMNS,
    EXTRA,
    Row,
    best_of_each,
    read_rows,
)
from ablate.study.shelf import TRIALS, Shelf

PREDICTIONS = "predictions"

PathLike = str | Path


def study_folder(study: StudyLike, results: PathLike) -> Path:
    """Where the committed results of a study lie."""
    return Path(results) / study.full_name


def recorded_cells(study: StudyLike, results: PathLike, runs: PathLike = "runs") -> list[Cell]:
    """The cells that a study reports, with its data as it was when its results were written."""
    return [cell for cell in known_cells(study, results, runs) if cell.role != "tune"]


def known_cells(study: StudyLike, results: PathLike, runs: PathLike = "runs") -> list[Cell]:
    """As `recorded_cells`, with the trials of a tuned study's tuning behind them."""
    found = recorded(study, study_folder(study, results)).cells
    return following_cells(study, found, Path(runs), Path(results))


def following_cells(study: StudyLike, cells: list[Cell], runs: Path, results: Path) -> list[Cell]:
    """The cells of a study with those that follow from others.

    Of a tuned study the final trials, as far as they are chosen, come first; of a search these
    are the trials that it has proposed so far.
    """
    if study.search is not None:
        from ablate.study.search_rows import search_cells

        return search_cells(study, cells[0], runs=runs, results=results)
    if study.tune is None:
        return cells
    from ablate.study.tuning_rows import choose, final_cells, tried_trials

    tried = tried_trials(cells, Shelf(runs, results))
    return [*final_cells(study, choose(tried), cells), *cells]


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
        found = recorded_cells(study_or_folder, results, runs)
        return frame(study_rows(found, Shelf(Path(runs), Path(results))))
    folder = results_folder(study_or_folder, Path(results))
    rows = [row for row in read_rows(folder / TRIALS) if row.get("role") != "tune"]
    return frame(best_of_each(rows))


def load_curves(
    study_or_folder: StudyLike | PathLike, results: PathLike = "results", runs: PathLike = "runs"
) -> pd.DataFrame:
    """One row a trial and epoch, with the columns `CURVE_COLUMNS`; as `load_results`."""
    if not isinstance(study_or_folder, (str, Path)):
        found = [cell for cell in recorded_cells(study_or_folder, results, runs) if cell.key]
        shelf = Shelf(Path(runs), Path(results))
        committed = committed_curves(Path(results))
        return study_curves(found, Path(runs), committed, open_keys(found, shelf))
    folder = results_folder(study_or_folder, Path(results))
    keys = {row["key"] for row in read_rows(folder / TRIALS) if row.get("role") != "tune"}
    curves = read_curves(folder / CURVES).drop_duplicates(["key", "variant_name", "epoch"])
    return sort_curves(curves[curves["key"].isin(keys)])


def open_keys(cells: Iterable[Cell], shelf: Shelf) -> set[str]:
    """Trials without a committed result that stands."""
    return {
        cell.key for cell in cells if (found := shelf.find(cell.key)).row is None or not found.done
    }


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


def results_folder(name: PathLike, results: Path) -> Path:
    """The folder of committed results of that name, or at that path.

    Raises:
        ResultsError: there is none; says the nearest.
    """
    for folder in (results / name, Path(name)):
        if (folder / TRIALS).exists():
            return folder
    names = sorted(path.parent.name for path in results.glob(f"*/{TRIALS}"))
    raise ResultsError(f"{results}: {unknown('results', str(name), names)}")


def study_rows(cells: Iterable[Cell], shelf: Shelf) -> list[Row]:
    """One row for each cell, sorted by key."""
    rows = [_row(cell, shelf) for cell in cells]
    return sorted(rows, key=lambda row: (row["key"], row["variant_name"]))


def _row(cell: Cell, shelf: Shelf) -> Row:
    found = shelf.find(cell.key)
    named = label(cell)
    if found.row is not None:
        measured = {name: value for name, value in found.row.items() if name not in EXTRA}
        return {**measured, **named}
    if found.folder is not None and found.result is not None:
        return {**named, **found.result.model_dump(), **_provenance(found.folder)}
    if found.folder is not None and found.failure is not None:
        failure = found.failure
        told = {"failure": failure.kind, "failure_message": failure.message}
        return {**named, "status": "failed", **told, **_provenance(found.folder)}
    if cell.pruned_epoch is not None:
        return {**named, **_stopped_at(cell, shelf)}
    return {**named, "status": "missing"}


def _stopped_at(cell: Cell, shelf: Shelf) -> Row:
    """What a trial that its search stopped had reached."""
    found: Row = {"status": "pruned", "pruned_epoch": cell.pruned_epoch}
    path = shelf.runs / cell.key / "metrics.csv"
    if path.exists():
        curve = read_metrics(path)
        at = curve[curve["epoch"] == cell.pruned_epoch]
        for name in ("val_top1", "val_loss"):
            if not at.empty and not pd.isna(at[name].iloc[0]):
                found[name] = float(at[name].iloc[0])
    else:
        before = shelf.pruned.get(cell.key) or {}
        found |= {name: before.get(name) for name in ("val_top1", "val_loss")}
    return found


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
        **_extra(cell),
    }


def _extra(cell: Cell) -> Row:
    """The columns that only tuned studies and searches have."""
    if not cell.role:
        return {}
    settings = json.loads(json.dumps(dict(cell.settings)))
    found = {"role": cell.role, "settings": settings or None, "number": cell.number}
    return {name: value for name, value in found.items() if value is not None}


def _provenance(folder: RunFolder) -> Row:
    then = folder.environment()
    return {
        "code": code_digest(then["code"]) if then.get("code") else None,
        "fingerprint": then.get("fingerprint"),
    }


_DTYPES = {int: "Int64", float: "float64"}


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with the columns `COLUMNS`, typed even where it is empty.

    Those of tuned studies and searches have the columns of `EXTRA` that they need, too.
    """
    listed = list(rows)
    columns: dict[str, Any] = {}
    extra = [name for name in EXTRA if any(name in row for row in listed)]
    for name in (*COLUMNS, *extra):
        values = [row.get(name) for row in listed]
        columns[name] = pd.Series(values, dtype=_DTYPES.get(CELL_TYPES[name], "object"))
    return pd.DataFrame(columns)
