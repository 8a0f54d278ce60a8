"""Rows as text: exact, sorted, one line each, so that they travel by git."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_fakes import fake_result, fake_study, instant

from ablate.errors import ResultsError
from ablate.study.engine import run
from ablate.study.rows import (
    Row,
    best_of_each,
    format_rows,
    read_rows,
    write_rows,
)
from ablate.study.settings import Settings
from ablate.study.store import load_results


def row(seed: int = 0, **more: object) -> Row:
    trial = fake_study().raw[0].trials[0].model_copy(update={"seed": seed})
    named = {"study": "fake", "profile": None, "variant_name": "level=0", "variant": {"level": 0}}
    return {**named, **fake_result(trial).model_dump(), **more}


numbers = st.floats(allow_nan=False)
words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1)


@given(top1=numbers, message=words, sizes=st.dictionaries(words, numbers))
def test_reading_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, top1: float, message: str, sizes: dict[str, float]
) -> None:
    path = tmp_path_factory.getbasetemp() / "trials.csv"
    path.unlink(missing_ok=True)
    written = row(top1=top1, departures=(message,), eval_sizes=sizes, failure_message=message)
    write_rows(path, [written])
    (found,) = read_rows(path)
    assert {name: found[name] for name in written} == written


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    assert write_rows(path, [row(seed) for seed in range(5)])
    before = path.read_bytes()
    assert not write_rows(path, reversed(read_rows(path)))
    assert path.read_bytes() == before


def test_a_row_is_one_line_whatever_its_message(tmp_path: Path) -> None:
    write_rows(tmp_path / "trials.csv", [row(failure_message="two\nlines, \r\n with \t space")])
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 2
    assert read_rows(tmp_path / "trials.csv")[0]["failure_message"] == "two lines, with space"


def test_rows_are_sorted_by_key(tmp_path: Path) -> None:
    write_rows(tmp_path / "trials.csv", [row(seed) for seed in range(9)])
    keys = [found["key"] for found in read_rows(tmp_path / "trials.csv")]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace(",99.5,", ",99.x,"), r"line 2, column 'top5': '99.x' is damag"),
        (lambda text: text + "torn,line\n", r"line 3: 2 cells where the header has \d+$"),
        (lambda text: text + "<<<<<<< HEAD\n", r"line 3: 1 cells .* \(an unresolved git merge\?\)"),
        (lambda text: text.replace("key,", "kex,", 1), r"line 1: the header has no column 'key'"),
    ],
    ids=["cell", "line", "merge", "header"],
)
def test_damage_is_told_with_its_line(tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "trials.csv"
    write_rows(path, [row()])
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    with pytest.raises(ResultsError, match=message):
        read_rows(path)


def test_a_result_counts_before_a_failure_of_the_same_key() -> None:
    failed = {"key": row()["key"], "variant_name": "level=0", "status": "failed"}
    assert best_of_each([row(), failed]) == [row()]
    assert best_of_each([failed, row()]) == [row()]


def test_columns_of_a_later_version_are_kept() -> None:
    text = format_rows([row(novelty=3)])
    assert text.splitlines()[0].endswith(",fingerprint,novelty")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )


@pytest.mark.parametrize("shared", [0, 3], ids=["from nothing", "beside common rows"])
def test_git_merges_the_results_of_two_machines_without_conflict(
    tmp_path: Path, shared: int
) -> None:
    """Each machine trains other variants; a merge holds all rows, and reads as one table."""
    whole = fake_study(variants=6, seeds=3)

    def train(machine: Path, variants: slice) -> None:
        part = replace(whole, raw=whole.raw[variants])
        folders = {"runs": machine / "runs", "results": machine / "results"}
        run(part, Settings(**folders, executor="serial", fit=instant))

    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    git(a, "init")
    (a / ".gitignore").write_text("runs/\n")
    if shared:
        train(a, slice(0, 2))
    git(a, "add", ".")
    git(a, "commit", "-m", "base")
    git(tmp_path, "clone", "-q", "a", "b")
    train(a, slice(0, 4))
    train(b, slice(2, 6))
    for machine in (a, b):
        git(machine, "add", ".")
        git(machine, "commit", "-m", "results")
    git(a, "pull", "--no-rebase", "-q", "../b", "main")
    merged = load_results(whole, results=a / "results", runs=tmp_path / "none")
    assert (merged["status"] == "done").all()
    assert len(merged) == 18
