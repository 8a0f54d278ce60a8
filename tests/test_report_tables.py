"""Study and paper tables: what stands in them, what is claimed, and every format."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_examples import example, fail

from ablate.errors import AblateError
from ablate.report import paper_table, study_table
from ablate.report.study_tables import comparison_table
from ablate.report.table import Cell, Column, Table, count

# --- a study's table -----------------------------------------------------------------------------


def test_one_row_a_variant_with_reported_measured_and_cost() -> None:
    study, rows = example()
    first, second, *_ = study_table(study, rows).records()
    assert (first["cpe"], first["crpe"], first["reported"]) == (False, False, 68.8)
    assert second["reported_difference"] == 6.2
    assert first["top1"] == pytest.approx(rows["top1"][:1].mean(), abs=3)
    assert (first["n"], first["params"], first["failed"]) == (3, 100_000, 0)
    assert first["verdict"] == "baseline"


def test_supported_differences_are_bold_and_others_say_what_would_have_been_seen() -> None:
    study, rows = example(means=(70.0, 70.1, 78.0, 62.0), sd=0.5)
    cells = study_table(study, rows).rows
    assert [row["verdict"].text for row in cells[2:]] == ["higher", "lower"]
    assert all(row["verdict"].bold and row["difference"].bold for row in cells[2:])
    assert not cells[1]["verdict"].bold
    assert not cells[1]["difference"].bold
    assert re.fullmatch(
        r"no detectable difference at n = 3 \(80% power at \d\.\d points\)",
        cells[1]["verdict"].text,
    )


def test_the_source_of_the_deviation_is_told() -> None:
    study, rows = example()
    notes = " ".join(study_table(study, rows).notes)
    assert re.search(r"deviation between seeds, \d\.\d\d points, pooled over the variants", notes)
    assert "(8 degrees of freedom)" in notes


def test_failures_are_counted_and_not_averaged() -> None:
    study, rows = example()
    table = study_table(study, fail(rows, 4))
    record = table.records()[1]
    assert (record["n"], record["failed"], record["failed_kinds"]) == (2, 1, "1 diverged")
    assert record["top1"] == pytest.approx(rows["top1"][[3, 5]].mean(), abs=1e-3)


def test_one_run_has_no_interval_and_no_verdict() -> None:
    study, rows = example(overrides=["seeds=1"])
    record = study_table(study, rows).records()[1]
    assert record["top1_low"] is None
    assert record["p"] is None
    assert "one run has no spread" in str(record["verdict"])


def test_a_variant_that_was_not_run_is_a_dash() -> None:
    study, rows = example()
    rows.loc[3:5, "status"] = "missing"
    rows.loc[3:5, "top1"] = np.nan
    table = study_table(study, rows)
    assert table.rows[1]["verdict"].text == "not run"
    assert table.cells(table.rows[1])[3].text == "–"
    assert "3 of 12 trials have not been run yet." in table.notes


def test_pooled_variances_are_dunnetts() -> None:
    study, rows = example(overrides=["variances=pooled"])
    notes = " ".join(study_table(study, rows).notes)
    assert "Dunnett over 3, variance pooled with 8 degrees of freedom" in notes


def test_other_data_than_the_papers_is_not_comparable() -> None:
    study, rows = example()
    notes = " ".join(study_table(study, rows).notes)
    assert "not comparable: digits-canvas, 20 epochs, 32 pixels, another network" in notes


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("device", "cuda:NVIDIA H200", "mix device classes: CPU, CUDA"),
        ("precision", "bf16", "mix precisions: bf16, fp32"),
        ("commit", "def", "mix commits: abc, def"),
    ],
)
def test_a_comparison_of_mixed_conditions_says_so(column: str, value: str, words: str) -> None:
    study, rows = example()
    assert not [note for note in study_table(study, rows).notes if "mix" in note]
    rows.loc[0, column] = value
    assert words in " ".join(study_table(study, rows).notes)


def test_effects_of_a_grid_and_steps_of_the_papers_ranking_are_stated() -> None:
    study, rows = example(means=(60.0, 70.0, 80.0, 90.0), sd=0.3)
    statements = study_table(study, rows).statements
    assert re.match(r"Main effect cpe: yes − no: \+(19|20)\.\d \[.*\] points, supp", statements[0])
    assert any(text.startswith("Interaction cpe × crpe") for text in statements)
    assert "top-1: CPE and CRPE > CPE: agrees" in " ".join(statements)


def test_a_ranking_that_is_turned_round_is_contradicted_and_a_close_one_undecided() -> None:
    study, rows = example(means=(90.0, 70.0, 80.0, 80.1), sd=0.3)
    text = " ".join(study_table(study, rows).statements)
    assert "CRPE > neither: contradicts" in text
    assert re.search(r"CPE and CRPE > CPE: undecided at n = 3 \(80% power at \d\.\d points\)", text)


def test_about_equal_can_be_contradicted_and_is_never_proved() -> None:
    study, rows = example("layout", (80.0, 80.0, 80.0, 80.0, 60.0), sd=0.3)
    text = " ".join(study_table(study, rows).statements)
    assert "C-C-C-C ~ C-C-C-T: undecided at n = 3" in text
    rows.loc[:2, ["top1"]] += 12.0
    text = " ".join(study_table(study, rows).statements)
    assert "C-C-C-C ~ C-C-C-T: contradicts" in text


def test_two_studies_stand_under_one_another_with_their_own_baselines() -> None:
    first, second = example(), example("co_scale", (70.0, 71.0, 72.0), dataset="cifar10")
    table = comparison_table([first, second])
    records = table.records()
    assert [row["study"] for row in records] == ["position_encoding"] * 4 + ["co_scale"] * 3
    assert [row["verdict"] for row in records].count("baseline") == 2
    assert "other data (cifar10, digits-canvas): levels do not compare" in table.notes[0]


def test_departures_from_the_recipe_are_told() -> None:
    study, rows = example(departures=("fp16 instead of bf16",))
    assert "Departures from the recipe asked for: fp16 instead of bf16." in (
        study_table(study, rows).notes
    )


# --- a paper's table -----------------------------------------------------------------------------


def test_nothing_run_is_a_dash() -> None:
    table = paper_table("coat.table6", {})
    assert [row["top1"] for row in table.records()] == [68.8, 75.0, 75.9, 77.5]
    assert all("measured" not in row for row in table.rows)
    assert "Nothing of this has been measured here yet." in table.statements


def test_measured_rows_stand_beside_reported_ones_with_the_reason_against_comparing() -> None:
    _, rows = example()
    record = paper_table("coat.table6", {"position_encoding": rows}).records()[0]
    assert record["study"] == "position_encoding"
    assert record["measured"] == pytest.approx(70, abs=2)
    assert record["difference"] is None
    assert record["verdict"] == (
        "not comparable: digits-canvas, 20 epochs, 32 pixels, another network"
    )


def of_the_paper(**values: Any) -> pd.DataFrame:
    """Rows of the paper's own networks, data and epochs."""
    paper = {
        "dataset": "imagenet-jpeg",
        "epochs": 300,
        "image_size": 224,
        "train_images": 1_281_167,
        **values,
    }
    means = (68.9, 75.0, 77.9, 74.0)
    overrides = ["model=coat-lite-tiny", "data.image_size=224"]
    _, rows = example(means=means, sd=0.2, overrides=overrides, **paper)
    return rows


