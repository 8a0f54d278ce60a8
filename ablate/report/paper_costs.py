"""Costs of a published table's networks, recomputed, and every printed one that does not follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ablate.grammar import resolve
from ablate.papers import Measure, PaperTable, Row, reproduces
from ablate.presets import expand
from ablate.report.detectors import Detector, detector_params
from ablate.report.table import Cell, count


class Cost(Protocol):
    """What is read of `ablate.cost.Cost`."""

    @property
    def params(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def per_stage(self) -> Sequence[Any]: ...


Counter = Callable[[str, int, int], Any]
"""(arch or preset, image size, classes) -> the `Cost` of the built network."""

Flops = Callable[[Any, str], float]
"""(cost, convention) -> FLOPs as the paper counts them; `ablate.cost.paper_flops`."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """Counts of a built network, or of a detector on it, at the row's image size.

    Args:
        flops: as the paper counts; None where no convention was given.
    """

    params: int
    macs: int
    flops: float | None


def count_row(
    paper: PaperTable, row: Row, cost: Counter | None, flops: Flops | None
) -> Built | None:
    """The counts of a row's network; None where ablate does not build it, or nothing counts."""
    if cost is None or row.arch is None:
        return None
    recipe = paper.recipe_of(row)
    # A detector's backbone is counted as the classifier that it was trained as.
    size = 224 if recipe.data == "coco" else recipe.image_size
    found: Cost = cost(row.arch, size, row.num_classes or recipe.num_classes)
    convention = row.flops or paper.flops
    counted = None if flops is None else flops(found, convention)
    if convention == "macs":
        counted = found.macs
    params = found.params if paper.detector is None else _detector(paper.detector, row.arch, found)
    return Built(params=params, macs=found.macs, flops=counted)


def _detector(detector: Detector, arch: str, found: Cost) -> int:
    head = sum(stage.params for stage in found.per_stage if stage.name == "head")
    widths = [runs[-1].width for runs in resolve(expand(arch)).stages]
    return detector_params(detector, found.params, head, widths)


def cost_cells(paper: PaperTable, row: Row, built: Built) -> dict[str, Cell]:
    """The recomputed counts, marked where they do not round to what is printed."""
    exact = {"params": built.params, "flops": built.flops}
    shown = {"params": built.params, "flops": built.macs if built.flops is None else built.flops}
    return {
        f"built_{role}": Cell(
            text=_counted(role, value) + ("" if _agrees(paper, row, role, exact[role]) else " ≠"),
            values={"": round(value)},
        )
        for role, value in shown.items()
    }


def _counted(role: str, value: float) -> str:
    return count(value, "G" if role == "flops" else "B", digits=4)


def _agrees(paper: PaperTable, row: Row, role: str, value: float | None) -> bool:
    """Whether a built count rounds to the printed one, or there is nothing to compare."""
    if value is None:
        return True
    for measure in paper.measures:
        if measure.role == role or (measure.role == "detector" and role == "params"):
            text = row.reported.get(measure.key)
            return text is None or reproduces(text, value)
    return True


def mismatches(paper: PaperTable, built: Mapping[str, Built | None]) -> Iterator[str]:
    """One note a reason: which built counts do not round to the printed ones, and why."""
    rows_by_reason: dict[str, list[str]] = {}
    for row in paper.rows:
        for measure, value in _recomputed(paper, row, built[row.name]):
            text = row.reported.get(measure.key)
            if text is None or reproduces(text, value):
                continue
            fallback = paper.flops_note if measure.role == "flops" else ""
            reason = row.explained.get(measure.key) or fallback or "Not explained."
            found = f"{row.name} {_counted(measure.role, value)} for {text}"
            rows_by_reason.setdefault(reason, []).append(found)
    for reason, rows in rows_by_reason.items():
        yield f"≠ {'; '.join(rows)}. {reason}"


def _recomputed(
    paper: PaperTable, row: Row, built: Built | None
) -> Iterator[tuple[Measure, float]]:
    for measure in paper.measures:
        if built is not None and measure.role in ("params", "detector"):
            yield measure, built.params
        elif built is not None and built.flops is not None and measure.role == "flops":
            yield measure, built.flops
