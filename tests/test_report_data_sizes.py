"""A study that varies the data size beside its factor is judged at each data size by itself."""

from __future__ import annotations

import pandas as pd
import pytest
from report_examples import example

from ablate.papers import load_paper_table
from ablate.report.claims import judge_claims
from ablate.report.evidence import DATA_SIZE, gather
from ablate.report.figure_data import figure_data
from ablate.report.plots import draw
from ablate.report.publish import evidence_table
from ablate.study.power import minimum_detectable_effect
from ablate.study.spec import Study

SIZES = {0.1: 100, 1.0: 1000}
FIGURE = (80.0, 79.0, 78.0, 76.0, 70.0)
TWO_SIZES = ["factors.data.train_fraction=[0.1, 1.0]"]


def two_sizes(small: float = -20.0, sd: float = 0.3) -> tuple[Study, pd.DataFrame]:
    """The layouts of Figure 1 at two data sizes; all `small` points lower at the smaller."""
    means = [mean + (small if size == 0.1 else 0.0) for mean in FIGURE for size in SIZES]
    study, rows = example("layout", means, sd=sd, overrides=TWO_SIZES)
    sizes = rows["variant"].map(lambda levels: SIZES[levels[DATA_SIZE]])
    return study, rows.assign(train_images=sizes)


def test_a_variant_is_compared_with_the_baseline_at_its_own_data_size() -> None:
    study, rows = two_sizes()
    evidence = gather(study, rows)
    assert len(evidence.against) == 8, "five layouts at two sizes, without the two baselines"
    for name, ground in evidence.against.items():
        assert name.split("train_fraction=")[1] == ground.split("train_fraction=")[1]
        assert ground.startswith("C-C-T-T")
    assert evidence.differences["C-C-C-C train_fraction=0.1"].estimate == pytest.approx(2, abs=0.7)
    assert {found.method for found in evidence.differences.values()} == {"Welch's t, Holm over 4"}
    grounds = [name for name in evidence.samples if name not in evidence.against]
    assert [evidence.verdict(name) for name in grounds] == [
        "baseline" if name == study.baseline.name else "baseline at its data size"
        for name in grounds
    ]


def test_the_correction_counts_the_comparisons_at_one_data_size() -> None:
    study, rows = two_sizes(sd=1.0)
    alone = rows["variant"].map(lambda levels: levels[DATA_SIZE] == 0.1)
    both = gather(study, rows).differences["ViT_rel train_fraction=0.1"]
    one = gather(study, rows.assign(status=rows["status"].where(alone, "missing")))
    assert one.differences["ViT_rel train_fraction=0.1"] == both

    evidence = gather(study, rows)
    assert evidence.deviation is not None
    expected = minimum_detectable_effect(evidence.deviation[0], 3, comparisons=4)
    assert evidence.detectable("ViT_rel train_fraction=0.1") == pytest.approx(expected)


def test_without_another_factor_the_data_sizes_are_what_is_compared() -> None:
    overrides = ["factors={data.train_fraction: [0.1, 1.0]}", "baseline=null", "model=coat-micro"]
    study, rows = example("layout", (60.0, 80.0), overrides=overrides)
    (found,) = gather(study, rows).differences.values()
    assert found.supported
    assert found.estimate == pytest.approx(20, abs=2)


def test_rankings_are_judged_at_each_data_size() -> None:
    study, rows = two_sizes()
    small = rows["train_images"] == 100
    rows.loc[small, "train_top1"] = rows.loc[small, "top1"] + 1  # the gap of all is the same
    rows.loc[~small, "train_top1"] = 99.0 + rows.loc[~small, "seed"] / 10  # the gap grows
    told = judge_claims(load_paper_table("coatnet.figure1"), study, rows)
    assert len(told) == 16
    step = "generalization gap: C-T-T-T >> ViT_rel: "
    (large,) = (t for t in told if t.startswith(f"At 1,000 training images: {step}"))
    (little,) = (t for t in told if t.startswith(f"At 100 training images: {step}"))
    assert "agrees" in large
    assert "undecided" in little


def test_the_table_says_that_each_size_is_judged_by_itself() -> None:
    table = evidence_table(*two_sizes())
    assert any("over all comparisons at each data size." in note for note in table.notes)
    assert not any("each data size" in note for note in evidence_table(*example()).notes)


def test_the_gaps_of_several_data_sizes_stand_side_by_side_within_the_frame() -> None:
    study, rows = two_sizes()
    rows["train_top1"] = rows["top1"] + rows["train_images"].map({100: 30, 1000: 5})
    figure = draw("generalization_capacity", study, rows, rows[:0])
    *_, gaps = figure.axes
    means = [container.lines[0] for container in gaps.containers]
    places = [line.get_transform().transform(line.get_xydata())[0] for line in means]
    assert len({round(float(x), 3) for x, _ in places}) == len(places) // 5, "one place a size"
    frame = gaps.get_window_extent()
    assert all(frame.contains(x, y) for x, y in places)
    assert {mark["x"][0] for mark in figure_data(figure)[3]["marks"]} == {2.0}, "M multiply-adds"
