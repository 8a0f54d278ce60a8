"""Which test images each finished trial classified rightly, from its predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ablate.errors import ResultsError
from ablate.report.paired import Correct
from ablate.study.store import load_predictions


def correct_of(
    rows: pd.DataFrame, *, results: str | Path, runs: str | Path
) -> Callable[[str], Correct] | None:
    """For a trial's key, whether each test image was classified rightly.

    Returns:
        None where a finished trial has no predictions here: a comparison of some of the seeds
        would not be the study's.
    """
    found: dict[str, Correct] = {}
    for key in rows.loc[rows["status"] == "done", "key"]:
        try:
            predictions = load_predictions(key, results, runs)
        except ResultsError:
            return None
        found[key] = predictions["label"] == predictions["prediction"]
    return found.__getitem__ if found else None
