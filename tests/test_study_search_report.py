"""What a search shows: its table, its page and its Pareto set."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from search_examples import Write, search_settings, write_search

from ablate.study.audit import check_results
from ablate.study.engine import run
from ablate.study.settings import Settings
from ablate.study.spec import load_study
from ablate.study.store import load_curves, load_results


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(write_search, tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return search_settings(tmp_path)


def test_the_table_shows_val_first_and_the_best_as_a_command(
    write: Write, settings: Settings
) -> None:
    from ablate.report.publish import evidence_table

    study = load_study(write("random"))
    run(study, settings)
    rows = load_results(study, settings.results, settings.runs)
    table = evidence_table(study, rows)
    records = table.records()
    values = [record["val_top1"] for record in records]
    assert values == sorted(values, reverse=True)
    assert table.statements[0].endswith(f"ablate show '{records[0]['arch']}'")
    assert "6 done of 6 trials" in table.notes[0]


def test_its_evidence_is_written_checked_and_shown_as_a_page(
    write: Write, settings: Settings
) -> None:
    from ablate.report.page import write_page
    from ablate.report.publish import drift, publish

    study = load_study(write("random"))
    folder = run(study, settings).folder
    where = {"results": settings.results, "runs": settings.runs}
    rows, curves = load_results(study, **where), load_curves(study, **where)
    files = {path.name for path in publish(study, rows, curves, folder)}
    assert {"table.md", "pareto.png"} <= files
    assert drift(study, rows, curves, folder) == []
    assert check_results(study, **where) == []
    committed = load_results("small", settings.results, settings.runs)
    assert list(committed["key"]) == list(rows["key"])
    page = write_page(study, rows, curves, folder / "report.html").read_text()
    assert "Best on val" in page


def test_the_pareto_set_is_what_nothing_beats(write: Write) -> None:
    import pandas as pd

    from ablate.report.search_tables import pareto_set, ranked

    study = load_study(write())
    rows = pd.DataFrame(
        [(0, 70.0, 10), (1, 80.0, 20), (2, 75.0, 20), (3, 60.0, 10), (4, 80.0, 20)],
        columns=["number", "val_top1", "macs"],
    ).assign(status="done")
    done = ranked(study.search, rows)
    assert list(done["number"]) == [1, 4, 2, 0, 3]
    assert pareto_set(study.search, done) == {0, 1, 4}
