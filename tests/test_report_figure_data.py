"""The numbers written beside a figure are those that were drawn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_examples import curves_of, example, fail

from ablate.report.figure_data import figure_data, first_difference, to_text
from ablate.report.plots import draw
from ablate.report.statistics import summarize

LAYOUT = (80.0, 79.0, 78.0, 76.0, 70.0)


def test_a_mean_its_intervals_and_its_seeds_are_told() -> None:
    study, rows = example("layout", LAYOUT)
    panel, *_ = figure_data(draw("generalization_capacity", study, rows, curves_of(rows)))
    assert (panel["x_title"], panel["y_title"]) == ("Train top-1 (%)", "Test top-1 (%)")
    means = {mark["label"]: mark for mark in panel["marks"] if mark["kind"] == "mean"}
    own = rows[rows["variant_name"] == "C-C-T-T"]
    for name, column in (("x", "train_top1"), ("y", "top1")):
        expected = summarize(own[column].to_numpy())
        assert expected.half_width is not None
        low, high = expected.mean - expected.half_width, expected.mean + expected.half_width
        assert means["C-C-T-T"][name] == pytest.approx([expected.mean], rel=1e-5)
        assert means["C-C-T-T"][f"{name}_interval"] == pytest.approx([low, high], rel=1e-5)
    points = [mark for mark in panel["marks"] if mark["kind"] == "points"]
    assert any(mark["y"] == pytest.approx(list(own["top1"]), rel=1e-5) for mark in points)


def test_the_diagonal_is_no_number() -> None:
    study, rows = example("layout", LAYOUT)
    panel, *_ = figure_data(draw("generalization_capacity", study, rows, curves_of(rows)))
    lines = [mark for mark in panel["marks"] if mark["kind"] == "line"]
    assert len(lines) == len(LAYOUT), "the path of each layout through its data sizes"


def test_a_band_is_told_by_its_ends_and_a_seed_by_its_line() -> None:
    study, rows = example()
    curves = curves_of(rows)
    panel, *_ = figure_data(draw("curves", study, rows, curves))
    bands = [mark for mark in panel["marks"] if mark["kind"] == "band"]
    first = curves[curves["variant_name"] == study.variants[0].name]
    by_epoch = [own["val_top1"].to_numpy() for _, own in first.groupby("epoch")]
    summaries = [summarize(values) for values in by_epoch]
    highs = [found.mean + (found.half_width or 0) for found in summaries]
    assert bands[0]["high"] == pytest.approx(highs, rel=1e-4)
    lines = [mark["y"] for mark in panel["marks"] if mark["kind"] == "line"]
    one = first[first["seed"] == 1]["val_top1"]
    assert any(line == pytest.approx(list(one), rel=1e-5) for line in lines)


def test_bars_and_names_along_the_axis_are_told() -> None:
    study, rows = example()
    (panel,) = figure_data(draw("failures", study, fail(rows, 0), curves_of(rows)))
    assert panel["y_names"] == [variant.name for variant in study.variants]
    widths = {mark["label"]: mark["width"] for mark in panel["marks"]}
    assert widths == {"done": [2, 3, 3, 3], "failed: diverged": [1, 0, 0, 0]}


KINDS = ("generalization_capacity", "curves", "effects", "accuracy_params", "failures")


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_reads_back_and_a_change_of_any_mark_is_told(kind: str) -> None:
    study, rows = example("layout", LAYOUT)
    panels = figure_data(draw(kind, study, rows, curves_of(rows)))
    read = json.loads(to_text(panels))
    assert first_difference(read, panels) == ""
    for at, panel in enumerate(panels):
        assert panel["marks"], "a panel without a mark shows nothing"
        for place, mark in enumerate(panel["marks"]):
            name = next(n for n in ("y", "low", "width") if n in mark)
            changed = json.loads(to_text(panels))
            changed[at]["marks"][place][name][0] += 0.01
            told = first_difference(changed, panels)
            assert told.startswith(f"[{at}].marks[{place}].{name}[0]: ")


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ([1.0, 2.0], [1.0, 2.0 * (1 + 1e-6)], ""),
        ([1.0, 2.0], [1.0, 2.001], "[1]: 2.0 against 2.001"),
        ([1.0], [1.0, 2.0], ": [1.0] against [1.0, 2.0]"),
        ({"x": 1}, {"y": 1}, ': {"x": 1} against {"y": 1}'),
        ([None], [0.0], "[0]: null against 0.0"),
    ],
)
def test_differences_beyond_the_last_digit_are_told(
    first: object, second: object, told: str
) -> None:
    assert first_difference(first, second) == told


def test_what_is_no_number_is_null() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [math.nan, np.inf], label="broken")
    (panel,) = figure_data(figure)
    assert panel["marks"] == [{"kind": "line", "label": "broken", "x": [0, 1], "y": [None, None]}]
    assert "NaN" not in to_text([panel])
