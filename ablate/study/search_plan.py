"""Before a search starts: how large its space is, how much of it is inside, how long it takes."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ablate.config import DataConfig
from ablate.data import DatasetInfo
from ablate.errors import AblateError
from ablate.options import format_value
from ablate.study.built import Built, build
from ablate.study.environment import available_cores
from ablate.study.expected import trial_seconds
from ablate.study.plan_table import seconds_text
from ablate.study.probe import Case, Speed, choose_probes, fitted, measure
from ablate.study.search_parse import Search
from ablate.study.search_space import Dimension, Point
from ablate.study.spec import Study
from ablate.study.status import TrialStatus, status
from ablate.study.tuning import with_settings

SAMPLE = 100
"""Random points that are built to tell how much of a space is inside the constraints."""

_PROBES = 3


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search, before it is trained.

    Args:
        study, profile: of the study.
        space: dimension -> what it takes, and when it is asked for.
        points: of the space; None where a range is continuous.
        sampled, feasible: random points that were built, and those inside all constraints.
        refused: why the others were not, each with its count; "..." stands for numbers.
        params, macs: lowest, median and highest of those that could be built.
        budget: different networks to train.
        trials: what was proposed so far, with its status.
        ended: trials of the search that are done, failed or pruned.
        seconds: a trial takes, on average over feasible points; None where none were probed.
        device: what the times are for.
        hours_left: until the budget is spent, with `batch` trials at once.
        remarks: what the reader should know.
    """

    study: str
    profile: str | None
    space: Mapping[str, str]
    points: int | None
    sampled: int
    feasible: int
    refused: Mapping[str, int]
    params: tuple[int, int, int] | None
    macs: tuple[int, int, int] | None
    budget: int
    trials: tuple[TrialStatus, ...]
    ended: int
    seconds: float | None
    device: str
    hours_left: float | None
    remarks: tuple[str, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows of text, one row a dimension."""
        return ["dimension", "values"], [[name, text] for name, text in self.space.items()]

    def notes(self) -> list[str]:
        """Sentences under the table: the space, its costs, the time."""
        points = "continuous" if self.points is None else f"{self.points:,} points"
        share = self.feasible / self.sampled if self.sampled else 0.0
        lines = [
            f"Space: {points}; {self.feasible} of {self.sampled} random ones can be built inside "
            f"the constraints ({share:.0%})."
        ]
        lines += [f"  refused: {count} {reason}" for reason, count in self.refused.items()]
        for name, found in (("params", self.params), ("MACs", self.macs)):
            if found:
                low, middle, high = found
                lines.append(f"{name}: {low:,} to {high:,}, median {middle:,}.")
        lines.append(f"{self.budget} trials, {self.ended} ended.")
        if self.seconds is not None and self.hours_left is not None:
            lines.append(
                f"Expected time on one {self.device}: {seconds_text(self.seconds)} a trial, "
                f"{seconds_text(self.hours_left * 3600)} for those left; pruning shortens it."
            )
        if not self.feasible:
            lines.append("No sampled point is inside: widen the space or the constraints.")
        return [*lines, *self.remarks]

    def to_json(self) -> dict[str, Any]:
        """Plain values; a search has no variants beforehand."""
        return {**asdict(self), "variants": []}


def plan_search(
    study: Study,
    infos: Mapping[DataConfig, DatasetInfo],
    remarks: Sequence[str],
    *,
    runs: str | Path,
    results: str | Path,
    probe: str,
    device: str,
    workers: int,
) -> SearchPlan:
    """Build random points of a search's space, time a few, and say what the search costs.

    Args:
        study: with its data resolved as far as it is there.
        infos: what is known of the data.
        probe: "none" times nothing; else three networks are timed and the others fitted.
        device: where the probes run.
        workers: trials at once; a search never has more than its `batch`.
    """
    search = study.search
    assert search is not None
    points = list(_random_points(search))
    built, refused = _built(study, search, points)
    inside = [one for one in built if max(search.excess(_costs(one[1])).values()) <= 0]
    for _, one in built:
        excess = search.excess(_costs(one))
        worst = max(excess, key=lambda name: excess[name])
        if excess[worst] > 0:
            reason = f"with {worst} not {search.constraints[worst]}"
            refused[reason] = refused.get(reason, 0) + 1
    known = status(study, runs=runs, results=results)
    counts = known.counts
    ended = counts["done"] + counts["failed"] + counts.get("pruned", 0)
    at_once = min(workers, search.batch)
    info = infos.get(study.baseline.data)
    timed = inside if probe != "none" and info is not None else []
    seconds, place = _seconds(study, timed, info, device, at_once)
    left = max(0, search.trials - ended)
    return SearchPlan(
        study=study.name, profile=study.profile,
        space={dimension.name: _told(dimension) for dimension in search.space.dimensions},
        points=search.space.size(), sampled=len(points), feasible=len(inside), refused=refused,
        params=_spread([one.cost.params for _, one in built]),
        macs=_spread([one.cost.macs for _, one in built]), budget=search.trials,
        trials=known.trials, ended=ended,
        seconds=seconds, device=place,
        hours_left=None if seconds is None else left * seconds / 3600 / at_once,
        remarks=tuple(remarks),
    )  # fmt: skip


def _told(dimension: Dimension) -> str:
    conditions = [
        f"{name} {' or '.join(map(format_value, values))}"
        for name, values in dimension.when.items()
    ]
    return str(dimension) + (f" (where {' and '.join(conditions)})" if conditions else "")


def _random_points(search: Search) -> list[Point]:
    source = random.Random(f"plan {search.seed}")

    def ask(dimension: Dimension) -> Any:
        if dimension.listed:
            return source.choice(dimension.listed)
        assert dimension.low is not None
        assert dimension.high is not None
        return source.uniform(dimension.low, dimension.high)

    return [search.space.point(ask) for _ in range(SAMPLE)]


def _built(
    study: Study, search: Search, points: Sequence[Point]
) -> tuple[list[tuple[Point, Built]], dict[str, int]]:
    """The points that can be built, and how many cannot, by reason."""
    data = study.baseline.data
    known: dict[str, Built] = {}
    found, refused = [], dict[str, int]()
    for point in points:
        try:
            arch = search.space.arch(point)
            if arch not in known:
                known[arch] = build(
                    arch, image_size=data.image_size, num_classes=study.num_classes(data)
                )
        except AblateError as error:
            reason = "that cannot be built: " + _without_numbers(str(error).splitlines()[0])
            refused[reason] = refused.get(reason, 0) + 1
            continue
        found.append((point, known[arch]))
    return found, refused


def _without_numbers(text: str) -> str:
    return text.partition(", but got")[0].partition(" in stage")[0]


def _costs(built: Built) -> dict[str, int]:
    return {"params": built.cost.params, "macs": built.cost.macs}


def _spread(values: Sequence[int]) -> tuple[int, int, int] | None:
    return (min(values), int(statistics.median(values)), max(values)) if values else None


def _seconds(
    study: Study,
    inside: Sequence[tuple[Point, Built]],
    info: DatasetInfo | None,
    device: str,
    at_once: int,
) -> tuple[float | None, str]:
    """Mean seconds of a trial over feasible points, and the device that this holds for."""
    if not inside or info is None or study.search is None:
        return None, ""
    from ablate.training.devices import choose

    base, space = study.baseline, study.search.space
    trial = base.trials[0]
    cases = [
        (
            point,
            Case(
                arch=space.arch(point), image_size=base.data.image_size,
                num_classes=study.num_classes(base.data), built=built,
                train=with_settings(base.train, space.train_settings(point)),
            ),
        )
        for point, built in inside
    ]  # fmt: skip
    threads = max(1, available_cores() // at_once) if at_once > 1 else None
    chosen = choose_probes([case for _, case in cases], _PROBES)
    probes = {case.same: (case, measure(case, device=device, threads=threads)) for case in chosen}
    place = choose(device, base.train.model_copy(update={"devices": 1})).name
    times = []
    for _, case in cases:
        speed: Speed | None = fitted(probes, case)
        if speed is not None:
            times.append(trial_seconds(trial.model_copy(update={"train": case.train}), info, speed))
    return (statistics.fmean(times), place) if times else (None, place)
