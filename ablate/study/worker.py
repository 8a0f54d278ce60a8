"""One trial, in whatever process: owned, trained or resumed, and its verdict written down."""

from __future__ import annotations

import gc
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ablate.config import TrialConfig, TrialResult
from ablate.files import set_aside, write_atomic, write_json
from ablate.study.allocator import keep_freed_memory
from ablate.study.environment import changes, commit, environment, uncommitted
from ablate.study.folder import RunFolder
from ablate.study.ledger import Failure, classify, first_line, is_out_of_memory
from ablate.study.owner import Owned, Ownership

Fit = Callable[..., TrialResult]
"""`ablate.training.fit`, or anything that takes its arguments."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """How a trial is to be trained; nothing here is part of its key.

    Args:
        lease: the driver's file; when it is gone, the trial finishes its epoch and stops.
        device: "auto", "cpu", "cuda", "cuda:1".
        threads: CPU threads; a trial that is resumed keeps those it began with.
        plugins: the study's modules, for the record of the code.
        fingerprint: of the dataset, for the record.
        fit: what trains (default `ablate.training.fit`).
    """

    lease: Path | None = None
    device: str = "auto"
    threads: int | None = None
    plugins: tuple[str, ...] = ()
    fingerprint: str | None = None
    fit: Fit | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: exactly one of `result`, `failure` and `owner` for the first three.

    `interrupted` leaves neither: the trial goes on when it is asked for again.
    """

    key: str
    status: Literal["done", "failed", "owned", "interrupted"]
    result: TrialResult | None = None
    failure: Failure | None = None
    owner: str | None = None
    trained: bool = False
    complaints: tuple[str, ...] = ()


def run_trial(trial: TrialConfig, path: Path, order: Order) -> Outcome:
    """Train or resume a trial in its run folder and write `result.json` or `failure.json`.

    Args:
        path: `runs/<key>`; made if it is missing.

    Returns:
        The outcome; a trial that fails is an outcome, not an exception.
    """
    folder = RunFolder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with Ownership(path) as ownership:
            return _run_owned(trial, folder, order, ownership)
    except Owned as owned:
        return Outcome(key=trial.key, status="owned", owner=str(owned.owner or "unknown"))
    except Exception as error:
        return _failed(trial, folder, error)


def _run_owned(
    trial: TrialConfig, folder: RunFolder, order: Order, ownership: Ownership
) -> Outcome:
    """As `run_trial`, with the owner file in hand: nobody else writes here now."""
    finished, complaints = _finished(folder)
    if finished is not None:
        return Outcome(key=trial.key, status="done", result=finished)
    if (failure := folder.failure()) is not None:
        return Outcome(key=trial.key, status="failed", failure=failure)
    if _stopping(order.lease):
        _Request.made = False
        return Outcome(key=trial.key, status="interrupted", complaints=complaints)
    execution, departures = _prepare(trial, folder, order)
    try:
        result = _fit(trial, folder, order, execution, departures, ownership)
    except Exception as error:
        from ablate.training.outcomes import Interrupted

        if isinstance(error, Interrupted) or ownership.lost:
            _Request.made = False
            return Outcome(key=trial.key, status="interrupted", complaints=complaints)
        return _failed(trial, folder, error)
    folder.write_result(result)
    return Outcome(key=trial.key, status="done", result=result, trained=True, complaints=complaints)


def _finished(folder: RunFolder) -> tuple[TrialResult | None, tuple[str, ...]]:
    """The result that somebody wrote before we came; a damaged verdict is put aside."""
    try:
        folder.failure()
        return folder.result(), ()
    except ValueError:
        damaged, complaints = folder.damaged(), tuple(folder.complaints())
        for name in damaged:
            folder.put_aside(name, "damaged")
        return None, complaints


def _prepare(
    trial: TrialConfig, folder: RunFolder, order: Order
) -> tuple[dict[str, Any], list[str]]:
    """Write `trial.yaml` and `environment.json`; how to execute, and what departs from the plan.

    A resumed trial keeps the threads and the accumulation it began with.
    """
    before = folder.environment()
    execution = {
        "device": order.device,
        "threads": before.get("threads") or order.threads,
        "accumulate": before.get("accumulate") or trial.train.accumulate,
    }
    now = environment(order.plugins, fingerprint=order.fingerprint, **execution)
    departures = list(before.get("departures", ()))
    if before and (folder.path / "metrics.csv").exists():
        note = [f"resumed after a change of {change}" for change in changes(before, now)]
        departures += [line for line in note if line not in departures]
    if not (folder.path / "trial.yaml").exists():
        write_atomic(folder.path / "trial.yaml", _yaml(trial), durable=False)
    _keep_diff(folder.path.parent / ".diffs", now["diff"])
    write_json(folder.path / "environment.json", now | {"departures": departures}, durable=False)
    return execution, departures


