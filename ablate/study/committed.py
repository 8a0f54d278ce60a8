"""All committed results together: what a paper's table reads."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ablate.errors import StudyError
from ablate.study.shelf import TRIALS
from ablate.study.spec import load_study
from ablate.study.store import load_results


def load_all_results(results: str | Path = "results") -> dict[str, pd.DataFrame]:
    """The committed rows of every study, by the name of its results folder.

    A column `paper` names the table that the study rebuilds, or None where its file is not
    found any more.

    Raises:
        ResultsError: a file is damaged.
    """
    folders = sorted(path.parent for path in Path(results).glob(f"*/{TRIALS}"))
    return {folder.name: _with_paper(load_results(folder)) for folder in folders}


def _with_paper(rows: pd.DataFrame) -> pd.DataFrame:
    papers = {name: _paper(name) for name in rows["study"].dropna().unique()}
    return rows.assign(paper=rows["study"].map(papers))


def _paper(study: str) -> str | None:
    try:
        return load_study(study).paper
    except StudyError:
        return None