def test_the_papers_own_recipe_is_compared() -> None:
    records = paper_table("coat.table6", {"position_encoding.imagenet": of_the_paper()}).records()
    verdicts = [record["verdict"] for record in records]
    assert verdicts == [
        "consistent with the reported value at n = 3",
        "consistent with the reported value at n = 3",
        "above the reported value",
        "below the reported value",
    ]
    assert records[2]["difference"] == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("dataset", "cifar10-jpeg", "not comparable: cifar10-jpeg, 300 epochs"),
        ("epochs", 30, "not comparable: imagenet-jpeg, 30 epochs"),
        ("image_size", 160, "not comparable: imagenet-jpeg, 300 epochs, 160 pixels"),
        (
            "train_images",
            128_117,
            "not comparable: imagenet-jpeg, 300 epochs, 128,117 training images",
        ),
        ("arch", "coat-lite-mini", "not comparable: imagenet-jpeg, 300 epochs, another network"),
    ],
)
def test_one_condition_that_differs_is_enough(column: str, value: Any, reason: str) -> None:
    table = paper_table("coat.table6", {"mine": of_the_paper(**{column: value})})
    assert table.records()[1]["verdict"] == reason


def test_stochastic_depth_is_recipe_and_not_another_network() -> None:
    from ablate.papers import load_paper_table
    from ablate.report.comparable import same_network

    row = load_paper_table("coatnet.table9").rows[0]
    assert same_network(row, "S2x64:C2x96-C3x192-T5x384-T2x768@drop_path_rate=0.2")
    assert not same_network(row, "S2x64:C2x96-C3x192-T5x384-T2x768@norm=ln")
    assert not same_network(row, "timm:coatnet_0_224")


