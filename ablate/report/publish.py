"""The evidence of a study as files beside its rows: tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ablate.papers import load_paper_table
from ablate.report.plots import plot, showable
from ablate.report.study_tables import study_table
from ablate.report.table import Table

if TYPE_CHECKING:
    from ablate.study.spec import Study

TABLE_FILES = {"md": "table.md", "latex": "table.tex"}


def evidence_table(study: Study, rows: pd.DataFrame) -> Table:
    """The study's table, beside its paper's values where the study names a paper's table."""
    return study_table(study, rows, load_paper_table(study.paper) if study.paper else None)


def publish(study: Study, rows: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the study's table (Markdown, LaTeX) and every figure that its rows can show.

    Args:
        rows: one row a trial; those of failed and missing trials are counted in the table.
        curves: one row an epoch of a trial.
        folder: where the files go; made where it is missing.

    Returns:
        The files, in the order written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = evidence_table(study, rows)
    written = []
    for format_, name in TABLE_FILES.items():
        path = folder / name
        path.write_text(table.render(format_).rstrip("\n") + "\n", encoding="utf-8")
        written.append(path)
    return written + [
        plot(kind, study, rows, curves, folder / f"{kind}.png") for kind in showable(rows, curves)
    ]
