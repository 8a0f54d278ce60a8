"""Figures: every kind is drawn from rows, in every format, and unknown ones are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.collections import PathCollection
from report_examples import curves_of, example, fail

from ablate.errors import AblateError, ResultsError
from ablate.report import PLOT_KINDS, plot
from ablate.report.cost_plots import pareto_front
from ablate.report.figure_data import figure_data
from ablate.report.plots import draw, showable

LAYOUT = (80.0, 79.0, 78.0, 76.0, 70.0)


OF_FACTORS_AND_COSTS = {"importances", "pareto", "sensitivity"}
"""Their examples are in test_report_choice_plots.py."""


@pytest.mark.parametrize("kind", sorted(PLOT_KINDS.keys() - OF_FACTORS_AND_COSTS))
def test_every_kind_is_drawn(kind: str, tmp_path: Path) -> None:
    overrides = ["factors.data.train_fraction=[0.1, 1.0]"] if kind == "data_scaling" else []
    study, rows = example("layout", LAYOUT * (2 if overrides else 1), overrides=overrides)
    if overrides:
        small = rows["variant"].map(lambda levels: levels["data.train_fraction"] == 0.1)
        rows.loc[small, "train_images"] = 100
    path = plot(kind, study, fail(rows, 4), curves_of(rows), tmp_path / "new" / f"{kind}.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("suffix", "magic"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_vector_formats_are_the_same_bytes_again(suffix: str, magic: bytes, tmp_path: Path) -> None:
    study, rows = example()
    paths = [
        plot("generalization_capacity", study, rows, curves_of(rows), tmp_path / f"{i}.{suffix}")
        for i in (1, 2)
    ]
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(magic)
    assert first == second


def test_generalization_shows_every_seed_its_mean_and_the_gap() -> None:
    study, rows = example("layout", LAYOUT)
    figure = draw("generalization_capacity", study, rows, curves_of(rows))
    accuracy, loss, by_params, by_macs = figure.axes
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == ("Train top-1 (%)", "Test top-1 (%)")
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("Train loss", "Test loss")
    seeds = [
        tuple(point)
        for drawn in accuracy.collections
        if isinstance(drawn, PathCollection)
        and len(drawn.get_offsets()) == 3
        and drawn.get_sizes().min() > 0
        for point in drawn.get_offsets()
    ]
    expected = set(zip(rows["train_top1"], rows["top1"], strict=True))
    assert {tuple(map(float, seed)) for seed in seeds} == expected
    assert "Parameters" in by_params.get_xlabel()
    assert "Multiply-adds" in by_macs.get_xlabel()
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names == {"C-C-C-C", "C-C-C-T", "C-C-T-T", "C-T-T-T", "ViT_rel"}


def test_curves_show_every_seed_and_draw_them_at_once() -> None:
    study, rows = example()
    curves = curves_of(rows)
    figure = draw("curves", study, rows, curves)
    validation = figure.axes[0]
    assert len(validation.lines) == 4  # the means
    (panel, *_) = figure_data(figure)
    lines = [mark for mark in panel["marks"] if mark["kind"] == "line"]
    seeds = {tuple(line["y"]) for line in lines if "label" not in line}
    expected = {tuple(map(digits, mine["val_top1"])) for _, mine in curves.groupby("key")}
    assert seeds == expected
    assert validation.get_ylim()[0] < curves["val_top1"].min()
    assert validation.get_ylim()[1] > curves["val_top1"].max()


def digits(value: float) -> float:
    return float(f"{value:.6g}")


def test_hyphens_do_for_underscores(tmp_path: Path) -> None:
    study, rows = example()
    assert plot("accuracy-params", study, rows, curves_of(rows), tmp_path / "a.png").exists()


def test_an_unknown_kind_or_suffix_names_the_nearest(tmp_path: Path) -> None:
    study, rows = example()
    with pytest.raises(AblateError, match=r"unknown plot kind 'curve' \(did you mean 'curves'"):
        plot("curve", study, rows, curves_of(rows), tmp_path / "a.png")
    with pytest.raises(AblateError, match=r"unknown figure format 'pn' \(did you mean 'png'"):
        plot("curves", study, rows, curves_of(rows), tmp_path / "a.pn")


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    study, rows = example()
    with pytest.raises(ResultsError, match="has one data size; data scaling needs a factor"):
        plot("data_scaling", study, rows, curves_of(rows), tmp_path / "a.png")
    with pytest.raises(ResultsError, match="has no finished trial to plot"):
        plot("curves", study, rows.assign(status="missing"), curves_of(rows), tmp_path / "a.png")
    with pytest.raises(ResultsError, match="has no learning curves"):
        plot("curves", study, rows, curves_of(rows[:0]), tmp_path / "a.png")


def test_only_kinds_with_something_to_show_are_published() -> None:
    study, rows = example()
    curves = curves_of(rows)
    assert "failures" not in showable(rows, curves)
    assert "data_scaling" not in showable(rows, curves)
    assert "failures" in showable(fail(rows, 0), curves)
    assert "curves" not in showable(rows, curves_of(rows[:0]))
    assert showable(rows.assign(status="missing"), curves) == []
    assert study.name == "position_encoding"


def test_the_pareto_front_holds_what_nothing_beats_in_both() -> None:
    points = [(1.0, 60.0), (2.0, 59.0), (2.0, 70.0), (3.0, 70.0), (4.0, 71.0)]
    assert pareto_front(points) == [(1.0, 60.0), (2.0, 70.0), (4.0, 71.0)]


def test_drawing_leaves_the_readers_settings_alone(tmp_path: Path) -> None:
    study, rows = example()
    before = dict(mpl.rcParams)
    plot("effects", study, rows, curves_of(rows), tmp_path / "a.png")
    assert dict(mpl.rcParams) == before


def test_reading_rows_imports_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, ablate.report, ablate.report.page, ablate.report.publish, ablate.papers;"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
