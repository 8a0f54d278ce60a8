"""The numbers that a figure shows, read back from the drawn figure and written beside it.

Two versions of matplotlib draw the same rows to different bytes; what is drawn, in the units of
the axes, is the same. A file `KIND.json` beside `KIND.png` therefore says what the figure showed,
and a figure drawn from the rows again must show it again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIGITS = 6
"""Significant digits of a number: more than a figure shows, fewer than platforms differ in."""

_TOLERANCE = 3.0 * 10.0 ** (1 - DIGITS)

Mark = dict[str, Any]
Panel = dict[str, Any]


def figure_data(figure: Figure) -> list[Panel]:
    """What each panel shows, in data coordinates.

    Returns:
        For each panel its title and axes' titles, names along y where it has them (at 0, 1, ...),
        and its `marks` in the order drawn. A mark has its `kind` (points, mean, line, band or
        bars), its label in the legend where it has one, and its numbers as lists: `x` and `y`,
        and for intervals and bands (low, high).
    """
    return [_panel(axes) for axes in figure.axes if axes.axison]


def _panel(axes: Axes) -> Panel:
    from matplotlib.ticker import FixedLocator

    named = isinstance(axes.yaxis.get_major_locator(), FixedLocator)
    return {
        "title": axes.get_title(),
        "x_title": axes.get_xlabel(),
        "y_title": axes.get_ylabel(),
        **({"y_names": [label.get_text() for label in axes.get_yticklabels()]} if named else {}),
        "marks": [_with_label(mark) for mark in _marks(axes)],
    }


def _marks(axes: Axes) -> Iterator[Mark]:
    from matplotlib.collections import PathCollection, PolyCollection
    from matplotlib.container import BarContainer, ErrorbarContainer

    inside: set[Any] = set()  # what a container draws is told once
    for container in axes.containers:
        inside.update(container.get_children())
        if isinstance(container, ErrorbarContainer):
            yield _mean(container)
        elif isinstance(container, BarContainer):
            yield _bars(container)
    for drawn in axes.collections:
        if isinstance(drawn, PathCollection):
            points = np.asarray(drawn.get_offsets(), dtype=float)
            yield _mark("points", drawn, x=points[:, 0], y=points[:, 1])
        elif isinstance(drawn, PolyCollection):
            yield _band(drawn)
    yield from _lines(axes, inside)


def _lines(axes: Axes, told: Collection[Any]) -> Iterator[Mark]:
    """Lines one by one, those of a collection among the others, in the order drawn."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    for drawn in axes.get_children():
        if drawn in told or drawn.get_transform() != axes.transData:
            continue
        if isinstance(drawn, Line2D):
            yield _mark("line", drawn, x=drawn.get_xdata(), y=drawn.get_ydata())
        elif isinstance(drawn, LineCollection):
            for path in drawn.get_paths():
                points = np.asarray(path.vertices, dtype=float)
                yield _mark("line", drawn, x=points[:, 0], y=points[:, 1])


def _mark(kind: str, artist: Any, **numbers: Any) -> Mark:
    rounded = {name: [_rounded(value) for value in values] for name, values in numbers.items()}
    return {"kind": kind, "label": str(artist.get_label()), **rounded}


def _rounded(value: float) -> float | None:
    """A number with `DIGITS` significant digits; None where there is none (NaN)."""
    number = float(value)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def _with_label(mark: Mark) -> Mark:
    """matplotlib names what has no label `_child3`: such names are left out."""
    hidden = mark["label"].startswith("_") or not mark["label"]
    return {name: value for name, value in mark.items() if not (name == "label" and hidden)}


def _mean(container: Any) -> Mark:
    """A mean with its intervals, in the order x, y, as `errorbar` draws them."""
    point, _, bars = container.lines
    names = [n for n, has in (("x", container.has_xerr), ("y", container.has_yerr)) if has]
    intervals = {}
    for name, drawn in zip(names, bars, strict=True):
        ends = [path.vertices[:, 0 if name == "x" else 1] for path in drawn.get_paths()]
        intervals[f"{name}_interval"] = [end for pair in ends for end in pair]
    return _mark("mean", container, x=point.get_xdata(), y=point.get_ydata(), **intervals)


def _band(drawn: Any) -> Mark:
    """The interval at each x of an area between two curves."""
    found: dict[float, list[float]] = {}
    for path in drawn.get_paths():
        for x, y in path.vertices:
            found.setdefault(float(x), []).append(float(y))
    places = sorted(found)
    low, high = ([pick(found[x]) for x in places] for pick in (min, max))
    return _mark("band", drawn, x=places, low=low, high=high)


def _bars(container: Any) -> Mark:
    numbers = {
        "left": [bar.get_x() for bar in container],
        "width": [bar.get_width() for bar in container],
    }
    return _mark("bars", container, **numbers)


def to_text(panels: Iterable[Panel]) -> str:
    """JSON with one mark a line, so that a change shows where it is."""
    told = [
        "{"
        + "".join(f"{json.dumps(k)}: {_json(v)}, " for k, v in panel.items() if k != "marks")
        + '"marks": [\n  '
        + ",\n  ".join(map(_json, panel["marks"]))
        + "\n]}"
        for panel in panels
    ]
    return "[\n" + ",\n".join(told) + "\n]\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def first_difference(first: Any, second: Any, place: str = "") -> str:
    """Where two figures' numbers differ and how, or nothing; the last digit is not compared."""
    if isinstance(first, float | int) and isinstance(second, float | int):
        near = math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=1e-9)
        return "" if near else f"{place}: {first} against {second}"
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        parts = [(f"{place}.{name}".lstrip("."), name) for name in first]
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        parts = [(f"{place}[{index}]", index) for index in range(len(first))]
    else:
        return "" if first == second else f"{place}: {_short(first)} against {_short(second)}"
    told = (first_difference(first[name], second[name], at) for at, name in parts)
    return next((difference for difference in told if difference), "")


def _short(value: Any) -> str:
    text = _json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
