"""The two sides of a simulated cluster, as processes of their own; see cluster_load.py.

The driver is the real one with the real Slurm executor and submitit; only the commands sbatch and
squeue are scripts that talk to the simulated nodes through files. The nodes run the real
`run_trial` with a training that takes no time and writes the files of 300 epochs.
"""

from __future__ import annotations

import json
import pickle
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from untrained import no_time, write_curves

from ablate.config import DataConfig, TrainConfig, TrialConfig
from ablate.files import write_atomic

SBATCH = """#!/bin/sh
number=$(( $(cat {here}/number) + 1 ))
echo $number > {here}/number
grep -o 'array=0-[0-9]*' "$1" | sed "s|array=0-|$number $(dirname "$1") |" >> {here}/arrays
echo "Submitted batch job $number"
"""


def install_commands(here: Path) -> Path:
    """Write the scripts that stand for Slurm's commands; the folder to put on PATH."""
    folder = here / "bin"
    folder.mkdir()
    (here / "number").write_text("0\n")
    (here / "arrays").touch()
    (here / "queue").touch()
    scripts = {
        "sbatch": SBATCH.format(here=here),
        "squeue": f"#!/bin/sh\nexec cat {here}/queue\n",
        **dict.fromkeys(("scancel", "scontrol", "srun"), "#!/bin/sh\nexit 1\n"),
    }
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


# The nodes.


def nodes(here: Path, trials: int, running: int, hold_seconds: float) -> None:
    """Wait until all trials are queued, hold them, then run them one after the other."""
    while sum(1 for _ in jobs(here)) < trials:
        time.sleep(0.5)
        write_queue(here, [job for job, _ in jobs(here)])
    queued = list(jobs(here))
    for _, folder in queued[:running]:  # what runs shows its epochs
        call = load(folder)
        call.args[1].mkdir(parents=True, exist_ok=True)
        write_curves(call.args[1], 10)
    mark(here, "held")
    time.sleep(hold_seconds)
    mark(here, "released")
    left = dict.fromkeys(job for job, _ in queued)
    for number, (job, path) in enumerate(queued):
        reply = load(path)()
        result = path.with_name(f"{job}_0_result.pkl")
        write_atomic(result, pickle.dumps(("success", reply)), durable=False)
        del left[job]
        if number % 50 == 49 or not left:
            write_queue(here, left)


def jobs(here: Path) -> Iterator[tuple[str, Path]]:
    """Every job that was submitted and where its pickle lies."""
    for line in (here / "arrays").read_text().splitlines():
        number, folder, last = line.split()
        for index in range(int(last) + 1):
            job = f"{number}_{index}"
            yield job, Path(folder) / f"{job}_submitted.pkl"


def load(path: Path) -> Any:
    """The call of a job; its pickle comes a moment after sbatch has answered."""
    while not path.exists():
        time.sleep(0.01)
    return pickle.loads(path.read_bytes()).function


def write_queue(here: Path, listed: Any) -> None:
    write_atomic(here / "queue", "\n".join(listed) + "\n", durable=False)


def mark(here: Path, what: str) -> None:
    write_atomic(here / what, repr(time.time()), durable=False)


# The driver.


def driver(here: Path, trials: int, epochs: int, poll_seconds: float) -> None:
    """Run the study as `ablate run --executor slurm` would, and note the processor's time."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from study_fakes import fake_study

    from ablate.study.engine import run
    from ablate.study.progress import Event
    from ablate.study.settings import Settings

    study = fake_study(10, trials // 10, epochs=epochs, name="load")
    settings = Settings(
        runs=here / "runs", results=here / "results", executor="slurm",
        fit=no_time, options={"poll_seconds": poll_seconds},
    )  # fmt: skip
    samples: list[tuple[float, float]] = [sample()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            samples.append(sample())

    threading.Thread(target=watch, daemon=True).start()
    ends: list[tuple[float, float]] = []

    def note(event: Event) -> None:
        if event.kind == "done":
            ends[:] = [sample()]

    summary = run(study, settings, sink=note)
    over.set()
    samples.append(sample())
    facts = {"done": summary.done, "samples": samples, "ended": ends[0], "memory": peak_memory()}
    (here / "driver.json").write_text(json.dumps(facts))


def sample() -> tuple[float, float]:
    """The time of day and this process's processor seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.time(), used.ru_utime + used.ru_stime


def peak_memory() -> float:
    """In MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# One trial of real training, to be counted by strace.


def one_trial(here: Path, epochs: int) -> None:
    """Train the smallest thing there is, as a job would."""
    from ablate.study.worker import Order, run_trial

    trial = TrialConfig(
        arch="E1x16(patch_size=8):T1x32", data=DataConfig(train_fraction=0.05),
        train=TrainConfig(epochs=epochs), seed=0,
    )  # fmt: skip
    outcome = run_trial(trial, here / "runs" / trial.key, Order(device="cpu", threads=1))
    assert outcome.status == "done", outcome


if __name__ == "__main__":
    role, place, *numbers = sys.argv[1:]
    given = [float(number) if "." in number else int(number) for number in numbers]
    {"nodes": nodes, "driver": driver, "trial": one_trial}[role](Path(place), *given)  # type: ignore[operator]
