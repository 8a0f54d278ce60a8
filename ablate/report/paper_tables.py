"""A published table rebuilt: reported beside recomputed, measured, interval, difference, verdict.

Accuracies of studies stand beside the rows whose variant (or network) they trained, with the
reason where data, epochs, image size or network differ from the paper's; nothing is filled in
where nothing was run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from ablate.papers import Measure, PaperTable, Row, load_paper_table, printed
from ablate.report.cells import measured_cell, rounded
from ablate.report.claims import claims_of, judge, quantity
from ablate.report.comparable import not_comparable, same_network
from ablate.report.evidence import mixed_conditions
from ablate.report.paper_costs import Built, Counter, Flops, cost_cells, count_row, mismatches
from ablate.report.summaries import Summary, summarize
from ablate.report.table import (
    DASH,
    EMPTY,
    Cell,
    Column,
    Table,
    interval,
    number,
    signed,
)


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One row of the rebuilt table: a published row with what one study measured of it."""

    row: Row
    study: str = ""
    runs: pd.DataFrame | None = None


def paper_table(
    name: str,
    rows_by_study: Mapping[str, pd.DataFrame],
    cost: Counter | None = None,
    flops: Flops | None = None,
) -> Table:
    """The published table of this name, rebuilt.

    Args:
        name: as in `coat.table6`; `ablate.papers.table_names` lists them.
        rows_by_study: rows by the full name of the study. Rows with a column `paper` that names
            another table (or none) stand beside a published row only where they trained its very
            network; all others are matched by the levels of their variant.
        cost: counts a built network; without it nothing is recomputed.
        flops: counts as the paper does; without it multiply-adds are shown.

    Raises:
        AblateError: no such table; lists the nearest and the choices.
    """
    paper = load_paper_table(name)
    found = {
        study: matched
        for study, rows in rows_by_study.items()
        if (matched := match(paper, rows[rows["status"] == "done"]))
    }
    lines = list(_lines(paper, found))
    built = {row.name: count_row(paper, row, cost, flops) for row in paper.rows}
    return Table(
        name=name,
        title=f"{paper.citation.place} of {paper.citation.title}: {paper.title}",
        columns=tuple(_columns(paper, bool(found), cost is not None, flops is not None)),
        rows=tuple(_cells(paper, line, built[line.row.name]) for line in lines),
        statements=tuple(_statements(paper, found)),
        notes=tuple(_notes(paper, built, found)),
    )


