"""What the driver costs a trial, and how a study of many finished trials answers.

    python benchmarks/driver_overhead.py [--trials 10000] [--timed 500]

The trials return at once, so that all time is the driver's: run folders, owner files, fsync,
processes, rows. The verbs are timed as commands, from the start of Python to the last line.
Targets: under 20 ms a trial; `ablate status` and `ablate results` of 10,000 finished trials under
2 s, `ablate run` of a finished study under 5 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ablate.config import TrialConfig, TrialResult
from ablate.study import load_study
from ablate.study.engine import run
from ablate.study.progress import Event
from ablate.study.settings import Settings

STUDY = """\
study: overhead
model: coat-lite-micro
factors:
  cpe: [false, true]
  crpe: [false, true]
seeds: {seeds}
data: {{name: digits-canvas}}
"""
METRICS = "epoch,train_loss_running,train_loss,train_top1,val_loss,val_top1,lr\n"


def at_once(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """A trial of ten epochs that takes no time."""
    rows = "".join(f"{epoch},2.0,{1 / epoch!r},50.0,1.5,60.0,0.001\n" for epoch in range(1, 11))
    (folder / "metrics.csv").write_text(METRICS + rows)
    return TrialResult(
        key=trial.key, seed=trial.seed, arch=trial.arch, top1=70.0, top5=99.0, test_loss=1.0,
        train_top1=90.0, train_loss=0.1, params=1000, epochs=10, steps=100, train_images=1000,
        test_images=500, dataset=trial.data.name, image_size=32, precision="fp32", device="cpu",
        seconds=0.0, images_per_second=1.0, version="0",
    )  # fmt: skip


def settings(folder: Path, executor: str) -> Settings:
    return Settings(
        runs=folder / "runs", results=folder / "results", executor=executor, fit=at_once
    )


def study_of(folder: Path, trials: int) -> Path:
    path = folder / "overhead.yaml"
    path.write_text(STUDY.format(seeds=trials // 4))
    return path


def milliseconds_a_trial(executor: str, trials: int) -> float:
    """The driver's time for one trial, between the ends of the first and of the last."""
    ends: list[float] = []

    def note(event: Event) -> None:
        if event.kind == "done":
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(load_study(study_of(folder, trials)), settings(folder, executor), sink=note)
    return 1000 * (ends[-1] - ends[0]) / (len(ends) - 1)


def seconds_of(verb: list[str], folder: Path) -> float:
    """The wall-clock of a command, from the start of Python to its last line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    started = time.perf_counter()
    command = [sys.executable, "-m", "ablate", verb[0], "overhead.yaml", *verb[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000, help="finished trials")
    parser.add_argument("--timed", type=int, default=500, help="trials for the time a trial")
    arguments = parser.parse_args()
    for executor in ("serial", "local"):
        each = milliseconds_a_trial(executor, arguments.timed)
        print(f"driver overhead, {executor}: {each:.1f} ms a trial", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = load_study(study_of(folder, arguments.trials))
        started = time.perf_counter()
        run(study, settings(folder, "serial"))
        taken = time.perf_counter() - started
        print(f"{arguments.trials} trials: {taken:.0f} s in all", flush=True)
        print(f"figures of all trials, once: {seconds_of(['run'], folder):.0f} s", flush=True)
        for verb in (["status"], ["results"], ["results", "--check"], ["run"]):
            seconds = seconds_of(verb, folder)
            print(f"ablate {' '.join(verb)}, {arguments.trials} trials: {seconds:.2f} s")


if __name__ == "__main__":
    main()
