"""The HTML page: complete, self-contained, safe, and readable in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_examples import curves_of, example, fail

from ablate.report.background import confounds_of
from ablate.report.page import write_comparison, write_page
from ablate.report.paired_tables import paired_table
from ablate.report.predictions import correct_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


class Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study, rows = example()
    rows = fail(rows, 4)
    rows.loc[4, "failure_message"] = "loss is <nan> at step 120"
    return write_page(study, rows, curves_of(rows), tmp_path_factory.mktemp("page") / "r.html")


def test_a_page_holds_all_parts_of_the_evidence(page: Path) -> None:
    text = page.read_text()
    for title in ("Verdicts", "Table", "Figures", "Design", "Failures", "Confounds",
                  "Environment", "How to reproduce"):  # fmt: skip
        assert f"<h2>{title}</h2>" in text
    assert "Do CPE and CRPE add up?" in text
    assert "ablate run position_encoding" in text
    assert "F1x32-F1x64-F1x96-F2x128" in text
    assert "11 of 12 trials finished, 1 failed, 0 have not been run." in text
    assert "cpe=true crpe=false against cpe=false crpe=false: higher." in text


def test_a_page_loads_nothing_from_elsewhere(page: Path) -> None:
    links = Links()
    links.feed(page.read_text())
    assert len(links.found) >= 5
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links.found)
    assert not re.search(r"@import|url\(http|<script", page.read_text())


def test_messages_are_escaped(page: Path) -> None:
    assert "loss is &lt;nan&gt; at step 120" in page.read_text()


def test_confounds_name_what_else_changes() -> None:
    study, rows = example()
    assert confounds_of(study, rows, None) == []
    rows.loc[3:5, "params"] = 110_000
    assert confounds_of(study, rows, None) == ["cpe=false crpe=true: params +10.0%"]
    rows.loc[0, "device"] = "cuda:0"
    assert "mix device classes" in confounds_of(study, rows, None)[1]


def test_confounds_of_the_pre_flight_check_are_shown_instead() -> None:
    study, rows = example()
    given = {"cpe=false crpe=true": ["initialisation of 3 shared parameters"], "other": []}
    assert confounds_of(study, rows, given) == [
        "cpe=false crpe=true: initialisation of 3 shared parameters"
    ]


def test_settings_that_differ_beside_the_factor_are_confounds() -> None:
    study, rows = example("layout", (80.0, 79.0, 78.0, 76.0, 70.0))
    found = {text.partition(":")[0]: text for text in confounds_of(study, rows, None)}
    assert "C-C-T-T" not in found, "it is the baseline"
    assert "widths" in found["C-C-C-C"]
    assert "stem" in found["ViT_rel"]


def test_a_study_without_results_has_a_page(tmp_path: Path) -> None:
    study, rows = example()
    rows = rows.assign(status="missing", top1=np.nan)
    text = write_page(study, rows, curves_of(rows), tmp_path / "a.html").read_text()
    assert "No finished trial yet" in text
    assert "12 have not been run" in text


@pytest.mark.slow
def test_two_studies_stand_on_one_page(tmp_path: Path) -> None:
    first, second = example(), example("co_scale", (70.0, 71.0, 72.0))
    path = write_comparison(
        (*first, curves_of(first[1])), (*second, curves_of(second[1])), tmp_path / "c.html"
    )
    text = path.read_text()
    assert "position_encoding and co_scale, each against its own baseline" in text
    assert "<h1>position_encoding</h1>" in text
    assert "<h1>co_scale</h1>" in text
    assert text.count("<h2>Verdicts</h2>") == 2


def test_predictions_give_a_comparison_image_by_image() -> None:
    study, rows = example()
    generator = np.random.default_rng(0)
    right = {key: generator.random(300) < top1 / 100 for key, top1 in rows[["key", "top1"]].values}
    found = paired_table(study, rows, right.__getitem__).records()
    assert [row["note"] for row in found] == ["these seeds only (conditional)"] * 3
    assert found[2]["better"] == 1.0
    assert found[2]["mcnemar"] is None, "there are several runs"


@pytest.mark.slow
def test_a_page_shows_the_comparison_image_by_image(tmp_path: Path) -> None:
    study, rows = example()
    right = {key: np.arange(50) < 40 + index for index, key in enumerate(rows["key"][::-1])}
    text = write_page(
        study, rows, curves_of(rows), tmp_path / "a.html", correct=right.__getitem__
    ).read_text()
    assert "<h2>Image by image</h2>" in text


def test_predictions_count_only_where_every_finished_trial_has_them(tmp_path: Path) -> None:
    _, rows = example()
    rows = fail(rows, 4)
    keys = list(rows["key"].drop(4))
    for number, key in enumerate(keys):
        assert correct_of(rows, results=tmp_path, runs=tmp_path) is None
        (tmp_path / key).mkdir()
        labels = np.arange(6) % 3
        guess = np.where(np.arange(6) < number, labels, labels + 1)
        np.savez(tmp_path / key / "predictions.npz", label=labels, prediction=guess)
    found = correct_of(rows, results=tmp_path, runs=tmp_path)
    assert found
    assert found(keys[2]).tolist() == [True, True, False, False, False, False]


def test_single_runs_are_compared_by_mcnemar() -> None:
    study, rows = example(overrides=["seeds=1"])
    right = {key: np.arange(200) < (140 if i else 100) for i, key in enumerate(rows["key"])}
    found = paired_table(study, rows, right.__getitem__).records()
    assert found[0]["mcnemar"] is not None
    assert float(str(found[0]["mcnemar"])) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("size", ["1200,2000", "500,2000"])
def test_a_browser_renders_the_page_without_sideways_scrolling(
    page: Path, size: str, tmp_path: Path
) -> None:
    """The page itself fits the screen; wide tables and figures scroll inside their boxes."""
    probe = tmp_path / "probe.html"
    script = (
        "<script>addEventListener('load', () => document.body.setAttribute('data-fits', "
        "String(document.documentElement.scrollWidth <= innerWidth) + [...document.images]"
        ".every(i => i.complete && i.naturalWidth > 0)))</script></body>"
    )
    probe.write_text(page.read_text().replace("</body>", script))
    assert CHROMIUM
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}",
         "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert 'data-fits="truetrue"' in done.stdout
