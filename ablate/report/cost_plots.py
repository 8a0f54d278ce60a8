"""Accuracy against parameters and against multiply-adds, with the Pareto front.

Beside what was measured stand the paper's reported points (CoaT Figure 1, CoAtNet Figures 2 and
3), in a panel of their own: they are of other data and recipes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd

from ablate.papers import Scaling, reported_scaling
from ablate.report import style
from ablate.report.generalization import groups
from ablate.report.summaries import summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ablate.study.spec import Study

_OTHERS = "#999999"
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
COSTS = {"params": "Parameters", "macs": "Multiply-adds"}
"""Titles of what a network costs, by column of the rows."""


def accuracy_params(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Test top-1 against parameters, with the Pareto front; beside it the paper's points."""
    return _accuracy_cost(study, rows, "params", "params")


def accuracy_macs(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Test top-1 against multiply-adds, with the Pareto front; beside it the paper's points."""
    return _accuracy_cost(study, rows, "macs", "flops")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, accuracy) that no other one beats in both, by cost.

    >>> pareto_front([(2.0, 70.0), (1.0, 60.0), (3.0, 65.0)])
    [(1.0, 60.0), (2.0, 70.0)]
    """
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def _accuracy_cost(
    study: Study,
    rows: pd.DataFrame,
    column: str,
    kind: Literal["params", "flops"],
) -> Figure:
    title = COSTS[column]
    reported = reported_scaling(study.paper, kind) if study.paper else None
    figure, axes = style.new_figure(
        1, 2 if reported else 1, width=style.FULL if reported else 4.2, height=3.4
    )
    _measured(axes[0], study, rows, column, title)
    if reported:
        _reported(axes[1], reported, title if kind == "params" else "FLOPs as printed")
    note = "Faint: every seed. Solid: mean with 95% interval. Line: Pareto front of the means."
    style.legend_below(figure, axes[0], note, columns=5 if reported else 2)
    figure.suptitle(f"{study.name}: test top-1 against {title.lower()}", fontsize=10)
    return figure


def unit_of(costs: Iterable[float]) -> tuple[float, str]:
    """The unit that the largest of these costs is told in: (1e6, "M")."""
    largest = max(costs, default=1.0)
    return next(((size, unit) for size, unit in _UNITS if largest >= size), (1.0, ""))


def _measured(axes: Axes, study: Study, rows: pd.DataFrame, column: str, title: str) -> None:
    found = [group for group in groups(study, rows) if group.runs[column].notna().any()]
    size, unit = unit_of([float(group.runs[column].max()) for group in found])
    means = []
    for group in found:
        known = group.runs.dropna(subset=[column])
        cost, top1 = float(known[column].iloc[0]) / size, summarize(known["top1"].to_numpy())
        style.seeds(axes, list(known[column] / size), list(known["top1"]), group.index)
        style.mean(axes, cost, top1, group.index, group.series)
        means.append((cost, top1.mean))
    _front(axes, means)
    axes.set(xlabel=f"{title} ({unit})", ylabel="Test top-1 (%)", title="Measured")
    axes.margins(x=0.08)
    style.keep_possible(axes, y="top1")


def _reported(axes: Axes, reported: Scaling, title: str) -> None:
    own = [point for point in reported.points if point.own]
    others = [point for point in reported.points if not point.own]
    largest = max(point.cost for point in reported.points)
    size, unit = next(((s, u) for s, u in _UNITS if largest >= 10 * s), (1.0, ""))
    axes.scatter([p.cost / size for p in others], [p.top1 for p in others], s=14, c=_OTHERS, lw=0)
    axes.scatter(
        [p.cost / size for p in own],
        [p.top1 for p in own],
        s=26,
        facecolors="white",
        edgecolors=style.colour(1),
        zorder=4,
    )
    named = [(point.name, point.cost / size, point.top1) for point in own]
    name_beside(axes, named, style.colour(1))
    _front(axes, [(point.cost / size, point.top1) for point in reported.points])
    axes.set_xscale("log")
    style.plain_log(axes.xaxis)
    axes.set(
        xlabel=f"{title} ({unit})",
        ylabel="Reported top-1 (%)",
        title=f"Reported: {reported.place} (other networks grey)",
    )


def name_beside(axes: Axes, points: list[tuple[str, float, float]], colour: str) -> None:
    """Names in a column on the right, each with a line to its point, so that none overlap."""
    named = sorted(points, key=lambda point: point[2])
    step = min(0.075, 0.96 / max(1, len(named) - 1))
    top = 0.97
    for index, (name, x, y) in enumerate(named):
        axes.annotate(
            name,
            (x, y),
            xytext=(1.04, top - step * (len(named) - 1 - index)),
            textcoords="axes fraction",
            va="center",
            fontsize=6,
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.35,
                "alpha": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 0,
            },
        )


def _front(axes: Axes, points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    axes.plot([x for x, _ in front], [y for _, y in front], color="#666666", lw=0.9, zorder=1)