def _keep_diff(folder: Path, name: str | None) -> None:
    """Write the uncommitted changes of our code, which many trials share, once."""
    if name is not None and not (folder / name).exists():
        folder.mkdir(exist_ok=True)
        write_atomic(folder / name, uncommitted(), durable=False)


def _yaml(trial: TrialConfig) -> str:
    """A resolved trial as YAML 1.2, of which JSON's scalars and lists are a part."""
    lines = [f"key: {trial.key}"]
    for name, value in trial.model_dump(mode="json").items():
        if isinstance(value, dict):
            lines += [f"{name}:", *(f"  {inner}: {json.dumps(v)}" for inner, v in value.items())]
        else:
            lines.append(f"{name}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _fit(
    trial: TrialConfig,
    folder: RunFolder,
    order: Order,
    execution: dict[str, Any],
    departures: list[str],
    ownership: Ownership,
) -> TrialResult:
    """Train; where memory runs out, once more in micro-batches at the same batch size."""
    fit = order.fit or _default_fit()

    def should_stop() -> bool:
        return _stopping(order.lease) or ownership.lost or folder.stop.exists()

    def attempt(accumulate: int) -> TrialResult:
        return fit(
            _accumulating(trial, accumulate),
            folder.path,
            device=order.device,
            threads=execution["threads"],
            should_stop=should_stop,
        )

    smaller = 2 * execution["accumulate"]
    may_retry = execution["accumulate"] == trial.train.accumulate and _divides(trial, smaller)
    try:
        result = attempt(execution["accumulate"])
    except Exception as error:
        if not may_retry or not is_out_of_memory(error):
            raise
        reason = first_line(error)
    else:
        return _complete(trial, result, departures)
    # Outside `except`, where the error no longer holds the tensors of the failed step.
    result = _retry_in_micro_batches(folder, smaller, departures, reason, attempt)
    return _complete(trial, result, departures)


def _complete(trial: TrialConfig, result: TrialResult, departures: list[str]) -> TrialResult:
    return result.model_copy(
        update={
            "key": trial.key,
            "commit": result.commit or commit(),
            "departures": (*result.departures, *departures),
        }
    )


def _retry_in_micro_batches(
    folder: RunFolder,
    accumulate: int,
    departures: list[str],
    reason: str,
    attempt: Callable[[int], TrialResult],
) -> TrialResult:
    _free_memory()
    for checkpoint in sorted(folder.path.glob("checkpoint-?.pt")):
        set_aside(checkpoint, "memory")  # of another recipe: this one starts from scratch
    departures.append(f"gradient accumulation x{accumulate} at the same batch size ({reason})")
    kept = dict(folder.environment()) | {"accumulate": accumulate, "departures": departures}
    write_json(folder.path / "environment.json", kept, durable=False)
    return attempt(accumulate)


def _accumulating(trial: TrialConfig, accumulate: int) -> TrialConfig:
    if accumulate == trial.train.accumulate:
        return trial
    train = trial.train.model_copy(update={"accumulate": accumulate})
    return trial.model_copy(update={"train": train})


def _divides(trial: TrialConfig, accumulate: int) -> bool:
    return trial.train.batch_size % (accumulate * trial.train.devices) == 0


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_training() -> None:
    """Import what trains, in a process that will be given trials."""
    _default_fit()


def _default_fit() -> Fit:
    from ablate.training import fit

    keep_freed_memory()
    return fit


class _Request:
    """That this worker process got a SIGTERM; a plain flag, safe in a signal's handler."""

    made = False


def ask_to_stop() -> None:
    """Let the trial of this process, if any, finish its epoch and stop."""
    _Request.made = True


def _stopping(lease: Path | None) -> bool:
    return _Request.made or (lease is not None and not lease.exists())


def _failed(trial: TrialConfig, folder: RunFolder, error: Exception) -> Outcome:
    """Record a failure: one line in `failure.json`, the traceback in `log.txt`.

    On a full disk even that may fail; the outcome still tells the driver.
    """
    failure = classify(error, folder.path)
    trace = "".join(traceback.format_exception(error))
    complaints: tuple[str, ...] = ()
    try:
        with open(folder.path / "log.txt", "a", encoding="utf-8") as log:
            log.write(trace)
        folder.write_failure(failure)
    except OSError as unwritten:
        complaints = (f"cannot write in {folder.path}: {unwritten}",)
    return Outcome(key=trial.key, status="failed", failure=failure, complaints=complaints)
