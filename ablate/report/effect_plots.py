"""What each factor does: every seed of every variant, and the effects with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ablate.report import style
from ablate.report.contrasts import Difference
from ablate.report.effects import effect_name, study_effects
from ablate.report.evidence import Evidence, gather
from ablate.report.generalization import series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ablate.study.spec import Study


def factor_effects(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Left: every seed by variant. Right: main effects and interactions, or differences."""
    evidence = gather(study, rows)
    found = study_effects(study, rows) if len(study.factors) > 1 else []
    shown = [(effect_name(effect), effect.difference) for effect in found]
    if not shown:
        shown = [
            (f"{series_of(v)} − baseline", evidence.differences[v.name])
            for v in study.variants
            if v.name in evidence.differences and evidence.differences[v.name].n[0]
        ]
    lines = max(len(study.variants), len(shown), 4)
    figure, axes = style.new_figure(1, 2, height=0.9 + 0.32 * lines)
    _every_seed(axes[0], study, evidence)
    _differences(axes[1], shown)
    figure.suptitle(f"{study.name}: effects on test top-1", fontsize=10)
    figure.supxlabel(
        "Left: every seed faint, mean with 95% interval. Right: filled where the effect is "
        f"supported,\nopen where it is not; intervals at the level of the decision "
        f"({study.alpha:.0%} false claims over all).",
        fontsize=7,
        color="#444444",
    )
    return figure


def _every_seed(axes: Axes, study: Study, evidence: Evidence) -> None:
    names = [variant.name for variant in study.variants]
    for place, name in enumerate(names):
        sample = evidence.samples[name]
        if len(sample):
            summary = evidence.summary(name)
            axes.scatter(
                sample, [place] * len(sample), s=14, color=style.colour(0), alpha=0.45, lw=0
            )
            axes.errorbar(
                summary.mean,
                place,
                xerr=summary.half_width,
                fmt="D" if name == evidence.baseline else "o",
                color=style.colour(0),
                ms=5,
                capsize=2.2,
                elinewidth=1,
            )
    labels = [
        f"{series_of(v)} (baseline)" if v.name == evidence.baseline else series_of(v)
        for v in study.variants
    ]
    axes.set_yticks(range(len(names)), labels)
    axes.invert_yaxis()
    axes.set(xlabel="Test top-1 (%)")


def _differences(axes: Axes, shown: list[tuple[str, Difference]]) -> None:
    for place, (_, found) in enumerate(shown):
        half = None if found.high is None else found.high - found.estimate  # symmetric
        axes.errorbar(
            found.estimate,
            place,
            xerr=half,
            fmt="o",
            color=style.colour(1),
            mfc=style.colour(1) if found.supported else "white",
            ms=5,
            capsize=2.2,
            elinewidth=1,
        )
    axes.axvline(0, color="#888888", lw=1, ls=":")
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.invert_yaxis()
    axes.set(xlabel="Effect on test top-1 (points)")
