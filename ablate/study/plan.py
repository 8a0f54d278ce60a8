"""Before anything trains: what each variant costs, how long it takes, whether the comparison is
fair, and what it can detect.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ablate.config import DataConfig
from ablate.cost import Cost
from ablate.data import DatasetInfo, resolve
from ablate.errors import AblateError, ConfigError, DataError, StudyError, unknown
from ablate.models import create_model
from ablate.study.built import Built, Network, build_all
from ablate.study.cells import cells
from ablate.study.confounds import Side, confounds
from ablate.study.detectable import detectable
from ablate.study.expected import expected_speeds, network_of, trial_seconds
from ablate.study.planned import Plan, PlannedTrial, PlannedVariant
from ablate.study.probe import Speed
from ablate.study.search_plan import SearchPlan, plan_search
from ablate.study.spec import Study
from ablate.study.status import status
from ablate.study.store import following_cells
from ablate.study.variants import Variant

PROBES = ("some", "all", "none")
_TOLERANCE = 0.05
"""Relative difference of params or MACs that needs no warning where the study matches none."""


def plan(
    study: Study,
    *,
    runs: str | Path = "runs",
    results: str | Path = "results",
    probe: str = "some",
    device: str = "auto",
    workers: int = 1,
    tolerance: float | None = None,
) -> Plan | SearchPlan:
    """Build every variant on the meta device, and say what the study costs and can show.

    Of a search, random points of its space are built instead.

    Trains nothing and writes nothing. Where the data is not there, costs are told all the same,
    with the classes that its name stands for, and a note says so.

    Args:
        study: as loaded.
        runs, results: where trials that are done are looked up.
        probe: "some": at most five networks are timed and the others fitted; "all"; "none".
        device: where the probes run: "auto", "cpu", "cuda" ...
        workers: trials at once, for the expected time.
        tolerance: relative difference of params and MACs that needs no warning (default: the
            study's `match`, else 5%).

    Raises:
        AblateError: a variant that cannot be built, a budget that cannot be matched, ...
    """
    if probe not in PROBES:
        raise ConfigError(unknown("probe", probe, PROBES))
    if workers < 1:
        raise ConfigError(f"`workers` must be at least 1, but got {workers}")
    study, infos, remarks = _with_data(study)
    if study.search is not None:
        return plan_search(
            study, infos, remarks, runs=runs, results=results, probe=probe, device=device,
            workers=workers,
        )  # fmt: skip
    built = _built(study)
    speeds, place, probes = expected_speeds(
        study, built, probe if infos else "none", device, workers
    )
    statuses = _statuses(study, runs, results)
    limit = tolerance if tolerance is not None else _default_tolerance(study)
    variants = tuple(
        _planned(study, variant, built, speeds, infos, limit) for variant in study.variants
    )
    trials = _planned_trials(study, infos, speeds, statuses, Path(runs), Path(results))
    return Plan(
        study=study.name, profile=study.profile, design=study.design, variants=variants,
        trials=trials, device=place, probes=probes,
        device_hours=_hours(trials), detectable=detectable(study, runs, results),
        workers=workers,
        device_hours_left=_hours([t for t in trials if t.status != "done"]),
        remarks=tuple(remarks), tuning=study.tune.budget if study.tune else "",
    )  # fmt: skip


def _planned_trials(
    study: Study,
    infos: Mapping[DataConfig, DatasetInfo],
    speeds: Mapping[str, Speed | None],
    statuses: Mapping[str, str],
    runs: Path,
    results: Path,
) -> tuple[PlannedTrial, ...]:
    found = []
    for cell in following_cells(study, cells(study, lambda train: train), runs, results):
        info, speed = infos.get(cell.trial.data), speeds[cell.variant_name]
        found.append(
            PlannedTrial(
                key=cell.key,
                seed=cell.trial.seed,
                variant=cell.variant,
                variant_name=cell.variant_name,
                arch=cell.trial.arch,
                status=statuses.get(cell.key, "missing"),
                seconds=trial_seconds(cell.trial, info, speed) if info and speed else None,
                role=cell.role,
                settings=dict(cell.settings),
            )
        )
    return tuple(found)


def check(study: Study) -> None:
    """Build every network of a study on the meta device: what cannot be built is told now.

    Raises:
        AblateError: a network that is unknown or does not take the images, or a budget that
            cannot be matched.
    """
    for variant in study.variants:
        arch, size, classes = network_of(study, variant.arch, variant.data)
        try:
            with torch.device("meta"):
                create_model(arch, num_classes=classes, image_size=size)
        except AblateError as error:
            raise StudyError(f"{study.path}: variant {variant.name!r}: {error}") from error


def study_confounds(study: Study, *, tolerance: float | None = None) -> dict[str, tuple[str, ...]]:
    """What differs from the baseline beside the factor: variant's name -> sentences.

    Args:
        study: as loaded.
        tolerance: as for `plan`.
    """
    study, _, _ = _with_data(study)
    built = _built(study)
    limit = tolerance if tolerance is not None else _default_tolerance(study)
    return {v.name: _warnings(study, v, built, limit) for v in study.variants}


def _with_data(study: Study) -> tuple[Study, dict[DataConfig, DatasetInfo], list[str]]:
    """The study with its data resolved, as far as it is there, and what is known of the data."""
    resolved: dict[DataConfig, DataConfig] = {}
    infos: dict[DataConfig, DatasetInfo] = {}
    notes = []
    for asked in dict.fromkeys(variant.data for variant in study.raw):
        try:
            found, info = resolve(asked.model_copy(update={"download": False}))
        except DataError as error:
            assumed = study.num_classes(asked)
            first = str(error).splitlines()[0]
            notes.append(
                f"data is not there, so times are left out, keys are not final and costs assume "
                f"{assumed} classes: {first}"
            )
            continue
        found = found.model_copy(update={"download": asked.download})
        resolved[asked] = found
        infos[found] = info
    classes = {info.name: info.num_classes for info in infos.values()}
    return study.with_data(resolved, classes), infos, list(dict.fromkeys(notes))


def _built(study: Study) -> dict[Network, Built]:
    """Every network of the study, those before matching included."""
    networks = [
        network_of(study, arch, variant.data)
        for variant in study.variants
        for arch in dict.fromkeys((variant.arch, variant.raw_arch))
    ]
    try:
        return build_all(networks, plugins=study.plugins, processes=os.cpu_count() or 1)
    except AblateError as error:
        raise StudyError(f"{study.path}: {error}") from error


def _default_tolerance(study: Study) -> float:
    return study.match.tolerance if study.match else _TOLERANCE


def _statuses(study: Study, runs: str | Path, results: str | Path) -> dict[str, str]:
    return {trial.key: trial.status for trial in status(study, runs=runs, results=results).trials}


def _planned(
    study: Study,
    variant: Variant,
    built: Mapping[Network, Built],
    speeds: Mapping[str, Speed | None],
    infos: Mapping[DataConfig, DatasetInfo],
    tolerance: float,
) -> PlannedVariant:
    base = study.baseline
    ours = built[network_of(study, variant.arch, variant.data)]
    theirs = built[network_of(study, base.arch, base.data)]
    raw = built[network_of(study, variant.raw_arch, variant.data)].cost if variant.matched else None
    speed = speeds[variant.name]
    info = infos.get(variant.data)
    seconds = trial_seconds(variant.trials[0], info, speed) if info and speed else None
    return PlannedVariant(
        name=variant.name, variant=variant.levels, arch=variant.arch, baseline=variant is base,
        params=ours.cost.params, trainable=ours.cost.trainable, macs=ours.cost.macs,
        params_change=_change(ours.cost, theirs.cost, "params"),
        macs_change=_change(ours.cost, theirs.cost, "macs"),
        uncounted_ops=dict(ours.cost.uncounted_ops),
        memory_bytes=ours.training_bytes(variant.train), seconds=seconds,
        seconds_from="none" if seconds is None or not speed else _source(speed),
        raw_arch=variant.raw_arch if raw else None, raw_params=raw.params if raw else None,
        raw_macs=raw.macs if raw else None, matched=variant.matched,
        warnings=_warnings(study, variant, built, tolerance),
    )  # fmt: skip


def _warnings(
    study: Study, variant: Variant, built: Mapping[Network, Built], tolerance: float
) -> tuple[str, ...]:
    ours, theirs = (
        Side(variant=one, built=built[network_of(study, one.arch, one.data)])
        for one in (variant, study.baseline)
    )
    return confounds(ours, theirs, study.factors, tolerance=tolerance)


def _source(speed: Speed) -> str:
    return "probe" if speed.measured else "fit"


def _change(ours: Cost, theirs: Cost, what: str) -> float:
    before = getattr(theirs, what)
    return (getattr(ours, what) - before) / before if before else 0.0


def _hours(trials: Sequence[PlannedTrial]) -> float | None:
    """Device-hours: images are counted over all devices, so their number does not matter."""
    known = [trial.seconds for trial in trials if trial.seconds is not None]
    return sum(known) / 3600 if len(known) == len(trials) else None
