"""What the driver costs a trial, and how a study of many finished trials answers.

    python benchmarks/driver_overhead.py [--trials 10000] [--timed 500]

The trials return at once, so that all time is the driver's: run folders, owner files, fsync,
processes, rows. The verbs are timed as commands, from the start of Python to the last line.
Targets: under 20 ms a trial; `ablate status` and `ablate results` of 10,000 finished trials under
2 s, `ablate run` of a finished study under 5 s.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from measuring import command_line, seconds, timed
from untrained import no_time

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
train: {{epochs: 10}}
"""


def settings(folder: Path, executor: str) -> Settings:
    return Settings(
        runs=folder / "runs", results=folder / "results", executor=executor, fit=no_time
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
    command = [sys.executable, "-m", "ablate", verb[0], "overhead.yaml", *verb[1:]]
    return timed(command, folder, PYTHONPATH=str(Path(__file__).parents[1]))[0]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="finished trials")
    parser.add_argument("--timed", type=int, default=500, help="trials for the time a trial")
    arguments = parser.parse_args()
    for executor in ("serial", "local"):
        each = milliseconds_a_trial(executor, arguments.timed)
        print(f"driver overhead, {executor}: {each:.1f} ms a trial", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = load_study(study_of(folder, arguments.trials))
        taken = seconds(lambda: run(study, settings(folder, "serial"))).wall
        print(f"{arguments.trials} trials: {taken:.0f} s in all", flush=True)
        print(f"figures of all trials, once: {seconds_of(['run'], folder):.0f} s", flush=True)
        for verb in (["status"], ["results"], ["results", "--check"], ["run"]):
            taken = seconds_of(verb, folder)
            print(f"ablate {' '.join(verb)}, {arguments.trials} trials: {taken:.2f} s")


if __name__ == "__main__":
    main()