def match(paper: PaperTable, done: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Finished rows by the name of the published row that they are runs of.

    Of several published rows with one variant (at other sizes or after other pre-training) the
    one with the runs' image size is taken, else the first.
    """
    found: dict[str, pd.DataFrame] = {}
    for _, runs in done.groupby("variant_name", sort=False):
        row = _row_for(paper, runs)
        if row is not None:
            found[row.name] = runs.sort_values("seed")
    return found


def _row_for(paper: PaperTable, runs: pd.DataFrame) -> Row | None:
    first = runs.iloc[0]
    declared = "paper" not in runs or first["paper"] == paper.name
    if declared:
        candidates = paper.rows_of(first["variant"] or {})
    else:
        candidates = [row for row in paper.rows if same_network(row, str(first["arch"]))]
    at_size = [r for r in candidates if paper.recipe_of(r).image_size == first["image_size"]]
    chosen = at_size or (candidates if declared else [])
    return chosen[0] if chosen else None


def _lines(paper: PaperTable, found: Mapping[str, Mapping[str, pd.DataFrame]]) -> Iterator[_Line]:
    for row in paper.rows:
        studies = [study for study, runs in found.items() if row.name in runs]
        if not studies:
            yield _Line(row=row)
        for study in studies:
            yield _Line(row=row, study=study, runs=found[study][row.name])


def _columns(paper: PaperTable, measured: bool, counted: bool, converted: bool) -> Iterator[Column]:
    roles = {measure.role for measure in paper.measures}
    yield Column(key="row", title="Row")
    if len({paper.recipe_of(row).image_size for row in paper.rows}) > 1:
        yield Column(key="image_size", title="Input", numeric=True)
    for measure in paper.measures:
        if measure.role != "measured":
            title = f"Reported {measure.title}" if measure.role == "top1" else measure.title
            yield Column(key=measure.key, title=title, numeric=measure.role != "text")
    if counted:
        yield Column(key="built_params", title="Params built", numeric=True)
        if paper.recipe.data != "coco":  # a detector costs what its images' sizes make it
            yield Column(key="built_flops", title=_counter_title(paper, converted), numeric=True)
    if measured:
        yield Column(key="study", title="Study")
        for measure in paper.measures:
            if measure.role in ("measured", "top5"):
                yield Column(
                    key=f"measured_{measure.key}", title=f"Measured {measure.title}", numeric=True
                )
    if "top1" in roles:
        yield Column(key="measured", title="Measured top-1", numeric=True)
        yield Column(key="interval", title="Interval", numeric=True)
        yield Column(key="n", title="n", numeric=True)
        yield Column(key="difference", title="Difference", numeric=True)
    if "top1" in roles or "measured" in roles:
        yield Column(key="verdict", title="Verdict", wide=True)


def _counter_title(paper: PaperTable, converted: bool) -> str:
    counted_otherwise = paper.flops != "macs" and converted
    return "FLOPs built, paper's count" if counted_otherwise else "MACs built"


def _cells(paper: PaperTable, line: _Line, built: Built | None) -> dict[str, Cell]:
    row = line.row
    size = paper.recipe_of(row).image_size
    cells = {
        "row": Cell(text=row.name, values={"": row.name}),
        "image_size": Cell(text=str(size), values={"": size}),
        **{measure.key: _printed(measure, row) for measure in paper.measures},
        **(cost_cells(paper, row, built) if built else {}),
    }
    if line.runs is None:
        return cells
    cells["study"] = Cell(text=line.study, values={"": line.study})
    return {**cells, **_measured(paper, row, line.runs)}


def _printed(measure: Measure, row: Row) -> Cell:
    if measure.key not in row.reported:
        return EMPTY
    text = str(row.reported[measure.key])
    known = printed(text) if measure.role != "text" else None
    return Cell(text=text, values={"": known[0] if known else text})


def _measured(paper: PaperTable, row: Row, runs: pd.DataFrame) -> dict[str, Cell]:
    top1 = summarize(runs["top1"].to_numpy(dtype=float))
    reported = printed(row.reported.get("top1", ""))
    reason = not_comparable(paper, runs, row)
    bounds = interval(top1.low, top1.high)
    cells = {
        f"measured_{measure.key}": measured_cell(summarize(quantity(runs, measure.key)))
        for measure in paper.measures
        if measure.role in ("measured", "top5")
    }
    seeds = measured_cell(top1, runs["top1"]).values
    cells["measured"] = Cell(text=number(top1.mean), values=seeds)
    cells["interval"] = Cell(text=bounds or DASH, values={"": bounds or None})
    cells["n"] = Cell(text=str(top1.n), values={"": top1.n})
    if reported and not reason:
        change = top1.mean - reported[0]
        cells["difference"] = Cell(text=signed(change), values={"": rounded(change)})
    verdict = reason or (level_verdict(top1, reported[0]) if reported else "measured")
    cells["verdict"] = Cell(text=verdict, values={"": verdict})
    return cells


def level_verdict(measured: Summary, reported: float) -> str:
    """Whether the interval of the measured mean holds the one number that the paper prints."""
    if measured.low is None or measured.high is None:
        return "undecided at n = 1: no interval"
    if measured.low <= reported <= measured.high:
        return f"consistent with the reported value at n = {measured.n}"
    return "above the reported value" if measured.mean > reported else "below the reported value"


def _statements(
    paper: PaperTable, found: Mapping[str, Mapping[str, pd.DataFrame]]
) -> Iterator[str]:
    yield from claims_of(paper)
    for study, runs in found.items():
        done = pd.concat(list(runs.values()))
        reasons = not_comparable(paper, done)
        where = f" ({reasons.removeprefix('not comparable: ')})" if reasons else ""
        for sentence in judge(paper, runs):
            yield f"{study}{where}: {sentence}"
    if paper.claims and not found:
        yield "Nothing of this has been measured here yet."


def _notes(
    paper: PaperTable,
    built: Mapping[str, Built | None],
    found: Mapping[str, Mapping[str, pd.DataFrame]],
) -> Iterator[str]:
    yield f"Reported: {paper.citation}. {_recipe(paper)}"
    yield from paper.notes
    yield from mismatches(paper, built)
    if any(found.values()):
        yield (
            "Measured: test top-1 in % at the last epoch, mean, 95% Student-t interval over n "
            "seeds; difference: measured minus reported, where comparable."
        )
    for runs in found.values():
        yield from mixed_conditions(pd.concat(list(runs.values())))


def _recipe(paper: PaperTable) -> str:
    recipe = paper.recipe
    epochs = f"{recipe.epochs} epochs" if recipe.epochs else "epochs not stated"
    text = f"; {recipe.text}" if recipe.text else ""
    return f"Recipe: {recipe.data}, {recipe.image_size} pixels, {epochs}{text}."
