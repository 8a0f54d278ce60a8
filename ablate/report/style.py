"""How every figure looks: colours that survive colour blindness and print, markers, intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.errors import AblateError, unknown
from ablate.report.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8A7A00",
)
"""Okabe and Ito's palette, the most distinct first; its yellow darkened so that it prints."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
FORMATS = ("pdf", "svg", "png")
FULL = 7.2
"""Width of a figure over two columns of a paper, in inches."""

_SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "ablate",
    "font.family": "DejaVu Sans",
}


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib set for print, for the figures that are drawn inside; restored afterwards."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        yield


def new_figure(
    rows: int, columns: int, *, width: float = FULL, height: float = 2.6
) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns axes, `height` inches a row: (figure, flat list of axes)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def colour(index: int) -> str:
    """The colour of the index-th series."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """The marker of the index-th series: colour is never alone, and no pair comes twice soon."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def line(index: int) -> Any:
    """The dash pattern of the index-th series."""
    return LINES[index % len(LINES)]


def seeds(axes: Axes, x: Sequence[float], y: Sequence[float], index: int, **how: Any) -> None:
    """Every run as a faint point."""
    look: Any = {"s": 14, "color": colour(index), "marker": marker(index), "alpha": 0.45}
    axes.scatter(x, y, linewidths=0, zorder=2, **look, **how)


def beside(axes: Axes, rank: int, of: int) -> Any:
    """Data coordinates moved sideways, so that `of` marks at one x stand side by side."""
    from matplotlib.transforms import ScaledTranslation

    points = 5.0 * (rank - (of - 1) / 2)
    assert axes.figure is not None
    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def mean(
    axes: Axes, x: Summary | float, y: Summary, index: int, label: str | None = None, **how: Any
) -> None:
    """The mean with its 95% intervals, where there are any."""
    place = x.mean if isinstance(x, Summary) else x
    across = x.half_width if isinstance(x, Summary) else None
    look = {**_mean_look(index), **how}
    axes.errorbar(place, y.mean, xerr=across, yerr=y.half_width, label=label, **look)


def means(axes: Axes, x: Sequence[float], y: Sequence[Summary], index: int, **how: Any) -> None:
    """Many means of one series at once, each with its 95% interval, where there is one."""
    halves = [math.nan if one.half_width is None else one.half_width for one in y]
    axes.errorbar(x, [one.mean for one in y], yerr=halves, **{**_mean_look(index), **how})


def _mean_look(index: int) -> dict[str, Any]:
    return {
        "fmt": marker(index),
        "color": colour(index),
        "markersize": 5.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "elinewidth": 1.0,
        "capsize": 2.2,
        "zorder": 4,
    }


def legend_below(figure: Figure, axes: Axes, note: str = "", columns: int = 5) -> None:
    """One legend for the whole figure, under it, with a note that says what its marks mean."""
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    if known:
        legend = figure.legend(
            list(known.values()),
            list(known),
            loc="outside lower center",
            ncols=min(columns, len(known)),
            title=note or None,
            title_fontsize=7,
        )
        legend.get_title().set_multialignment("center")
        legend.get_title().set_color("#444444")
    elif note:
        figure.supxlabel(note, fontsize=7, color="#444444")


def keep_possible(axes: Axes, x: str = "", y: str = "") -> None:
    """Cut the frame at what a quantity can be: intervals of two seeds may reach far beyond.

    Args:
        x, y: the columns on the axes; accuracies lie in 0 to 100, losses above 0.
    """
    for column, get, cut in ((x, axes.get_xlim, axes.set_xlim), (y, axes.get_ylim, axes.set_ylim)):
        low, high = get()
        if column.endswith(("top1", "loss")):
            cut(max(low, 0.0), min(high, 102.0) if column.endswith("top1") else high)


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only, for epochs and counts."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def plain_log(axis: Any) -> None:
    """1, 2, 5, 10 instead of powers on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> Path:
    """Write the figure; the suffix chooses pdf, svg or png. The same rows give the same bytes.

    Raises:
        AblateError: another suffix.
    """
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise AblateError(f"{path}: {unknown('figure format', suffix, FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    with house_style():
        figure.savefig(path, format=suffix, metadata=dates[suffix])
    return path
