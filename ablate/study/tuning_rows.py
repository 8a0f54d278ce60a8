"""What tuning measured, what it chose for each variant, and the final trials that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.config import TrialConfig
from ablate.study.cells import Cell, StudyLike
from ablate.study.rows import Row, read_rows
from ablate.study.shelf import TRIALS, Shelf

MACHINE = ("killed", "error")
"""Failures that say nothing about the recipe: the choice waits until the trial is run again."""

TUNING_COLUMNS = (
    "variant_name", "variant", "candidate", "settings", "seed", "status", "failure",
    "val_top1", "val_loss", "chosen", "key",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One trial of the tuning, as far as it is known.

    Args:
        cell: which.
        status: "done", "failed" or "missing".
        failure: kind of failure, or None.
        val_top1, val_loss: on the validation split at the last epoch, or None.
    """

    cell: Cell
    status: str
    failure: str | None = None
    val_top1: float | None = None
    val_loss: float | None = None

    @property
    def open(self) -> bool:
        """Whether the choice has to wait for this trial."""
        return self.status == "missing" or self.failure in MACHINE


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What tuning chose for a variant.

    Args:
        settings: of the best candidate; None while trials are open, or where every one failed.
        best: a cell of that candidate.
        open: trials that the choice waits for.
        failures: how many trials failed, by kind.
    """

    variant_name: str
    settings: Mapping[str, Any] | None
    best: Cell | None
    open: int
    failures: Mapping[str, int]

    @property
    def reason(self) -> str:
        """Why nothing was chosen."""
        if self.open:
            return f"waits for {self.open} tuning {'trial' if self.open == 1 else 'trials'}"
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.failures.items())
        return f"every tuning trial failed ({kinds})"


def tried_trials(cells: Iterable[Cell], shelf: Shelf) -> list[Tried]:
    """What is known of each tuning trial."""
    return [_tried(cell, shelf) for cell in cells if cell.role == "tune"]


def _tried(cell: Cell, shelf: Shelf) -> Tried:
    found = shelf.find(cell.key)
    if found.result is not None:
        measured = found.result
        return Tried(
            cell=cell, status="done", val_top1=measured.val_top1, val_loss=measured.val_loss
        )
    if found.failure is not None:
        return Tried(cell=cell, status="failed", failure=found.failure.kind)
    if found.row is not None:
        row = found.row
        return Tried(
            cell=cell, status=row["status"], failure=row.get("failure"),
            val_top1=row.get("val_top1"), val_loss=row.get("val_loss"),
        )  # fmt: skip
    return Tried(cell=cell, status="missing")


def choose(tried: Iterable[Tried]) -> dict[str, Choice]:
    """The best candidate of each variant, by the variant's name.

    Best is the highest mean top-1 on `val` at the last epoch, over the tuning seeds. A candidate
    of which fewer seeds finished never beats one of which more did; of equals the first stands.
    Nothing is chosen before every trial of the variant has ended: all get the same budget.
    """
    variants: dict[str, list[Tried]] = {}
    for trial in tried:
        variants.setdefault(trial.cell.variant_name, []).append(trial)
    return {name: _choice(name, own) for name, own in variants.items()}


def _choice(name: str, own: Sequence[Tried]) -> Choice:
    candidates: dict[str, list[Tried]] = {}
    for trial in own:
        candidates.setdefault(str(dict(trial.cell.settings)), []).append(trial)
    best = max(candidates.values(), key=_score)
    waiting = sum(trial.open for trial in own)
    found = None if waiting or not _score(best)[0] else best[0].cell
    return Choice(
        variant_name=name, settings=found.settings if found else None, best=found, open=waiting,
        failures=dict(Counter(trial.failure for trial in own if trial.failure)),
    )  # fmt: skip


def _score(trials: Sequence[Tried]) -> tuple[int, float]:
    known = [trial.val_top1 for trial in trials if trial.val_top1 is not None]
    return len(known), sum(known) / len(known) if known else 0.0


def final_cells(
    study: StudyLike, choices: Mapping[str, Choice], cells: Iterable[Cell]
) -> list[Cell]:
    """The final trials of a tuned study, one seed after another.

    Those of a variant without a choice have no key: nothing stands in for what tuning decides.

    Args:
        cells: the tuning cells.
    """
    firsts: dict[str, Cell] = {}
    for cell in cells:
        firsts.setdefault(cell.variant_name, cell)
    return [
        _final(choices[name], first, seed) for seed in study.seeds for name, first in firsts.items()
    ]


def _final(choice: Choice, first: Cell, seed: int) -> Cell:
    source = choice.best or first
    trial: TrialConfig = source.trial.model_copy(update={"seed": seed})
    if choice.best is None:
        return Cell(
            study=first.study, profile=first.profile, variant_name=first.variant_name,
            variant=first.variant, trial=trial, key="", role="final",
        )  # fmt: skip
    return source.with_trial(trial, "final", choice.best.settings)


def load_tuning(
    study_or_folder: StudyLike | str | Path,
    results: str | Path = "results",
    runs: str | Path = "runs",
) -> pd.DataFrame:
    """One row for each trial of a tuned study's tuning: what its sensitivity curves are drawn from.

    Args:
        study_or_folder: a study with `tune:`; or the name of, or path to, a folder of committed
            results.
        results: the folder of committed results.
        runs: the folder of run folders.

    Returns:
        The columns `TUNING_COLUMNS` and one more for each tuned setting ("train.lr"), in the
        order variant (the study's; by name for a folder), candidate, seed. `variant` and
        `settings` hold dicts; `candidate` counts from 0 and means the same settings for every
        variant; `status` is done, failed or missing; `val_top1` (percent) and `val_loss` are of
        the last epoch on `val`, NaN where not done;
        `chosen` is True in the rows of the candidate that the variant's final seeds use. Empty,
        with these columns, where the study tunes nothing.

    Raises:
        ResultsError: there are no such results, or a file is damaged.
    """
    if isinstance(study_or_folder, (str, Path)):
        return _committed(study_or_folder, Path(results))
    from ablate.study.store import known_cells

    shelf = Shelf(Path(runs), Path(results))
    tried = tried_trials(known_cells(study_or_folder, results, runs), shelf)
    choices = choose(tried)
    rows = [
        {
            "variant_name": trial.cell.variant_name,
            "variant": dict(trial.cell.variant),
            "settings": dict(trial.cell.settings),
            "seed": trial.cell.trial.seed,
            "status": trial.status,
            "failure": trial.failure,
            "val_top1": trial.val_top1,
            "val_loss": trial.val_loss,
            "chosen": choices[trial.cell.variant_name].settings == trial.cell.settings,
            "key": trial.cell.key,
        }
        for trial in tried
    ]
    return _frame(rows, [dict(settings) for settings in _candidates(study_or_folder)])


def _candidates(study: StudyLike) -> Sequence[Mapping[str, Any]]:
    return study.tune.candidates if study.tune else ()


def _committed(name: str | Path, results: Path) -> pd.DataFrame:
    from ablate.study.store import results_folder

    rows = read_rows(results_folder(name, results) / TRIALS)
    chosen = {row["variant_name"]: row["settings"] for row in rows if row.get("role") == "final"}
    tuned = sorted(
        (row for row in rows if row.get("role") == "tune"), key=lambda row: row["variant_name"]
    )
    listed = [
        {**row, "chosen": chosen.get(row["variant_name"]) == row["settings"]} for row in tuned
    ]
    candidates = sorted({tuple(row["settings"].items()) for row in tuned}, key=_order)
    return _frame(listed, [dict(settings) for settings in candidates])


def _order(settings: tuple[tuple[str, Any], ...]) -> tuple[tuple[bool, Any], ...]:
    """Numbers by size, then text."""
    return tuple(
        (isinstance(value, str), value if isinstance(value, str) else float(value or 0))
        for _, value in settings
    )


def _frame(rows: Sequence[Row], candidates: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a typed table, by variant (as they come), candidate and seed."""
    names = list(candidates[0]) if candidates else []
    variants = list(dict.fromkeys(row["variant_name"] for row in rows))
    for row in rows:
        row["candidate"] = list(candidates).index(row["settings"])
    listed = sorted(
        rows, key=lambda r: (variants.index(r["variant_name"]), r["candidate"], r["seed"])
    )
    kinds = {"candidate": "int64", "seed": "int64", "val_top1": "float64", "val_loss": "float64",
             "chosen": "bool"}  # fmt: skip
    columns: dict[str, Any] = {
        name: pd.Series([row.get(name) for row in listed], dtype=kinds.get(name, "object"))
        for name in TUNING_COLUMNS
    }
    for name in names:
        columns[name] = pd.Series([row["settings"][name] for row in listed])
    return pd.DataFrame(columns)
