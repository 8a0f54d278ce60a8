"""Accuracy by the number of training images, and how many trials finished or failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ablate.errors import ResultsError
from ablate.report import style
from ablate.report.evidence import failures_of
from ablate.report.generalization import groups
from ablate.report.summaries import summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ablate.study.spec import Study

_HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")


def data_scaling(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Test top-1 and the generalization gap against the number of training images."""
    found = groups(study, rows)
    if len({group.size for group in found}) < 2:
        raise ResultsError(
            f"{study.name} has one data size; data scaling needs a factor such as "
            "data.train_fraction: [0.1, 1.0]"
        )
    figure, axes = style.new_figure(1, 2, height=3.2)
    for place, gap in zip(axes, (False, True), strict=True):
        for index in sorted({group.index for group in found}):
            path = []
            for group in (g for g in found if g.index == index):
                top1 = group.runs["train_top1"] - group.runs["top1"] if gap else group.runs["top1"]
                style.seeds(place, [group.size] * len(top1), list(top1), index)
                summary = summarize(top1.to_numpy())
                style.mean(place, group.size, summary, index, group.series)
                path.append((group.size, summary.mean))
            place.plot(*zip(*path, strict=True), color=style.colour(index), ls=style.line(index))
        place.set_xscale("log")
        _sizes(place, sorted({group.size for group in found}))
    axes[0].set(xlabel="Training images", ylabel="Test top-1 (%)")
    axes[1].set(xlabel="Training images", ylabel="Gap: train − test top-1 (points)")
    note = "Faint: every seed. Solid: mean with 95% interval."
    style.legend_below(figure, axes[0], note)
    figure.suptitle(f"{study.name}: data scaling", fontsize=10)
    return figure


def _sizes(axes: Axes, sizes: list[int]) -> None:
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()


def failures(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """How many trials of each variant finished, failed (by kind) or have not been run."""
    names = [variant.name for variant in study.variants]
    counts = [_states(rows, study, index) for index in range(len(names))]
    states = list(dict.fromkeys(state for count in counts for state in count))
    figure, axes = style.new_figure(1, 1, width=5.6, height=1.2 + 0.28 * len(names))
    left = [0] * len(names)
    for index, state in enumerate(states):
        widths = [count.get(state, 0) for count in counts]
        axes[0].barh(
            range(len(names)),
            widths,
            left=left,
            color=style.colour(index),
            hatch=_HATCHES[index % len(_HATCHES)],
            edgecolor="white",
            label=state,
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="Trials")
    style.whole_numbers(axes[0].xaxis)
    style.legend_below(figure, axes[0])
    figure.suptitle(f"{study.name}: trials and failures", fontsize=10)
    return figure


def _states(rows: pd.DataFrame, study: Study, index: int) -> dict[str, int]:
    variant = study.variants[index]
    mine = rows[rows["variant_name"] == variant.name]
    failed = {f"failed: {kind}": n for kind, n in failures_of(rows, variant).items()}
    missing = int((mine["status"] == "missing").sum())
    return {
        "done": int((mine["status"] == "done").sum()),
        **failed,
        **({"not run": missing} if missing else {}),
    }
