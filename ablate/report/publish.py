"""The evidence of a study as files beside its rows: tables and figures."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ablate.papers import load_paper_table
from ablate.report import style
from ablate.report.figure_data import Panel, figure_data, first_difference, to_text
from ablate.report.plots import draw, showable
from ablate.report.study_tables import study_table
from ablate.report.table import Table

if TYPE_CHECKING:
    from ablate.study.spec import Study

TABLE_FILES = {"md": "table.md", "latex": "table.tex"}


def evidence_table(study: Study, rows: pd.DataFrame) -> Table:
    """The study's table, beside its paper's values where the study names a paper's table."""
    return study_table(study, rows, load_paper_table(study.paper) if study.paper else None)


def publish(
    study: Study,
    rows: pd.DataFrame,
    curves: pd.DataFrame,
    folder: Path,
    tuning: pd.DataFrame | None = None,
) -> list[Path]:
    """Write the study's table (Markdown, LaTeX) and every figure that its rows can show.

    Beside each figure stand the numbers that it shows, as JSON: `drift` compares them.

    Args:
        rows: one row a trial; those of failed and missing trials are counted in the table.
        curves: one row an epoch of a trial.
        folder: where the files go; made where it is missing.
        tuning: one row a tuning trial, where the study tunes settings.

    Returns:
        The files, in the order written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in _tables(study, rows).items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    for kind in showable(rows, curves, tuning):
        figure = draw(kind, study, rows, curves, tuning)
        numbers = folder / f"{kind}.json"
        numbers.write_text(to_text(figure_data(figure)), encoding="utf-8")
        written += [style.save(figure, folder / f"{kind}.png"), numbers]
    return written


def _tables(study: Study, rows: pd.DataFrame) -> dict[str, str]:
    """The text of the table by the name of its file."""
    table = evidence_table(study, rows)
    return {
        name: table.render(format_).rstrip("\n") + "\n" for format_, name in TABLE_FILES.items()
    }


def drift(
    study: Study,
    rows: pd.DataFrame,
    curves: pd.DataFrame,
    folder: Path,
    tuning: pd.DataFrame | None = None,
) -> list[str]:
    """What in the files that `publish` wrote does not follow from these rows, a line each.

    Args:
        rows, curves, tuning: the committed ones of `folder`.
    """
    told = [_text_drift(folder / name, text) for name, text in _tables(study, rows).items()]
    kinds = showable(rows, curves, tuning)
    for kind in (kind for kind in kinds if kind != "importances"):
        # those are fitted by a random forest, whose numbers move with scikit-learn's version
        numbers = figure_data(draw(kind, study, rows, curves, tuning))
        told.append(_figure_drift(folder / f"{kind}.json", numbers))
    left = {path.stem for path in folder.glob("*.png")} - set(kinds)
    told += [f"{folder / name}.png: the rows give no such figure" for name in sorted(left)]
    return [line for line in told if line]


def _text_drift(path: Path, text: str) -> str:
    if not path.exists():
        return f"{path} is missing"
    found, expected = path.read_text(encoding="utf-8").splitlines(), text.splitlines()
    for number, (first, second) in enumerate(zip_longest(found, expected), start=1):
        if first != second:
            return f"{path}, line {number}: {first!r} stands there, but the rows give {second!r}"
    return ""


def _figure_drift(path: Path, numbers: list[Panel]) -> str:
    missing = [file for file in (path, path.with_suffix(".png")) if not file.exists()]
    if len(missing) == 2:
        return ""  # a kind that came after these results; the next `publish` writes it
    if missing:
        return f"{missing[0]} is missing"
    difference = first_difference(json.loads(path.read_text(encoding="utf-8")), numbers)
    return difference and f"{path}: {difference} that the rows give"
