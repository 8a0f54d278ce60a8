"""Where a study stands: each trial done, running, failed or missing, and what is stale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.study.cells import Cell, StudyLike
from ablate.study.environment import changes, code, code_digest
from ablate.study.equal_code import holds
from ablate.study.folder import RunFolder
from ablate.study.ledger import Failure
from ablate.study.owner import describe
from ablate.study.resolution import recorded
from ablate.study.shelf import Found, Shelf
from ablate.study.slurm_records import submitted
from ablate.study.store import following_cells, study_folder


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """One trial.

    Args:
        status: done, running, failed, started (begun, and nobody trains it), missing, or pruned
            (stopped by its search).
        failure, message: why it failed.
        owner: who trains it: host, pid, job, silent_seconds.
        epoch: finished epochs of a trial that is not done.
        stale: what has changed since it was trained: code or data.
        role, settings: see `ablate.study.cells.Cell`.
    """

    key: str
    variant: Mapping[str, Any]
    variant_name: str
    seed: int
    status: str
    failure: str | None = None
    message: str | None = None
    owner: Mapping[str, Any] | None = None
    epoch: int | None = None
    stale: tuple[str, ...] = ()
    role: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """All trials of a study, how many are in which state, and what is wrong with files.

    Args:
        queued: how many of the missing ones were submitted to a cluster, by its records.
    """

    trials: tuple[TrialStatus, ...]
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    stale: int
    complaints: tuple[str, ...]
    queued: int = 0


def status(
    study: StudyLike, *, runs: str | Path = "runs", results: str | Path = "results"
) -> StudyStatus:
    """Where a study stands, from run folders and committed rows; reads no images and no torch."""
    resolved = recorded(study, study_folder(study, results))
    shelf = Shelf(Path(runs), Path(results))
    trials, complaints = [], []
    for cell in following_cells(study, resolved.cells, Path(runs), Path(results)):
        found = shelf.find(cell.key)
        fingerprint = resolved.fingerprints.get(cell.trial.data.name)
        trials.append(_trial(cell, found, study.plugins, fingerprint))
        if found.folder is not None:
            complaints += found.folder.complaints(verdicts=found.looked)
    states = Counter(trial.status for trial in trials)
    order = ["done", "running", "started", "failed", "missing"]
    order += ["pruned"] if states["pruned"] else []
    return StudyStatus(
        trials=tuple(trials),
        counts={state: states[state] for state in order},
        failures=dict(Counter(trial.failure for trial in trials if trial.failure)),
        stale=sum(bool(trial.stale) for trial in trials),
        complaints=tuple(complaints),
        queued=len(submitted(Path(runs)) & {t.key for t in trials if t.status == "missing"}),
    )


def _trial(
    cell: Cell, found: Found, plugins: tuple[str, ...], fingerprint: str | None
) -> TrialStatus:
    named: dict[str, Any] = {
        "key": cell.key,
        "variant": cell.variant,
        "variant_name": cell.variant_name,
        "seed": cell.trial.seed,
        "role": cell.role,
        "settings": dict(cell.settings),
    }
    if found.done:
        changed = stale_changes(found, plugins, fingerprint)
        return TrialStatus(**named, status="done", stale=tuple(changed))
    if found.row is not None and found.folder is None and cell.pruned_epoch is None:
        told = {"failure": found.row["failure"], "message": found.row["failure_message"]}
        return TrialStatus(**named, status="failed", **told)
    if cell.pruned_epoch is not None:
        return TrialStatus(**named, status="pruned", epoch=cell.pruned_epoch)
    if found.folder is not None:
        return _unfinished(named, found.folder, found.failure)
    return TrialStatus(**named, status="missing")


def _unfinished(named: dict[str, Any], folder: RunFolder, failure: Failure | None) -> TrialStatus:
    row = folder.progress()
    epoch = int(row["epoch"]) if "epoch" in row else None
    if (owner := describe(folder.owner)) is not None:
        return TrialStatus(**named, status="running", owner=owner, epoch=epoch)
    if failure is not None:
        return TrialStatus(
            **named, status="failed", failure=failure.kind, message=failure.message, epoch=epoch
        )
    return TrialStatus(**named, status="started", epoch=epoch)


def stale_changes(found: Found, plugins: tuple[str, ...], fingerprint: str | None) -> list[str]:
    """What has changed under a finished trial since it was trained, in words.

    A run folder tells which part of the code; of a committed row only a digest is known.
    """
    parts = code(plugins)
    now = {"code": parts, "fingerprint": fingerprint}
    then = found.folder.environment() if found.folder is not None else {}
    row: Mapping[str, Any] = {"code": code_digest(then["code"])} if then.get("code") else {}
    row = {**row, "fingerprint": then.get("fingerprint"), **(found.row or {})}
    data = changes({"fingerprint": row.get("fingerprint")}, now)
    if holds(row.get("code"), code_digest(parts), row.get("arch")):
        return data
    if found.folder is None:
        return [f"code: since commit {(row.get('commit') or 'unknown')[:12]}", *data]
    return changes(then, now)
