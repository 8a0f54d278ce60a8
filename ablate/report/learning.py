"""Learning curves: every seed faint, the mean of the seeds bold, its 95% interval as a band."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import special

from ablate.errors import ResultsError
from ablate.report import style
from ablate.report.generalization import series_of
from ablate.report.statistics import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ablate.study.spec import Study
    from ablate.study.variants import Variant

_PANELS = (
    ("val_top1", "Validation top-1 (%)"),
    ("train_top1", "Train top-1 (%), eval mode"),
    ("val_loss", "Validation loss"),
    ("train_loss", "Train loss, eval mode"),
)


def learning_curves(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Accuracy and loss by epoch, of validation and train, with seed bands."""
    panels = [panel for panel in _PANELS if panel[0] in curves and curves[panel[0]].notna().any()]
    if not panels:
        raise ResultsError(f"{study.name} has no learning curves (curves.csv is empty)")
    figure, axes = style.new_figure((len(panels) + 1) // 2, 2)
    for place, (column, title) in zip(axes, panels, strict=False):
        for index, variant in enumerate(study.variants):
            mine = curves[curves["variant_name"] == variant.name]
            _band(place, mine, column, index, _label(study, variant))
        place.set(xlabel="Epoch", ylabel=title)
        style.whole_numbers(place.xaxis)
        style.keep_possible(place, y=column)
    for unused in axes[len(panels) :]:
        unused.set_axis_off()
    note = "Faint: every seed. Bold: mean over seeds with its 95% interval."
    style.legend_below(figure, axes[0], note)
    figure.suptitle(f"{study.name}: learning curves", fontsize=10)
    return figure


def _label(study: Study, variant: Variant) -> str:
    series = [series_of(v) for v in study.variants]
    name = series_of(variant)
    return name if series.count(name) == 1 else variant.name


def _band(axes: Axes, curves: pd.DataFrame, column: str, index: int, label: str) -> None:
    table = curves.pivot_table(index="epoch", columns="key", values=column)
    if table.empty:
        return
    epochs = table.index.to_numpy(dtype=float)
    _seeds(axes, epochs, table, index)
    mean, half = _interval(table)
    axes.plot(epochs, mean, color=style.colour(index), ls=style.line(index), label=label)
    axes.fill_between(epochs, mean - half, mean + half, color=style.colour(index), alpha=0.12, lw=0)


def _seeds(axes: Axes, epochs: Floats, table: pd.DataFrame, index: int) -> None:
    """All seeds as one collection: thousands of lines of their own would take a minute."""
    from matplotlib.collections import LineCollection

    seeds = table.to_numpy(dtype=float).T
    lines = np.stack([np.broadcast_to(epochs, seeds.shape), seeds], axis=-1)
    axes.add_collection(LineCollection(list(lines), colors=style.colour(index), lw=0.5, alpha=0.3))


def _interval(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Mean over seeds and half of its 95% interval by epoch; no band where n < 2."""
    n = table.notna().sum(axis=1).to_numpy(dtype=float)
    sd = table.std(axis=1, ddof=1).to_numpy(dtype=float)
    quantile = special.stdtrit(np.maximum(n - 1, 1), 0.975)
    half = np.where(n > 1, quantile * sd / np.sqrt(n), np.nan)
    return table.mean(axis=1).to_numpy(dtype=float), half
