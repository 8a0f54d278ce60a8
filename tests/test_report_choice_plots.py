"""Figures that help to choose: Pareto front, importances of factors, sensitivity to settings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from report_examples import curves_of, example, fail, searched

from ablate.errors import ResultsError
from ablate.report import plot
from ablate.report.figure_data import figure_data
from ablate.report.importances import factor_shares
from ablate.report.page import write_page
from ablate.report.pareto import front, points
from ablate.report.plots import caption, draw, showable
from ablate.study.spec import Study

RATES = (1e-4, 1e-3, 1e-2)


def costly(macs: Sequence[int] = (4, 3, 2, 1), **how: Any) -> tuple[Study, pd.DataFrame]:
    """Four variants whose cost is told in millions of multiply-adds."""
    study, rows = example(sd=0.0, **how)
    cost = {variant.name: 10**6 * n for variant, n in zip(study.variants, macs, strict=True)}
    return study, rows.assign(macs=rows["variant_name"].map(cost))


def tuned(
    study: Study, settings: Sequence[dict[str, float]] | None = None, failing: float | None = None
) -> pd.DataFrame:
    """Tuning trials in the shape of `load_tuning`; each variant's best is a place further."""
    tried = settings or [{"train.lr": rate} for rate in RATES]
    rows = [
        {
            "variant_name": variant.name, "variant": dict(variant.levels), "candidate": place,
            "settings": chosen, "seed": seed, "status": "done", "failure": None,
            "val_top1": 60.0 + 10 * index - abs(place - index) + seed / 100, "val_loss": 1.0,
            "chosen": place == min(index, len(tried) - 1), "key": f"{index}{place}{seed}", **chosen,
        }
        for index, variant in enumerate(study.variants)
        for place, chosen in enumerate(tried)
        for seed in (0, 2)
    ]  # fmt: skip
    found = pd.DataFrame(rows)
    lost = found["train.lr"] == failing
    found.loc[lost, ["status", "failure", "val_top1"]] = ["failed", "diverged", None]
    return found


def marks(figure: Any, kind: str, panel: int = 0) -> list[dict[str, Any]]:
    return [mark for mark in figure_data(figure)[panel]["marks"] if mark["kind"] == kind]


