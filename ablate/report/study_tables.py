"""The table of one study: a row a variant, what the paper reports beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ablate.papers import PaperTable, load_paper_table, printed
from ablate.papers import Row as PaperRow
from ablate.report.cells import difference_cells, level_cell, measured_cell
from ablate.report.claims import judge_claims
from ablate.report.comparable import not_comparable
from ablate.report.effects import effect_sentences
from ablate.report.evidence import Evidence, failures_of, gather, mixed_conditions, runs_of
from ablate.report.search_tables import search_table
from ablate.report.table import EMPTY, Cell, Column, Table, count, number, signed
from ablate.study.tuning import settings_text

if TYPE_CHECKING:
    from ablate.study.spec import Study
    from ablate.study.variants import Variant

_MEASURED = (
    Column(key="top1", title="Measured top-1", numeric=True),
    Column(key="n", title="n", numeric=True),
    Column(key="best_val", title="Best val (epoch)", numeric=True),
    Column(key="difference", title="Difference", numeric=True),
    Column(key="p", title="p", numeric=True),
    Column(key="verdict", title="Verdict", wide=True),
    Column(key="params", title="Params", numeric=True),
    Column(key="macs", title="MACs", numeric=True),
    Column(key="failed", title="Failed", numeric=True),
)


def study_table(study: Study, rows: pd.DataFrame, paper: PaperTable | None = None) -> Table:
    """One row a variant: levels, reported, measured mean and interval, difference, verdict, cost.

    A search has a table of its own, see `ablate.report.search_tables`; a tuned study has a column
    with what was chosen for each variant.

    Args:
        study: gives the variants, their order and the baseline.
        rows: one row a trial, as `ablate.load_results` returns them; failed ones are counted.
        paper: the published table whose rows name variants (default: the one the study names).
    """
    if study.search is not None:
        return search_table(study, rows)
    if paper is None and study.paper:
        paper = load_paper_table(study.paper)
    evidence = gather(study, rows)
    shown = tuple(
        {
            **_levels(study, variant),
            **_reported(study, variant, paper),
            **_tuned(rows, variant),
            **_measured(rows, variant, evidence),
        }
        for variant in study.variants
    )
    known = any(cells["reported"] is not EMPTY for cells in shown)
    reported = (Column(key="reported", title="Reported top-1", numeric=True),) if known else ()
    profile = f" ({study.profile})" if study.profile else ""
    return Table(
        name=study.full_name,
        title=f"{study.name}{profile}: {_question(study)}",
        columns=(*_level_columns(study), *_tuned_columns(study), *reported, *_MEASURED),
        rows=shown,
        statements=(
            *effect_sentences(study, rows),
            *(judge_claims(paper, study, rows) if paper else ()),
        ),
        notes=tuple(_notes(study, rows, evidence, paper)),
    )


def _question(study: Study) -> str:
    """What the study asks, in one line."""
    return " ".join(study.question.split()) or "an ablation study"


def _level_columns(study: Study) -> tuple[Column, ...]:
    names = list(dict.fromkeys(name for v in study.variants for name in v.levels))
    columns = [Column(key=name, title=name.removeprefix("train.")) for name in names]
    bare = [] if all(v.levels for v in study.variants) else [Column(key="variant", title="Variant")]
    return (*bare, *columns)


def _levels(study: Study, variant: Variant) -> dict[str, Cell]:
    if not variant.levels:
        return {"variant": Cell(text=variant.name, values={"": variant.name})}
    return {name: level_cell(level) for name, level in variant.levels.items()}


def _tuned_columns(study: Study) -> tuple[Column, ...]:
    return (Column(key="tuned", title="Tuned"),) if study.tune else ()


def _tuned(rows: pd.DataFrame, variant: Variant) -> dict[str, Cell]:
    """What tuning chose for a variant: "lr=0.001"."""
    mine = rows[rows["variant_name"] == variant.name]
    chosen = mine["settings"].dropna() if "settings" in mine else mine["variant"].iloc[:0]
    if chosen.empty:
        return {}
    settings = chosen.iloc[0]
    return {"tuned": Cell(text=settings_text(settings), values={"": settings_text(settings)})}


def _reported(study: Study, variant: Variant, paper: PaperTable | None) -> dict[str, Cell]:
    row = paper.row_of(variant.levels) if paper else None
    value = reported_top1(row)
    if paper is None or row is None or value is None:
        return {"reported": EMPTY}
    base = paper.row_of(study.baseline.levels)
    ground = reported_top1(base)
    change = None if ground is None or base is row else round(value - ground, 4)
    text = number(value) + (f" ({signed(change)})" if change is not None else "")
    return {"reported": Cell(text=text, values={"": value, "difference": change})}


def reported_top1(row: PaperRow | None) -> float | None:
    """The first top-1 value that a row of a published table prints, as a number."""
    known = printed(row.reported["top1"]) if row and "top1" in row.reported else None
    return known[0] if known else None


def _measured(rows: pd.DataFrame, variant: Variant, evidence: Evidence) -> dict[str, Cell]:
    runs = runs_of(rows, variant)
    summary = evidence.summary(variant.name)
    failures = failures_of(rows, variant)
    kinds = ", ".join(f"{n} {kind}" for kind, n in failures.items())
    failed = Cell(text=kinds or "0", values={"": sum(failures.values()), "kinds": kinds})
    verdict = evidence.verdict(variant.name)
    found = evidence.differences.get(variant.name)
    if summary.n == 0:
        return {"verdict": Cell(text="not run", values={"": "not run"}), "failed": failed}
    return {
        "top1": measured_cell(summary, evidence.samples[variant.name]),
        "n": Cell(text=str(summary.n), values={"": summary.n}),
        "best_val": _best_val(runs),
        **(difference_cells(found) if found else {}),
        "verdict": Cell(
            text=verdict, values={"": verdict}, bold=found is not None and found.supported
        ),
        "params": _cost(runs, "params"),
        "macs": _cost(runs, "macs"),
        "failed": failed,
    }


def _best_val(runs: pd.DataFrame) -> Cell:
    known = runs.dropna(subset=["best_val_top1"])
    if known.empty:
        return EMPTY
    top1, epoch = float(known["best_val_top1"].mean()), float(known["best_val_epoch"].mean())
    return Cell(
        text=f"{number(top1)} ({epoch:.0f})",
        values={"": round(top1, 4), "epoch": round(epoch, 2)},
    )


def _cost(runs: pd.DataFrame, key: str) -> Cell:
    known = runs[key].dropna()
    if known.empty:
        return EMPTY
    value = int(known.iloc[0])
    return Cell(text=count(value, "B" if key == "params" else "G"), values={"": value})


def _notes(
    study: Study, rows: pd.DataFrame, evidence: Evidence, paper: PaperTable | None
) -> list[str]:
    notes = []
    done = rows[rows["status"] == "done"]
    if paper is not None:
        notes.append(f"Paper: {paper.citation}. In parentheses: its difference to the baseline.")
        reason = _incomparable(study, done, paper)
        if reason:
            notes.append(f"Measured against reported: {reason}. Compare differences, not levels.")
    notes.append(
        "Measured: test top-1 in % at the last epoch, mean ± half of the 95% Student-t interval "
        "over n seeds. Best val: the best epoch on the validation split, for orientation."
    )
    if study.tune is not None:
        notes.append(
            f"Tuned: {study.tune.budget} for every variant, with seeds of their own, by mean val "
            "top-1 at the last epoch; the seeds shown were then trained at the values chosen."
        )
    methods = {found.method for found in evidence.differences.values() if found.method}
    if methods:
        each = " at each data size" if len(set(evidence.against.values())) > 1 else ""
        notes.append(
            f"Difference to the baseline, with the interval at which it was decided, and adjusted "
            f"p: {'; '.join(sorted(methods))}; {study.alpha:.0%} false claims over all comparisons"
            f"{each}."
        )
    if evidence.deviation is not None and evidence.differences:
        sd, df = evidence.deviation
        notes.append(
            f"Detectable differences use the deviation between seeds, {sd:.2f} points, pooled over "
            f"the variants of this study ({df} degrees of freedom)."
        )
    departures = sorted({text for texts in done["departures"] for text in texts or ()})
    if departures:
        notes.append(f"Departures from the recipe asked for: {'; '.join(departures)}.")
    missing = int((rows["status"] == "missing").sum())
    if missing:
        notes.append(f"{missing} of {len(rows)} trials have not been run yet.")
    return notes + mixed_conditions(rows)


def _incomparable(study: Study, done: pd.DataFrame, paper: PaperTable) -> str:
    """Why the levels cannot be compared; the same words for all variants, so the first counts."""
    for variant in study.variants:
        row = paper.row_of(variant.levels)
        reason = not_comparable(paper, runs_of(done, variant), row)
        if reason:
            return reason
    return ""


def comparison_table(studies: Sequence[tuple[Study, pd.DataFrame]]) -> Table:
    """The variants of several studies under one another, each against its own baseline.

    Args:
        studies: every study with its rows.
    """
    kept = [column for column in _MEASURED if column.key != "best_val"]
    rows = [
        {
            "study": Cell(text=study.full_name, values={"": study.full_name}),
            "variant": Cell(text=variant.name, values={"": variant.name}),
            **_measured(own, variant, evidence),
        }
        for study, own in studies
        for evidence in [gather(study, own)]
        for variant in study.variants
    ]
    names = " and ".join(study.full_name for study, _ in studies)
    datasets = {text for _, own in studies for text in own["dataset"].dropna()}
    apart = f"The studies have other data ({', '.join(sorted(datasets))}): levels do not compare."
    return Table(
        name="comparison",
        title=f"{names}, each against its own baseline",
        columns=(
            Column(key="study", title="Study"),
            Column(key="variant", title="Variant"),
            *kept,
        ),
        rows=tuple(rows),
        notes=(
            *([apart] if len(datasets) > 1 else []),
            *mixed_conditions(pd.concat([own for _, own in studies])),
        ),
    )
