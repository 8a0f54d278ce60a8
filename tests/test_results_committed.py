"""Committed results: rows, tables, figures and what the documents quote say one thing.

Every table and every number of a figure is derived from the committed rows again and compared
with the file; README.md and docs/results.md may quote a table only as it stands in its folder.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ablate.cli import main
from ablate.report.publish import drift
from ablate.study.audit import check_results
from ablate.study.environment import code, code_digest
from ablate.study.equal_code import holds
from ablate.study.spec import Study, load_study
from ablate.study.store import load_curves, load_predictions, load_results
from ablate.study.tuning_rows import load_tuning

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/trials.csv"))
DOCUMENTS = [path for path in (ROOT / "README.md", ROOT / "docs" / "results.md") if path.exists()]

each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def study_of(folder: Path) -> Study:
    """The study and profile that a folder of results belongs to."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    study = load_study(meta["study"], meta["profile"])
    assert study.full_name == folder.name
    return study


def committed(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows and curves of a folder, with no run folder beside them."""
    where = {"results": folder.parent, "runs": folder / "no-runs"}
    study = study_of(folder)
    return load_results(study, **where), load_curves(study, **where)


def drifted(folder: Path) -> list[str]:
    """What in a folder does not follow from its rows."""
    study = study_of(folder)
    where = {"results": folder.parent, "runs": folder / "no-runs"}
    tuning = load_tuning(study, **where) if study.tune else None
    return drift(study, *committed(folder), folder, tuning)


def test_there_are_results() -> None:
    assert {folder.name for folder in FOLDERS} >= {"position_encoding", "layout"}


@each_folder
def test_rows_contradict_nothing_and_belong_to_the_study(folder: Path) -> None:
    found = check_results(study_of(folder), results=RESULTS, runs=folder / "no-runs")
    assert [one.message for one in found] == []


@each_folder
def test_tables_and_figures_follow_from_the_rows(folder: Path) -> None:
    assert drifted(folder) == []


@each_folder
def test_accuracy_is_that_of_the_predictions_and_the_last_epoch(folder: Path) -> None:
    rows, curves = committed(folder)
    last = curves.sort_values("epoch").groupby("key").last()
    for row in rows[rows["status"] == "done"].to_dict("records"):
        guessed = load_predictions(row["key"], RESULTS, folder / "no-runs")
        right = 100 * float((guessed["label"] == guessed["prediction"]).mean())
        assert right == pytest.approx(row["top1"], abs=1e-4)
        assert len(guessed["label"]) == row["test_images"]
        assert last.loc[row["key"], "train_top1"] == pytest.approx(row["train_top1"])
        assert last.loc[row["key"], "epoch"] == row["epochs"]


@each_folder
def test_a_folder_holds_neither_weights_nor_images(folder: Path) -> None:
    allowed = {".csv", ".json", ".md", ".tex", ".png", ".npz"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= allowed
    assert max(path.stat().st_size for path in files) < 2**20


# ------------------------------------------------------------- one perturbed cell is seen


def replace_once(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def a_cell_of_the_rows(folder: Path) -> None:
    path = folder / "trials.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    done = table.index[table["status"] == "done"][0]
    table.loc[done, "top1"] = str(float(table.loc[done, "top1"]) - 1.0)
    table.to_csv(path, index=False, lineterminator="\n")


def a_cell_of_the_table(folder: Path) -> None:
    text = (folder / "table.md").read_text(encoding="utf-8")
    cell = re.search(r"\| (\d+\.\d) ± ", text)
    assert cell is not None
    changed = f"{float(cell.group(1)) + 0.1:.1f}"
    replace_once(folder / "table.md", cell.group(), cell.group().replace(cell.group(1), changed))


def a_number_of_a_figure(folder: Path) -> None:
    path = folder / "generalization_capacity.json"
    panels = json.loads(path.read_text(encoding="utf-8"))
    panels[0]["marks"][0]["y"][0] += 0.01
    path.write_text(json.dumps(panels), encoding="utf-8")


def a_row_less(folder: Path) -> None:
    lines = (folder / "trials.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "trials.csv").write_text("".join(lines[:-1]), encoding="utf-8")


def a_figure_less(folder: Path) -> None:
    (folder / "effects.png").unlink()


PERTURBED: dict[Callable[[Path], None], set[str]] = {
    a_cell_of_the_rows: {"table.md", "table.tex", "generalization_capacity.json", "effects.json"},
    a_cell_of_the_table: {"table.md"},
    a_number_of_a_figure: {"generalization_capacity.json"},
    a_row_less: {"table.md", "table.tex", "generalization_capacity.json", "effects.json"},
    a_figure_less: {"effects.png"},
}


@pytest.mark.parametrize("perturb", PERTURBED, ids=lambda change: change.__name__)
def test_one_perturbed_cell_is_told_with_its_file(
    perturb: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "position_encoding"
    shutil.copytree(RESULTS / folder.name, folder)
    perturb(folder)
    told = drifted(folder)
    named = {name for name in PERTURBED[perturb] if any(f"{name}" in line for line in told)}
    assert named == PERTURBED[perturb]
    assert all(str(tmp_path) in line for line in told)
    if perturb in (a_cell_of_the_table, a_number_of_a_figure, a_figure_less):
        assert len(told) == 1


def test_the_check_of_the_command_line_tells_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(RESULTS / "position_encoding", tmp_path / "position_encoding")
    check = ["results", "position_encoding", "--check", "--results", str(tmp_path)]
    with pytest.raises(SystemExit, match="0"):
        main(check)
    a_cell_of_the_table(tmp_path / "position_encoding")
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main(check)
    assert "table.md, line 5" in capsys.readouterr().out


# --------------------------------------------------------- documents quote what is committed

_SENTENCE = re.compile(
    r"- (Main effect |Interaction |(At .*: )?(train top-1|top-1|generalization gap): )"
)


def quotations(text: str) -> list[tuple[str, str]]:
    """(folder, quotation) of every measured table and verdict, by the folder named last before it.

    A table counts as measured where its header has `Measured top-1` or, of a search, `Val top-1`.
    """
    found, folder, block = [], "", list[str]()
    for line in [*text.splitlines(), ""]:
        if named := re.findall(r"results/([\w.-]+)/", line):
            folder = named[-1]
        if line.startswith("| "):
            block.append(line)
            continue
        if block and ("Measured top-1" in block[0] or "Val top-1" in block[0]):
            found.append((folder, "\n".join(block)))
        block = []
        if _SENTENCE.match(line):
            found.append((folder, line))
    return found


def misquoted(text: str) -> list[str]:
    """Quotations that do not stand so in their folder's table."""
    wrong = []
    for folder, quotation in quotations(text):
        path = RESULTS / folder / "table.md"
        if not path.exists() or quotation not in path.read_text(encoding="utf-8"):
            wrong.append(f"{folder}: {quotation}")
    return wrong


@each_document
def test_a_document_quotes_tables_and_verdicts_as_they_stand(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert quotations(text), "nothing is quoted: the pattern no longer fits the tables"
    assert misquoted(text) == []


@each_document
def test_a_document_links_to_figures_that_are_there(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*results/[^)]+)\)", document.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("pattern", [r"\| (\d+\.\d) ± ", r"- Interaction .*: [−+](\d+\.\d) \["])
def test_a_changed_digit_of_a_quotation_is_seen(pattern: str) -> None:
    table = (RESULTS / "position_encoding" / "table.md").read_text(encoding="utf-8")
    text = f"`results/position_encoding/`\n\n{table}"
    assert misquoted(text) == []
    number = re.search(pattern, text)
    assert number is not None
    changed = text[: number.end(1) - 1] + str(9 - int(number[1][-1])) + text[number.end(1) :]
    assert len(misquoted(changed)) == 1


def told_costs() -> dict[str, tuple[int, float]]:
    """Trials and hours of every folder, as docs/results.md tells them."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([\w.-]+)` \| (\d+) \| ([\d.]+) \|$", text, re.MULTILINE)
    return {name: (int(trials), float(hours)) for name, trials, hours in lines}


def test_what_the_results_cost_is_told_for_every_folder() -> None:
    spent = {}
    for folder in FOLDERS:
        rows = committed(folder)[0]
        done = rows[rows["status"] == "done"]
        spent[folder.name] = (len(done), round(float(done["seconds"].sum()) / 3600, 2))
    assert told_costs() == spent


def test_results_on_real_images_are_those_of_today_s_code() -> None:
    """Up to rounding: what changed since is speed, or kinds of blocks that they do not have."""
    now = code_digest(code())
    for folder in RESULTS.glob("*.cifar10-jpeg"):
        rows, _ = committed(folder)
        old = [row["arch"] for row in rows.to_dict("records")
               if not holds(row["code"], now, row["arch"])]  # fmt: skip
        assert old == [], f"{folder.name}: train these again, or say in equal_code.py why they hold"
