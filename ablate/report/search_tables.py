"""The table of a search: the best networks on `val`, their test top-1 beside, the Pareto set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.report.evidence import mixed_conditions
from ablate.report.table import EMPTY, Cell, Column, Table, count, number
from ablate.study.search_parse import COSTS, MEASURED, Search

if TYPE_CHECKING:
    from ablate.study.spec import Study

TOP = 10
"""Networks shown beside the Pareto set."""

_COLUMNS = (
    Column(key="trial", title="Trial", numeric=True),
    Column(key="layout", title="Layout"),
    Column(key="val_top1", title="Val top-1", numeric=True),
    Column(key="top1", title="Test top-1", numeric=True),
    Column(key="params", title="Params", numeric=True),
    Column(key="macs", title="MACs", numeric=True),
    Column(key="pareto", title="Pareto"),
    Column(key="arch", title="Arch", wide=True),
)


def search_table(study: Study, rows: pd.DataFrame) -> Table:
    """The ten best networks by the first objective, and every one of the Pareto set.

    Args:
        study: with `design: search`.
        rows: one row a trial; pruned and failed ones are counted in the notes.
    """
    assert study.search is not None
    done = ranked(study.search, rows)
    front = pareto_set(study.search, done)
    shown = done[(done.reset_index(drop=True).index < TOP) | done["number"].isin(front)]
    profile = f" ({study.profile})" if study.profile else ""
    return Table(
        name=study.full_name,
        title=f"{study.name}{profile}: {' '.join(study.question.split()) or 'a search'}",
        columns=_COLUMNS,
        rows=tuple(
            _cells({str(k): v for k, v in row.items()}, row["number"] in front)
            for row in shown.to_dict("records")
        ),
        statements=tuple(_statements(done)),
        notes=tuple(_notes(study.search, rows, done)),
    )


def ranked(search: Search, rows: pd.DataFrame) -> pd.DataFrame:
    """The finished trials of a search, the best by its first objective first."""
    first = search.objectives[0]
    done = rows[rows["status"] == "done"].dropna(subset=[first])
    return done.sort_values([first, "number"], ascending=[MEASURED[first] == "minimize", True])


def pareto_set(search: Search, done: pd.DataFrame) -> set[int]:
    """Numbers of the trials that no other one equals or beats in every objective.

    With a single objective, multiply-adds count as the second.
    """
    objectives = search.objectives if len(search.objectives) > 1 else (*search.objectives, "macs")
    signs = [-1.0 if MEASURED.get(name) == "maximize" else 1.0 for name in objectives]
    known = done.dropna(subset=[*objectives])
    points = {
        int(row["number"]): tuple(
            sign * float(row[name]) for sign, name in zip(signs, objectives, strict=True)
        )
        for row in known.to_dict("records")
    }
    return {
        number
        for number, point in points.items()
        if not any(_beats(other, point) for other in points.values())
    }


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether a point is nowhere worse than another, and somewhere better; less is better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def layout_of(arch: str) -> str:
    """The kinds of the stages of an arch string: "C-C-T-T"."""
    from ablate.grammar import parse

    return "-".join("+".join(run.kind for run in stage) for stage in parse(arch).stages)


def _cells(row: dict[str, Any], on_front: bool) -> dict[str, Cell]:
    return {
        "trial": Cell(text=str(int(row["number"])), values={"": int(row["number"])}),
        "layout": _text(layout_of(str(row["arch"]))),
        "val_top1": _percent(row["val_top1"]),
        "top1": _percent(row["top1"]),
        **{name: _count(row[name], unit) for name, unit in zip(COSTS, "BG", strict=True)},
        "pareto": Cell(text="yes" if on_front else "", values={"": on_front}),
        "arch": _text(str(row["arch"])),
    }


def _text(text: str) -> Cell:
    return Cell(text=text, values={"": text})


def _percent(value: float) -> Cell:
    return EMPTY if pd.isna(value) else Cell(text=number(value), values={"": round(value, 4)})


def _count(value: float, unit: str) -> Cell:
    return EMPTY if pd.isna(value) else Cell(text=count(int(value), unit), values={"": int(value)})


def _statements(done: pd.DataFrame) -> list[str]:
    if done.empty:
        return []
    best = done.iloc[0]
    return [
        f"Best on val: trial {int(best['number'])}, {layout_of(str(best['arch']))}, val "
        f"{number(best['val_top1'])}, test {number(best['top1'])}: ablate show '{best['arch']}'"
    ]


def _notes(search: Search, rows: pd.DataFrame, done: pd.DataFrame) -> list[str]:
    states = rows["status"].value_counts()
    counted = ", ".join(
        f"{int(states[name])} {name}"
        for name in ("done", "pruned", "failed", "missing")
        if name in states
    )
    limits = "; ".join(f"{name} {bounds}" for name, bounds in search.constraints.items())
    return [
        f"Searched with {search.sampler} (seed {search.seed}) for {', '.join(search.objectives)}: "
        f"{counted or 'nothing yet'} of {search.trials} trials"
        + (f"; constraints: {limits}." if limits else "."),
        "Val and test top-1 in % at the last epoch, one seed. The search chose by val alone: the "
        f"val value of the best of {len(done)} is optimistic, its test value is not. Which of two "
        "neighbours is better needs a study of them with several seeds.",
        *_failure_notes(rows),
        *mixed_conditions(rows),
    ]


def _failure_notes(rows: pd.DataFrame) -> list[str]:
    kinds = rows.loc[rows["status"] == "failed", "failure"].value_counts().sort_index()
    counted = ", ".join(f"{int(n)} {kind}" for kind, n in kinds.items())
    return [f"Failed: {counted}."] if counted else []
