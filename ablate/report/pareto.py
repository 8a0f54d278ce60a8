"""The variants that no other one beats in both accuracy and cost, named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ablate.errors import ResultsError
from ablate.report import style
from ablate.report.cost_plots import COSTS, name_beside, pareto_front, unit_of
from ablate.report.search_tables import layout_of
from ablate.report.statistics import Summary, summarize
from ablate.study.mirror import accuracy_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ablate.study.spec import Study

_DOMINATED = "#999999"
_REPEATED = (
    "Named: no other variant has a higher mean at the same cost or less; grey: the others. "
    "Faint: every seed. Bars: 95% interval of the mean."
)
_SEARCHED = (
    "Named: no other network is more accurate at the same cost or less; grey: the others. One seed "
    "each:\nwhich of two neighbours is better needs a study of them with several."
)
_SPLITS = {"top1": "Test", "val_top1": "Validation"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One variant in the plane of cost and accuracy.

    Args:
        name: of the variant.
        arch: its network, as `ablate show` takes it.
        cost: params or multiply-adds.
        accuracy: top-1 over its seeds, in percent.
        runs: top-1 of each seed.
    """

    name: str
    arch: str
    cost: float
    accuracy: Summary
    runs: tuple[float, ...]


def pareto(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Accuracy against multiply-adds and parameters: what nothing beats in both is named."""
    metric = pareto_metric(study, rows)
    if not has_costs(rows):
        raise ResultsError(
            f"{study.name}: a Pareto front needs variants of different cost, but all finished ones "
            "have the same params and multiply-adds"
        )
    figure, axes = style.new_figure(1, 2, height=3.4)
    for place, column in zip(axes, ("macs", "params"), strict=True):
        _panel(place, points(rows, column, metric), column, study.design == "search")
        place.set(ylabel=f"{_SPLITS[metric]} top-1 (%)")
        style.keep_possible(place, y=metric)
    style.legend_below(figure, axes[0], _SEARCHED if study.design == "search" else _REPEATED)
    figure.suptitle(f"{study.name}: accuracy against cost", fontsize=10)
    return figure


def has_costs(rows: pd.DataFrame) -> bool:
    """Whether the finished trials differ in params or multiply-adds."""
    done = rows[rows["status"] == "done"]
    return bool((done[list(COSTS)].nunique() > 1).any())


def pareto_metric(study: Study, rows: pd.DataFrame) -> str:
    """Test top-1; of a search, which looked at many networks, what it looked at."""
    return accuracy_column(rows) if study.design == "search" else "top1"


def points(rows: pd.DataFrame, column: str, metric: str) -> list[Point]:
    """The variants with finished runs, in the order of the rows.

    Args:
        rows: one row a trial.
        column: "params" or "macs".
        metric: "top1" or "val_top1".
    """
    known = rows[rows["status"] == "done"].dropna(subset=[column, metric])
    return [
        Point(
            name=str(name),
            arch=str(runs["arch"].iloc[0]),
            cost=float(runs[column].iloc[0]),
            accuracy=summarize(runs[metric].to_numpy(dtype=float)),
            runs=tuple(runs[metric].astype(float)),
        )
        for name, runs in known.groupby("variant_name", sort=False)
    ]


def front(found: list[Point]) -> list[Point]:
    """The points that no other one beats, by cost."""
    ends = pareto_front([(point.cost, point.accuracy.mean) for point in found])
    by_place = {(point.cost, point.accuracy.mean): point for point in reversed(found)}
    return [by_place[end] for end in ends]


def _panel(axes: Axes, found: list[Point], column: str, is_search: bool) -> None:
    size, unit = unit_of([point.cost for point in found])
    best = front(found)
    names = {point.name for point in best}
    _group(axes, [point for point in found if point.name not in names], size, _DOMINATED)
    _group(axes, best, size, style.colour(0))
    axes.plot([p.cost / size for p in best], [p.accuracy.mean for p in best],
              drawstyle="steps-post", color=style.colour(0), lw=0.9, zorder=1)  # fmt: skip
    texts = [f"{p.name}: {layout_of(p.arch)}" if is_search else p.name for p in best]
    named = [(text, p.cost / size, p.accuracy.mean) for text, p in zip(texts, best, strict=True)]
    name_beside(axes, named, style.colour(0))
    axes.set(xlabel=f"{COSTS[column]} ({unit})" if unit else COSTS[column])
    axes.margins(x=0.08)


def _group(axes: Axes, group: list[Point], size: float, colour: str) -> None:
    """Every seed and the means with their intervals, at once: a search has thousands of points."""
    if not group:
        return
    runs = [(point.cost / size, top1) for point in group for top1 in point.runs]
    x, y = zip(*runs, strict=True)
    axes.scatter(x, y, s=9, color=colour, alpha=0.4, linewidths=0, zorder=2)
    costs = [point.cost / size for point in group]
    style.means(axes, costs, [point.accuracy for point in group], 0, color=colour)
