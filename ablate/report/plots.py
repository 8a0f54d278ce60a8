"""The figures of a study, by kind; each is drawn from rows, curves and tuning trials alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.errors import AblateError, ResultsError, unknown
from ablate.report import style
from ablate.report.cost_plots import accuracy_macs, accuracy_params
from ablate.report.data_plots import data_scaling, failures
from ablate.report.effect_plots import factor_effects
from ablate.report.generalization import generalization_capacity
from ablate.report.importances import has_importances, importances
from ablate.report.learning import learning_curves
from ablate.report.pareto import has_costs, pareto
from ablate.report.sensitivity import sensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ablate.study.spec import Study

Draw = Callable[..., Any]
"""Takes the study, rows and curves; those of `_OF_TUNING` the study and its tuning trials."""

PLOT_KINDS: Mapping[str, Draw] = {
    "generalization_capacity": generalization_capacity,
    "curves": learning_curves,
    "effects": factor_effects,
    "accuracy_params": accuracy_params,
    "accuracy_macs": accuracy_macs,
    "pareto": pareto,
    "importances": importances,
    "sensitivity": sensitivity,
    "data_scaling": data_scaling,
    "failures": failures,
}
"""What `ablate plot --kind` draws; each function's docstring says what it shows."""


_OF_TUNING = ("sensitivity",)
_OF_SEARCH = ("pareto", "importances")
"""What a search has to show: each of its trials is a network of its own, and no variant."""


def showable(
    rows: pd.DataFrame, curves: pd.DataFrame, tuning: pd.DataFrame | None = None
) -> list[str]:
    """The kinds that these rows have something to show in."""
    done = rows[rows["status"] == "done"]
    shown = {
        "curves": not done.empty and not curves.empty,
        "pareto": has_costs(rows),
        "importances": has_importances(rows),
        "sensitivity": tuning is not None and bool((tuning["status"] == "done").any()),
        "data_scaling": done["train_images"].nunique() > 1,
        "failures": bool((rows["status"] == "failed").any()),
    }
    is_search = "role" in rows and bool((rows["role"] == "search").any())
    kinds = _OF_SEARCH if is_search else PLOT_KINDS
    return [kind for kind in kinds if shown.get(kind, not done.empty)]


def caption(kind: str) -> str:
    """What a figure shows, in one sentence."""
    return (PLOT_KINDS[kind].__doc__ or kind).strip().splitlines()[0]


def draw(
    kind: str,
    study: Study,
    rows: pd.DataFrame,
    curves: pd.DataFrame,
    tuning: pd.DataFrame | None = None,
) -> Figure:
    """The figure of one kind, not yet written; arguments as of `plot`.

    Raises:
        AblateError: an unknown kind.
        ResultsError: the study has no rows that this kind could show.
    """
    kind = kind.replace("-", "_")
    if kind not in PLOT_KINDS:
        raise AblateError(unknown("plot kind", kind, PLOT_KINDS))
    with style.house_style():
        if kind in _OF_TUNING:
            drawn: Figure = PLOT_KINDS[kind](study, tuning)
            return drawn
        if kind != "failures" and not (rows["status"] == "done").any():
            told = f"{study.name} has no finished trial to plot; `ablate run` trains them"
            raise ResultsError(told)
        figure: Figure = PLOT_KINDS[kind](study, rows, curves)
    return figure


def plot(
    kind: str,
    study: Study,
    rows: pd.DataFrame,
    curves: pd.DataFrame,
    path: str | Path,
    tuning: pd.DataFrame | None = None,
) -> Path:
    """Draw one kind of figure into a file whose suffix is pdf, svg or png.

    Args:
        kind: one of `PLOT_KINDS`.
        study: gives the variants and their order.
        rows: one row a trial, as `ablate.load_results` returns them.
        curves: one row an epoch of a trial.
        path: where it is written; missing folders are made.
        tuning: one row a tuning trial, where the study tunes settings.

    Returns:
        The path written.

    Raises:
        AblateError: an unknown kind or suffix.
        ResultsError: nothing to draw.
    """
    return style.save(draw(kind, study, rows, curves, tuning), Path(path))