def test_studies_of_other_tables_stand_where_they_trained_the_very_network() -> None:
    rows = of_the_paper().assign(paper="coat.table6")
    records = {row["row"]: row for row in paper_table("coat.table2", {"mine": rows}).records()}
    assert records["CoaT-Lite Tiny"]["study"] == "mine"
    assert records["CoaT-Lite Mini"].get("study") is None
    untouched = paper_table("coat.table7", {"mine": rows}).records()
    assert not any(row.get("study") for row in untouched)


# --- formats -------------------------------------------------------------------------------------

ODD = Table(
    name="odd",
    title="50% & more_or_less #1",
    columns=(
        Column(key="name", title="Name_1"),
        Column(key="x", title="x | y", numeric=True),
        Column(key="text", title="Words", wide=True),
    ),
    rows=(
        {
            "name": Cell(text="a & b", values={"": "a & b"}),
            "x": Cell(text="[−1.0, +2.0]", values={"low": -1.0, "high": 2.0}, bold=True),
        },
        {"name": Cell(text="<b>|*", values={"": "<b>"}), "x": Cell(text="3", values={"low": 3.0})},
    ),
    statements=("a ~ b: undecided at n = 2 (80% power at 2.4 points)",),
    notes=("≠ {x}^2 × 100% → $5 ± 1 \\ done ≥ †",),
)


def test_csv_has_the_values_and_one_header_for_all_rows() -> None:
    records = list(csv.DictReader(io.StringIO(ODD.render("csv"))))
    assert records[0] == {"name": "a & b", "x_low": "-1.0", "x_high": "2.0", "text": ""}
    assert records[1]["x_high"] == ""


def test_markdown_escapes_bars_and_marks_bold() -> None:
    text = ODD.render("md")
    assert "| a & b | **[−1.0, +2.0]** | – |" in text
    assert r"| \<b>\|\* |" in text


def test_html_escapes_markup() -> None:
    text = ODD.render("html")
    assert "&lt;b&gt;" in text
    assert "<strong>[−1.0, +2.0]</strong>" in text


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_terminal_text_fits_the_width_and_cuts_nothing_off(width: int) -> None:
    study, rows = example()
    table = study_table(study, fail(rows, 4))
    text = table.render("terminal", width=width)
    assert max(map(len, text.splitlines())) <= width
    for column in table.columns:
        for word in column.title.split():
            assert word in text, column
    for row in table.rows:
        for column, cell in zip(table.columns, table.cells(row), strict=True):
            assert not column.numeric or cell.text in text, "a number stays on one line"


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(AblateError, match=r"unknown table format 'latec' \(did you mean 'latex'"):
        ODD.render("latec")


def test_counts_keep_three_digits() -> None:
    found = [count(value) for value in (5_722_856, 999_600, 12_548_023_008, 25_000_000, None)]
    assert found == ["5.72M", "1.00M", "12.5G", "25.0M", "–"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path) -> None:
    study, rows = example()
    tables = [ODD, study_table(study, fail(rows, 4)), paper_table("coat.table6", {"p": rows})]
    tables += [paper_table(name, {}) for name in ("coat.table2", "coatnet.figure1", "atc.table6")]
    body = "\n".join(table.render("latex") for table in tables)
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\n\\usepackage{array,booktabs,graphicx}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
