"""How much each variant depends on the settings that were tuned for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.errors import ResultsError
from ablate.report import style
from ablate.report.statistics import summarize
from ablate.study.tuning_rows import TUNING_COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ablate.study.spec import Study

_DECADE = 10
"""A setting whose values span this ratio or more is drawn on a logarithmic axis."""

_FEW = 6
"""Values that are told one by one on an axis."""

_NOTE = (
    "Points: every trial of the tuning. Ring: chosen for the variant's final seeds.\n"
    "Cross below: failed."
)
_LINE = " Line: the best mean over seeds at each value, whatever the other settings."


def sensitivity(study: Study, tuning: pd.DataFrame | None) -> Figure:
    """Validation top-1 of each variant against every setting that was tuned for it.

    Args:
        study: gives the variants' order.
        tuning: one row a tuning trial, as `ablate.study.tuning_rows.load_tuning` returns them.

    Raises:
        ResultsError: the study tunes nothing, or no tuning trial has finished.
    """
    if tuning is None or tuning.empty:
        raise ResultsError(
            f"{study.name} tunes nothing; a sensitivity curve needs a setting such as "
            "tune: {train.lr: [5e-4, 1e-3, 2e-3]}"
        )
    if not (tuning["status"] == "done").any():
        raise ResultsError(f"{study.name} has no finished tuning trial; `ablate run` trains them")
    settings = [name for name in tuning.columns if name not in TUNING_COLUMNS]
    columns = min(2, len(settings))
    figure, axes = style.new_figure(-(-len(settings) // columns), columns, height=3.0,
                                    width=5.6 if columns == 1 else style.FULL)  # fmt: skip
    lined = [_is_lined(tuning, name) or len(settings) == 1 for name in settings]
    for place, name, has_line in zip(axes, settings, lined, strict=False):
        _panel(place, study, tuning, name, has_line)
    for unused in axes[len(settings) :]:
        unused.set_axis_off()
    style.legend_below(figure, axes[0], _NOTE + _LINE * any(lined), columns=2 * columns)
    figure.suptitle(f"{study.name}: sensitivity to tuned settings", fontsize=10)
    return figure


def _is_lined(tuning: pd.DataFrame, name: str) -> bool:
    """Whether several candidates share a value: random draws make no curve in one setting."""
    return bool(tuning[name].nunique() < tuning["candidate"].nunique())


def _panel(axes: Axes, study: Study, tuning: pd.DataFrame, name: str, has_line: bool) -> None:
    values = _ordered(tuning[name])
    numeric = all(_is_number(value) for value in values)
    places = {value: float(value) if numeric else index for index, value in enumerate(values)}
    placed = tuning.assign(place=tuning[name].map(places))
    if numeric and min(values) > 0 and max(values) >= _DECADE * min(values):
        axes.set_xscale("log")
    for index, variant in enumerate(study.variants):
        mine = placed[placed["variant_name"] == variant.name]
        _variant(axes, mine, index, variant.name, has_line)
    if not numeric or len(values) <= _FEW:
        texts = [f"{value:g}" if numeric else str(value) for value in values]
        axes.set_xticks(list(places.values()), texts)
        axes.minorticks_off()
    axes.set(xlabel=name, ylabel="Validation top-1 (%)")
    if (tuning["status"] == "failed").any():  # room for the crosses
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.2 * (high - low), high)
    style.keep_possible(axes, y="val_top1")


def _variant(axes: Axes, mine: pd.DataFrame, index: int, name: str, has_line: bool) -> None:
    done = mine[mine["status"] == "done"]
    style.seeds(axes, list(done["place"]), list(done["val_top1"]), index)
    best = done.groupby(["place", "candidate"])["val_top1"].mean().groupby("place").max()
    line = {"ls": style.line(index)} if has_line else {"ls": "", "marker": style.marker(index)}
    shown = best if has_line else best[:0]  # nothing but its entry in the legend
    axes.plot(shown.index, shown, color=style.colour(index), label=name, **line)
    chosen = done[done["chosen"]]
    if not chosen.empty:
        top1 = summarize(chosen["val_top1"].to_numpy()).mean
        axes.scatter([chosen["place"].iloc[0]], [top1], s=60, facecolors="none", zorder=5,
                     edgecolors=style.colour(index), linewidths=1.2)  # fmt: skip
    failed = mine.loc[mine["status"] == "failed", "place"]
    height = 0.02 + 0.03 * (index % len(style.COLOURS))
    axes.scatter(failed, [height] * len(failed), marker="x", s=18, color=style.colour(index),
                 transform=axes.get_xaxis_transform(), clip_on=False)  # fmt: skip


def _ordered(values: pd.Series[Any]) -> Sequence[Any]:
    """The different values: numbers by size, all else as first tried."""
    found = list(dict.fromkeys(values))
    return sorted(found) if all(_is_number(value) for value in found) else found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
