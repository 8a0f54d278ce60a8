"""One trial in its folder: trained, resumed, or failed with its kind; never lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from study_fakes import fake_result, fake_study, instant, trained

import ablate
from ablate.config import TrialConfig, TrialResult
from ablate.errors import ModelError
from ablate.study.environment import ROOMS
from ablate.study.folder import RunFolder
from ablate.study.owner import Ownership
from ablate.study.worker import Order, Outcome, run_trial
from ablate.training.outcomes import Diverged, Interrupted, TimedOut


@pytest.fixture
def trial() -> TrialConfig:
    return fake_study().raw[0].trials[0]


@pytest.fixture
def folder(tmp_path: Path, trial: TrialConfig) -> RunFolder:
    return RunFolder(tmp_path / "runs" / trial.key)


def raising(error: BaseException) -> Any:
    def fit(*arguments: Any, **keywords: Any) -> TrialResult:
        raise error

    return fit


def test_a_finished_trial_leaves_its_record_and_no_owner(
    trial: TrialConfig, folder: RunFolder
) -> None:
    outcome = run_trial(trial, folder.path, Order(fit=instant, threads=2))
    assert outcome.status == "done"
    assert outcome.trained
    assert folder.result() == outcome.result
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "environment.json", "metrics.csv", "result.json", "trial.yaml",
    ]  # fmt: skip
    assert folder.environment()["code"].keys() == {"arch", "models", "data", "training"}


def test_every_part_of_the_code_that_is_named_exists() -> None:
    root = Path(ablate.__file__).parent
    assert [name for names in ROOMS.values() for name in names if not (root / name).exists()] == []


def test_trial_yaml_reads_back_as_the_trial(trial: TrialConfig, folder: RunFolder) -> None:
    from ruamel.yaml import YAML

    run_trial(trial, folder.path, Order(fit=instant))
    content = YAML(typ="safe").load(folder.path / "trial.yaml")
    assert content.pop("key") == trial.key
    assert TrialConfig.model_validate(content) == trial


def test_a_trial_that_is_done_is_not_trained_again(trial: TrialConfig, folder: RunFolder) -> None:
    run_trial(trial, folder.path, Order(fit=instant))
    again = run_trial(trial, folder.path, Order(fit=instant))
    assert (again.status, again.trained) == ("done", False)
    assert trained(folder.path.parent) == [trial.key]


def test_a_trial_that_is_owned_is_left_alone(trial: TrialConfig, folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    with Ownership(folder.path) as held:
        outcome = run_trial(trial, folder.path, Order(fit=instant))
    assert outcome == Outcome(key=trial.key, status="owned", owner=str(held.owner))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Diverged(17, "stages.2.0.attn"), "diverged", "the loss is NaN or infinite at step 17"),
        (TimedOut(1.5, 3), "timeout", "took longer than timeout_minutes=1.5"),
        (MemoryError(), "out_of_memory", "MemoryError"),
        (RuntimeError("CUDA out of memory. Tried"), "out_of_memory", "CUDA out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "out_of_memory",
            "DefaultCPUAllocator",
        ),
        (ModelError("no network fits"), "invalid", "no network fits"),
        (KeyError("blocks"), "error", "KeyError: 'blocks'"),
        (RuntimeError("first\nsecond"), "error", "RuntimeError: first"),
        (OSError(errno.ENOSPC, "No space left on device"), "error", "disk full: "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)  # fmt: skip
def test_each_failure_keeps_its_kind(
    trial: TrialConfig, folder: RunFolder, error: Exception, kind: str, message: str
) -> None:
    outcome = run_trial(trial, folder.path, Order(fit=raising(error)))
    assert outcome.status == "failed"
    assert outcome.failure is not None
    assert (outcome.failure.kind, folder.failure()) == (kind, outcome.failure)
    assert outcome.failure.message.count(message) == 1
    assert "\n" not in outcome.failure.message
    assert "Traceback" in (folder.path / "log.txt").read_text()
    assert not folder.owner.exists()


def test_a_divergence_keeps_its_step_and_layer(trial: TrialConfig, folder: RunFolder) -> None:
    run_trial(trial, folder.path, Order(fit=raising(Diverged(17, "head"))))
    content = json.loads((folder.path / "failure.json").read_text())
    assert (content["step"], content["layer"]) == (17, "head")


def test_an_interruption_is_no_failure(trial: TrialConfig, folder: RunFolder) -> None:
    outcome = run_trial(trial, folder.path, Order(fit=raising(Interrupted(3))))
    assert outcome.status == "interrupted"
    assert folder.failure() is None
    assert run_trial(trial, folder.path, Order(fit=instant)).status == "done"


def test_without_its_lease_a_trial_does_not_start(trial: TrialConfig, folder: RunFolder) -> None:
    outcome = run_trial(trial, folder.path, Order(fit=instant, lease=folder.path / "gone"))
    assert outcome.status == "interrupted"
    assert trained(folder.path.parent) == []


def short_of_memory(limit: int) -> Any:
    """A `fit` that has memory for micro-batches of at most `limit` images."""

    def fit(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
        if trial.train.batch_size // trial.train.accumulate > limit:
            (folder / "checkpoint-a.pt").touch()
            raise MemoryError("out of memory")
        assert not (folder / "checkpoint-a.pt").exists()
        return instant(trial, folder, **keywords)

    return fit


def test_out_of_memory_is_tried_once_more_in_micro_batches(
    trial: TrialConfig, folder: RunFolder
) -> None:
    """The key, and with it the effective batch, stay; what departs from the plan is recorded."""
    outcome = run_trial(trial, folder.path, Order(fit=short_of_memory(32)))
    assert outcome.result is not None
    assert outcome.result.key == trial.key
    (departure,) = outcome.result.departures
    assert departure == "gradient accumulation x2 at the same batch size (out of memory)"
    assert (folder.path / "checkpoint-a.pt.memory-1").exists()


def test_out_of_memory_is_tried_only_once_more(trial: TrialConfig, folder: RunFolder) -> None:
    outcome = run_trial(trial, folder.path, Order(fit=short_of_memory(16)))
    assert outcome.failure is not None
    assert outcome.failure.kind == "out_of_memory"


def test_micro_batches_stay_when_the_trial_is_resumed(
    trial: TrialConfig, folder: RunFolder
) -> None:
    def stops_then_ends(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
        if trial.train.accumulate == 1:
            raise MemoryError("out of memory")
        if not (folder / "metrics.csv").exists():
            instant(trial, folder, **keywords)
            raise Interrupted(1)
        return fake_result(trial)

    order = Order(fit=stops_then_ends)
    assert run_trial(trial, folder.path, order).status == "interrupted"
    result = run_trial(trial, folder.path, order).result
    assert result is not None
    assert len(result.departures) == 1


def test_a_resumed_trial_keeps_its_threads(trial: TrialConfig, folder: RunFolder) -> None:
    """Sums of another number of threads have other last bits."""
    run_trial(trial, folder.path, Order(fit=raising(Interrupted(1)), threads=3))
    result = run_trial(trial, folder.path, Order(fit=instant, threads=1)).result
    assert result is not None
    assert result.threads == 3


def test_resuming_under_changed_code_is_a_departure(
    trial: TrialConfig, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trial(trial, folder.path, Order(fit=raising(Interrupted(1))))
    (folder.path / "metrics.csv").write_text("epoch\n1\n")
    now = folder.environment()["code"]
    monkeypatch.setattr("ablate.study.environment.code", lambda plugins: now | {"models": "new"})
    result = run_trial(trial, folder.path, Order(fit=instant)).result
    assert result is not None
    assert result.departures == ("resumed after a change of code: models",)


@pytest.mark.parametrize("content", ["{torn", "[]", '{"key": "other"}'])
def test_a_damaged_result_is_put_aside_and_told(
    trial: TrialConfig, folder: RunFolder, content: str
) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "result.json").write_text(content)
    outcome = run_trial(trial, folder.path, Order(fit=instant))
    assert outcome.status == "done"
    assert outcome.complaints[0].startswith(f"damaged {folder.path / 'result.json'}: ")
    assert (folder.path / "result.json.damaged-1").read_text() == content


def test_unknown_files_are_told_and_kept(trial: TrialConfig, folder: RunFolder) -> None:
    run_trial(trial, folder.path, Order(fit=instant))
    (folder.path / "notes.md").write_text("mine")
    assert folder.complaints() == [f"unknown file {folder.path / 'notes.md'}"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> None:
    with contextlib.suppress(OSError), open(place / "ballast", "wb", 0) as file:
        while True:
            file.write(b"x" * 4096)


def fills_the_disk(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    with open(folder / "checkpoint-a.pt", "wb", 0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_fails_the_trial_with_that_reason_and_corrupts_nothing(
    trial: TrialConfig, small_disk: Path
) -> None:
    other = trial.model_copy(update={"seed": 99})
    finished = RunFolder(small_disk / other.key)
    run_trial(other, finished.path, Order(fit=instant))
    folder = RunFolder(small_disk / trial.key)
    outcome = run_trial(trial, folder.path, Order(fit=fills_the_disk))
    assert outcome.failure is not None
    assert outcome.failure.message.startswith("disk full: ")
    assert outcome.complaints[0].startswith(f"cannot write in {folder.path}: ")
    assert finished.complaints() == []
    assert finished.result() is not None
    assert folder.complaints() == []

    (folder.path / "checkpoint-a.pt").unlink()
    assert run_trial(trial, folder.path, Order(fit=instant)).status == "done"


def test_a_disk_that_is_full_from_the_start_fails_the_trial_too(
    trial: TrialConfig, small_disk: Path
) -> None:
    fill(small_disk)
    outcome = run_trial(trial, small_disk / trial.key, Order(fit=instant))
    assert outcome.failure is not None
    assert outcome.failure.message.startswith("disk full: ")
