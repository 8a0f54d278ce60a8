"""Kills `ablate run` at seeded moments, resumes it, and compares with a run that was not killed.

    python benchmarks/kill_sweep.py [--kills 60] [--seed 0] [--executor serial]

Each life of the command is ended by SIGKILL to its whole process group (driver and workers): at a
random time, or by itself at its k-th `os.fsync` or `os.replace`, before the call or after it, so
that every order of "written, flushed, renamed" is met. When a life ends by itself, the study is
complete, and is compared bit for bit with one that ran through: weights, metrics.csv, curves.csv,
predictions, and all numbers of the rows. Then the next study begins, until there were `--kills`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STUDY = """\
study: killed
model: "S1x8:C1x8-T1x16(num_heads=2)"
factors:
  train.label_smoothing: [0.0, 0.1]
seeds: 1
data: {name: digits-canvas, train_fraction: 0.3, eval_subset: 100}
train: {epochs: 6, batch_size: 32, lr: 1.0e-3}
"""

HOOK = '''\
"""Imported by every Python process of the command: ends its process group at one call."""

import json, os, signal
from pathlib import Path

plan = json.loads((Path(__file__).parent / "moment.json").read_text())
calls = 0


def watched(call, when, count):
    def replacement(*arguments, **keywords):
        global calls
        calls += 1
        if calls == count and when == "before":
            os.killpg(0, signal.SIGKILL)
        result = call(*arguments, **keywords)
        if calls == count and when == "after":
            os.killpg(0, signal.SIGKILL)
        return result

    return replacement


if plan["call"] is not None:
    setattr(os, plan["call"], watched(getattr(os, plan["call"]), plan["when"], plan["count"]))
'''

VOLATILE = ("seconds", "images_per_second", "peak_memory_mb", "commit", "code")
"""Columns of a row that are not the same when a trial is trained again."""


@dataclass(frozen=True)
class Moment:
    """When a life ends: after `seconds` of work, or at a call; never, if both are None."""

    seconds: float | None = None
    call: str | None = None
    when: str = "before"
    count: int = 0

    @property
    def kind(self) -> str:
        return f"{self.when} {self.call}" if self.call else "at a random time"


def random_moment(generator: random.Random) -> Moment:
    """Half of the moments at a random time, half at a call."""
    if generator.random() < 0.5:
        return Moment(seconds=generator.uniform(0.0, 6.0))
    return Moment(
        call=generator.choice(["fsync", "replace"]),
        when=generator.choice(["before", "after"]),
        count=generator.randint(1, 40),
    )


def live(folder: Path, executor: str, moment: Moment) -> int:
    """One life of the command in `folder`; its exit code, -9 where it was killed."""
    hook = folder / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK)
    plan = {"call": moment.call, "when": moment.when, "count": moment.count}
    (hook / "moment.json").write_text(json.dumps(plan))
    (folder / "killed.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "ablate", "run", "killed.yaml", "--executor", executor]
    begun = time.time()
    with (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(
            [*command, "--threads", "1", "--workers", "2"], cwd=folder, start_new_session=True,
            env={**os.environ, "PYTHONPATH": f"{hook}{os.pathsep}{Path(__file__).parents[1]}"},
            stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
    if moment.seconds is not None:
        _wait_for_work(folder, begun, process)
        time.sleep(moment.seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _wait_for_work(folder: Path, begun: float, process: subprocess.Popen[bytes]) -> None:
    """Until this life has taken up a trial: the start of Python and torch is of no interest."""
    while process.poll() is None:
        if any(p.stat().st_mtime > begun for p in folder.glob("runs/[0-9a-f]*/environment.json")):
            return
        time.sleep(0.02)


def state(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on whether the command was killed."""
    import numpy as np
    import torch

    found: dict[str, Any] = {}
    for run in sorted(folder.glob("runs/[0-9a-f]*/")):
        newest = max(
            (torch.load(path, weights_only=True) for path in run.glob("checkpoint-?.pt")),
            key=lambda content: content["epoch"],
        )
        weights = {name: tensor.numpy().tobytes() for name, tensor in newest["state_dict"].items()}
        with np.load(run / "predictions.npz") as arrays:
            predictions = {name: array.tobytes() for name, array in arrays.items()}
        found[run.name] = (weights, (run / "metrics.csv").read_bytes(), predictions)
    results = folder / "results" / "killed"
    found["curves"] = (results / "curves.csv").read_bytes()
    with (results / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    found["rows"] = [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]
    found["predictions"] = {p.name: p.read_bytes() for p in results.glob("predictions/*.npz")}
    return found


@dataclass
class Tally:
    """What the sweep has seen so far."""

    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    studies: int = 0
    differing: int = 0
    left_over: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def all_kills(self) -> int:
        return sum(self.kills.values())


def sweep(folder: Path, kills: int, seed: int, executor: str, *, deadliness: float = 0.85) -> Tally:
    """Studies that are killed again and again until they are complete, `kills` times in all.

    Args:
        deadliness: share of the lives that are to be killed, so that studies also end.
    """
    generator, tally = random.Random(seed), Tally()
    (folder / "whole").mkdir()
    if live(folder / "whole", executor, Moment()) != 0:
        raise RuntimeError((folder / "whole" / "stderr.txt").read_text())
    expected = state(folder / "whole")
    while tally.all_kills < kills:
        place = folder / f"study{tally.studies}"
        place.mkdir()
        while True:
            deadly = generator.random() < deadliness and tally.all_kills < kills
            moment = random_moment(generator) if deadly else Moment()
            code = live(place, executor, moment)
            tally.lives += 1
            if code == 0:
                break
            if code != -signal.SIGKILL:
                tally.failures.append(f"exit {code}: {(place / 'stderr.txt').read_text()}")
                break
            tally.kills[moment.kind] += 1
        tally.studies += 1
        if code == 0:
            tally.differing += state(place) != expected
            tally.left_over += len(list(place.glob("runs/*/owner")))
        print(
            f"{tally.all_kills} kills in {tally.lives} lives, {tally.studies} studies complete, "
            f"{tally.differing} differ",
            flush=True,
        )
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--executor", default="serial", choices=["serial", "local"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tally = sweep(Path(name), arguments.kills, arguments.seed, arguments.executor)
    for kind, count in sorted(tally.kills.items()):
        print(f"{count:4d} kills {kind}")
    print(f"{tally.all_kills} kills survived, {tally.studies} studies, {tally.differing} differ")
    print(f"{len(tally.failures)} trials or studies lost, {tally.left_over} owner files left over")
    if tally.failures:
        print(*tally.failures, sep="\n")
    sys.exit(bool(tally.differing or tally.failures or tally.left_over))


if __name__ == "__main__":
    main()
