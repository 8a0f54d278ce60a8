"""The trials of a search as cells, from its storage or from committed rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.study.cells import Cell, StudyLike
from ablate.study.meta import read_meta
from ablate.study.rows import Row, read_rows
from ablate.study.search_parse import FOLDER, Search
from ablate.study.shelf import TRIALS
from ablate.study.tuning import with_settings

if TYPE_CHECKING:
    from ablate.study.search_storage import Proposed


def search_cell(
    template: Cell, number: int, arch: str, point: Mapping[str, Any], search: Search
) -> Cell:
    """The cell of one network of a search.

    Args:
        template: the base's, with its data resolved.
        point: where the network lies in the space.
    """
    settings = search.space.train_settings(point)
    train = with_settings(template.trial.train, settings)
    trial = template.trial.model_copy(update={"arch": arch, "train": train})
    return Cell(
        study=template.study, profile=template.profile, variant_name=f"trial {number}",
        variant=dict(point), trial=trial, key=trial.key, role="search", number=number,
    )  # fmt: skip


def proposed_cells(template: Cell, proposed: Iterable[Proposed], search: Search) -> list[Cell]:
    """The cells of what a search has proposed, by number."""
    found = []
    for one in proposed:
        cell = search_cell(template, one.number, one.arch, one.point, search)
        found.append(replace(cell, pruned_epoch=one.pruned_epoch))
    return found


def search_cells(study: StudyLike, template: Cell, *, runs: Path, results: Path) -> list[Cell]:
    """What a search has proposed so far, by number; from its storage where that is there.

    Raises:
        ResultsError: a storage that the study names does not answer.
    """
    search = study.search
    assert search is not None
    if search.storage is None and not sqlite_file(study, runs).exists():
        return committed_cells(template, committed_search_rows(study, results), search)
    found = _stored(study, search, template, runs)
    if not found:
        return committed_cells(template, committed_search_rows(study, results), search)
    return proposed_cells(template, found, search)


def _stored(study: StudyLike, search: Search, template: Cell, runs: Path) -> list[Proposed]:
    from ablate.study.search_database import NotSearchedYet
    from ablate.study.search_storage import SearchStorage

    try:
        storage = SearchStorage(search, study.full_name, template.trial, runs, create=False)
    except NotSearchedYet:
        return []
    try:
        return storage.proposed()
    finally:
        storage.close()


def sqlite_file(study: StudyLike, runs: Path) -> Path:
    """Where a search without `storage:` keeps its Optuna study."""
    return runs / FOLDER / f"{study.full_name}.db"


def committed_search_rows(study: StudyLike, results: Path) -> list[Row]:
    """The committed rows of this very search, by number; none of one with another digest."""
    assert study.search is not None
    folder = results / study.full_name
    if (read_meta(folder).get("search") or {}).get("digest") != study.search.digest:
        return []
    rows = (row for row in read_rows(folder / TRIALS) if row.get("role") == "search")
    return sorted(rows, key=lambda row: row["number"])


def committed_cells(template: Cell, rows: Iterable[Row], search: Search) -> list[Cell]:
    """Cells from committed rows; those of another recipe or other images are left out."""
    found = []
    for row in rows:
        cell = search_cell(template, row["number"], row["arch"], row["variant"], search)
        if cell.key == row["key"]:
            found.append(replace(cell, pruned_epoch=row.get("pruned_epoch")))
    return found
