"""Generalization against capacity, as in CoAtNet's Figure 1 (arXiv 2106.04803).

Above: evaluation against training, both in eval mode, in accuracy and in loss: a network on the
dotted diagonal generalizes perfectly, one further to the fitted side has more capacity. Below: the
gap between the two against parameters and against multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.report import style
from ablate.report.evidence import DATA_SIZE, runs_of
from ablate.report.statistics import summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ablate.study.spec import Study
    from ablate.study.variants import Variant


@dataclass(frozen=True, kw_only=True)
class Group:
    """The finished runs of one variant: a layout (or other series) at one data size.

    Args:
        series: what shares a colour: the variant without its data size.
        index: number of the series.
        size: training images.
        runs: finished rows.
    """

    series: str
    index: int
    size: int
    runs: pd.DataFrame


def groups(study: Study, rows: pd.DataFrame) -> list[Group]:
    """The variants that have finished runs, data sizes of one series side by side."""
    return sorted(_groups(study, rows), key=lambda group: (group.index, group.size))


def _groups(study: Study, rows: pd.DataFrame) -> Iterator[Group]:
    numbers: dict[str, int] = {}
    for variant in study.variants:
        series = series_of(variant)
        index = numbers.setdefault(series, len(numbers))
        runs = runs_of(rows, variant)
        if not runs.empty:
            size = int(runs["train_images"].iloc[0])
            yield Group(series=series, index=index, size=size, runs=runs)


def series_of(variant: Variant) -> str:
    """The variant's levels without the data size: `C-C-T-T`, or `cpe=yes, crpe=no`."""
    levels = {name: level for name, level in variant.levels.items() if name != DATA_SIZE}
    if not levels:
        return str(variant.name)
    if len(levels) == 1:
        name, level = next(iter(levels.items()))
        return f"{name}={_word(level)}" if isinstance(level, bool | int | float) else str(level)
    return ", ".join(f"{name}={_word(level)}" for name, level in levels.items())


def _word(level: Any) -> str:
    return ("yes" if level else "no") if isinstance(level, bool) else str(level)


def generalization_capacity(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Eval against train in accuracy and loss, and the gap against params and MACs."""
    found = groups(study, rows)
    figure, axes = style.new_figure(2, 2, height=2.9)
    _against(axes[0], found, "train_top1", "top1", "Train top-1 (%)", "Test top-1 (%)")
    _against(axes[1], found, "train_loss", "test_loss", "Train loss", "Test loss")
    _gap(axes[2], found, "params", "Parameters (M)", 1e6)
    _gap(axes[3], found, "macs", "Multiply-adds (M)", 1e6)
    note = (
        "Faint: every seed. Solid: mean with 95% intervals. Dotted: test = train. "
        "Train is measured in eval mode,\nwithout augmentation, on a fixed subset."
    )
    sizes = sorted({group.size for group in found})
    if len(sizes) > 1:
        told = ", ".join(f"{n:,}" for n in sizes)
        note += f"\nLarger marks: more training images ({told}); below, side by side."
    style.legend_below(figure, axes[0], note)
    figure.suptitle(f"{study.name}: generalization against capacity", fontsize=10)
    return figure


def mark_sizes(found: list[Group]) -> dict[int, float]:
    """Marker size by training images: the more, the larger."""
    sizes = sorted({group.size for group in found})
    return {size: 5.5 if len(sizes) == 1 else 3.5 + 1.8 * i for i, size in enumerate(sizes)}


def _against(axes: Axes, found: list[Group], x: str, y: str, x_title: str, y_title: str) -> None:
    size = mark_sizes(found)
    for group in found:
        across, up = summarize(group.runs[x].to_numpy()), summarize(group.runs[y].to_numpy())
        style.seeds(axes, list(group.runs[x]), list(group.runs[y]), group.index)
        style.mean(axes, across, up, group.index, group.series, markersize=size[group.size])
    for index in sorted({group.index for group in found}):
        path = [g.runs[[x, y]].mean() for g in found if g.index == index]
        axes.plot([p[x] for p in path], [p[y] for p in path], color=style.colour(index), lw=0.8)
    style.keep_possible(axes, x, y)
    _diagonal(axes)
    axes.set(xlabel=x_title, ylabel=y_title)


def _diagonal(axes: Axes) -> None:
    """y = x where it passes through what is shown, without changing the limits."""
    limits = axes.get_xlim(), axes.get_ylim()
    axes.axline((0, 0), slope=1, ls=":", color="#888888", lw=1, zorder=1)
    axes.set(xlim=limits[0], ylim=limits[1])


def _gap(axes: Axes, found: list[Group], cost: str, title: str, unit: float) -> None:
    """The gap of every layout; data sizes of one layout side by side, the smallest first."""
    size = mark_sizes(found)
    for group in found:
        known = group.runs.dropna(subset=[cost])
        if known.empty:
            continue
        gap = known["train_top1"] - known["top1"]
        aside = style.beside(axes, sorted(size).index(group.size), len(size))
        style.seeds(axes, list(known[cost] / unit), list(gap), group.index, transform=aside)
        place, mean = float(known[cost].iloc[0]) / unit, summarize(gap.to_numpy())
        look = {"markersize": size[group.size], "transform": aside}
        style.mean(axes, place, mean, group.index, **look)
        half = mean.half_width or 0.0
        ends = (gap.min(), gap.max(), mean.mean - half, mean.mean + half)
        axes.update_datalim([(place, end) for end in ends])
    axes.set(xlabel=title, ylabel="Gap: train − test top-1 (points)")
    axes.locator_params(axis="x", nbins=5)
    axes.margins(x=0.08)
    axes.autoscale_view()