def names_in(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_front_names_what_no_other_variant_beats() -> None:
    study, rows = costly((1, 3, 2, 4))  # the second is cheaper than the third would need to be
    figure = draw("pareto", study, rows, curves_of(rows))
    best = front(points(rows, "macs", "top1"))
    assert [point.name for point in best] == [
        "cpe=false crpe=false", "cpe=true crpe=false", "cpe=true crpe=true"
    ]  # fmt: skip
    assert [point.arch for point in best] == [study.variants[i].arch for i in (0, 2, 3)]
    assert sorted(names_in(figure.axes[0])) == sorted(point.name for point in best)
    assert figure.axes[0].get_xlabel() == "Multiply-adds (M)"
    assert figure.axes[0].get_ylabel() == "Test top-1 (%)"
    (line,) = marks(figure, "line")
    assert (line["x"], line["y"]) == ([1.0, 2.0, 4.0], [70.0, 76.0, 77.5])


def test_every_seed_and_the_interval_of_each_variant_are_shown() -> None:
    study, rows = example()
    rows["macs"] = rows["variant_name"].map(len) * 10**6
    figure = draw("pareto", study, rows, curves_of(rows))
    shown = sorted(y for mark in marks(figure, "points") for y in mark["y"])
    assert shown == pytest.approx(sorted(rows["top1"]), abs=1e-3)
    means = marks(figure, "mean")
    assert sum(len(mark["y"]) for mark in means) == 4
    for mark in means:
        ends = mark["y_interval"]
        assert all(
            low < y < high for low, y, high in zip(ends[::2], mark["y"], ends[1::2], strict=True)
        )


def test_a_search_is_judged_where_it_looked_on_validation(tmp_path: Path) -> None:
    study, rows = searched(tmp_path)
    figure = draw("pareto", study, rows, curves_of(rows))
    assert figure.axes[0].get_ylabel() == "Validation top-1 (%)"
    assert max(y for mark in marks(figure, "line") for y in mark["y"]) == pytest.approx(
        rows["val_top1"].max(), abs=1e-3
    )
    best = rows.loc[rows["val_top1"].idxmax()]
    assert any(
        name.startswith(f"{best['variant_name']}: C-C-") for name in names_in(figure.axes[0])
    )
    assert {end for mark in marks(figure, "mean") for end in mark["y_interval"]} == {None}
    assert "One seed each" in figure._supxlabel.get_text()


def test_a_search_shows_its_front_and_what_mattered(tmp_path: Path) -> None:
    study, rows = searched(tmp_path)
    assert showable(rows, curves_of(rows)) == ["pareto", "importances"]
    shares, used = factor_shares(study, rows)
    assert next(iter(shares)) == "train.lr"
    assert used == 16  # those that have a transformer to set head_dim of
    assert set(shares) == {"train.lr", "layout", "stage3.width", "stage4.head_dim"}


def test_a_failed_trial_is_on_no_front() -> None:
    _, rows = costly()
    last = rows.index[rows["variant_name"] == "cpe=true crpe=true"]
    for index in last:
        rows = fail(rows, index)
    assert "cpe=true crpe=true" not in [p.name for p in points(rows, "macs", "top1")]


def test_factors_are_ranked_by_the_variance_that_they_explain() -> None:
    study, rows = example(means=(70.0, 71.0, 76.0, 77.0), sd=0.1)  # cpe: 6 points, crpe: 1
    shares, used = factor_shares(study, rows)
    assert list(shares)[:2] == ["cpe", "crpe"]
    assert used == 12
    assert shares["cpe"] == pytest.approx(36 / 37, abs=0.06)  # variance 9 of 9.25
    assert shares["crpe"] == pytest.approx(1 / 37, abs=0.03)
    assert shares["seed"] < 0.01
    assert factor_shares(study, rows.sample(frac=1, random_state=1)) == (shares, used)


def test_a_factor_without_effect_explains_less_than_the_seed() -> None:
    study, rows = example(means=(70.0,) * 4, sd=3.0, overrides=["seeds=10"])
    shares, _ = factor_shares(study, rows)
    assert next(iter(shares)) == "seed"
    assert sum(shares.values()) < 0.7
    single, _ = factor_shares(study, rows[rows["seed"] == 0])
    assert "seed" not in single
    figure = draw("importances", study, rows[rows["seed"] == 0], curves_of(rows))
    assert "One seed: the noise between runs is part" in figure._supxlabel.get_text()


def test_many_trials_are_looked_at_with_ten_seeds() -> None:
    study, rows = example(overrides=["seeds=30"])
    _, used = factor_shares(study, rows)
    assert used == 40
    figure = draw("importances", study, rows, curves_of(rows))
    assert "Of 40 of 120 finished trials." in figure._supxlabel.get_text()


def test_trials_that_lack_a_factor_are_left_out() -> None:
    study, rows = example()
    rows.at[0, "variant"] = {"model": "torchvision:resnet18"}
    shares, used = factor_shares(study, rows)
    assert (set(shares), used) == ({"cpe", "crpe", "seed"}, 11)
    rows.loc[1:, "val_top1"] = 10.0
    with pytest.raises(ResultsError, match="the same accuracy"):
        factor_shares(study, rows)
    assert "importances" not in showable(rows, curves_of(rows))


def test_importances_need_two_factors() -> None:
    study, rows = example("layout", (80.0, 79.0, 78.0, 76.0, 70.0))
    with pytest.raises(ResultsError, match=r"compare two or more factors, but .* vary layout"):
        draw("importances", study, rows, curves_of(rows))
    assert "importances" not in showable(rows, curves_of(rows))


def test_importances_need_accuracies_that_differ() -> None:
    study, rows = example()
    curves = curves_of(rows)
    rows["val_top1"] = 10.0  # chance, after too few epochs
    with pytest.raises(ResultsError, match="all finished trials have the same accuracy"):
        draw("importances", study, rows, curves)
    assert "importances" not in showable(rows, curves)
    assert "importances" in showable(example()[1], curves_of(rows))


def test_sensitivity_shows_every_trial_the_mean_and_the_choice() -> None:
    study, rows = example()
    figure = draw("sensitivity", study, rows, curves_of(rows), tuned(study))
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("train.lr", "Validation top-1 (%)")
    assert axes.get_xscale() == "log"
    lines = marks(figure, "line")
    assert [line["label"] for line in lines] == [variant.name for variant in study.variants]
    assert lines[1]["x"] == list(RATES)
    assert lines[1]["y"] == [69.01, 70.01, 69.01]
    dots = marks(figure, "points")
    assert [(dot["x"], dot["y"]) for dot in dots if len(dot["x"]) == 1][:2] == [
        ([1e-4], [60.01]), ([1e-3], [70.01])
    ]  # fmt: skip
    assert sum(len(dot["x"]) for dot in dots if len(dot["x"]) == 6) == 24


def test_a_curve_goes_through_the_best_of_the_other_settings() -> None:
    study, rows = example()
    grid = [
        {"train.lr": lr, "train.weight_decay": wd} for lr, wd in itertools.product(RATES, (0.1, 0))
    ]
    figure = draw("sensitivity", study, rows, curves_of(rows), tuned(study, grid))
    assert [axes.get_xlabel() for axes in figure.axes] == ["train.lr", "train.weight_decay"]
    assert marks(figure, "line", 0)[0]["y"] == [60.01, 58.01, 56.01]
    assert marks(figure, "line", 1)[0] | {"label": ""} == {
        "kind": "line", "label": "", "x": [0.0, 0.1], "y": [59.01, 60.01]
    }  # fmt: skip


def test_random_draws_make_no_curve_in_one_of_their_settings() -> None:
    study, rows = example()
    generator = np.random.default_rng(0)
    drawn = [
        {"train.lr": generator.uniform(1e-4, 1e-2), "train.weight_decay": generator.uniform()}
        for _ in range(5)
    ]
    figure = draw("sensitivity", study, rows, curves_of(rows), tuned(study, drawn))
    assert all(len(line["x"]) == 0 for line in marks(figure, "line"))
    assert len(figure.legends[0].get_texts()) == 4


def test_failed_tuning_trials_are_crosses_below() -> None:
    study, rows = example()
    figure = draw("sensitivity", study, rows, curves_of(rows), tuned(study, failing=1e-2))
    assert marks(figure, "line")[0]["x"] == [1e-4, 1e-3]
    low, high = figure.axes[0].get_ylim()
    assert low < 59 - 0.1 * (high - low)  # the crosses stand in room of their own
    crosses = [c for c in figure.axes[0].collections if len(c.get_offsets()) == 2
               and c.get_transform() != figure.axes[0].transData]  # fmt: skip
    assert crosses


def test_what_cannot_be_shown_is_said() -> None:
    study, rows = example()
    curves = curves_of(rows)
    with pytest.raises(ResultsError, match="position_encoding tunes nothing; a sensitivity curve"):
        draw("sensitivity", study, rows, curves)
    with pytest.raises(ResultsError, match="has no finished tuning trial"):
        draw("sensitivity", study, rows, curves, tuned(study).assign(status="missing"))
    with pytest.raises(ResultsError, match="a Pareto front needs variants of different cost"):
        draw("pareto", study, rows, curves)
    assert "pareto" not in showable(rows, curves)
    assert "sensitivity" not in showable(rows, curves)


@pytest.mark.parametrize("kind", ["pareto", "importances", "sensitivity"])
def test_the_same_rows_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    study, rows = costly()
    first, second = (
        plot(kind, study, rows, curves_of(rows), tmp_path / f"{n}.svg", tuned(study)).read_bytes()
        for n in (1, 2)
    )
    assert first == second


@pytest.mark.slow
def test_the_page_has_all_that_apply(tmp_path: Path) -> None:
    study, rows = costly()
    page = write_page(study, rows, curves_of(rows), tmp_path / "r.html", tuning=tuned(study))
    for kind in ("pareto", "importances", "sensitivity"):
        assert f"<figcaption>{escape(caption(kind))}</figcaption>" in page.read_text()
