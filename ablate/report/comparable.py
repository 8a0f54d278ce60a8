"""Whether a measured number may be set against a reported one, and if not, why."""

from __future__ import annotations

import pandas as pd

from ablate.papers import PaperTable, Recipe


def not_comparable(paper: PaperTable, done: pd.DataFrame, recipe: Recipe | None = None) -> str:
    """`not comparable: <dataset>, <epochs> epochs`, with what else differs; empty where nothing.

    Args:
        paper: the published table.
        done: the finished rows that are to stand beside one of its rows.
        recipe: of that row, where it differs from the table's.
    """
    wanted = recipe or paper.recipe
    if done.empty:
        return ""
    datasets = sorted(set(done["dataset"]))
    epochs = sorted({int(value) for value in done["epochs"]})
    sizes = sorted({int(value) for value in done["image_size"]})
    same_data = datasets == [wanted.data]
    same_epochs = wanted.epochs is None or epochs == [wanted.epochs]
    same_size = sizes == [wanted.image_size]
    if same_data and same_epochs and same_size:
        return ""
    reason = f"not comparable: {_listed(datasets)}, {_listed(epochs)} epochs"
    return reason if same_size else f"{reason}, {_listed(sizes)} pixels"


def _listed(items: list[str] | list[int]) -> str:
    return " and ".join(map(str, items))
