"""What thousands of trials cost a cluster: driver, file server, Slurm; on paper and measured.

    python benchmarks/cluster_load.py estimate [--trials 10000] [--epochs 300] [--nodes 64] ...
    python benchmarks/cluster_load.py count               file-system calls of one trial (strace)
    python benchmarks/cluster_load.py simulate [--trials 10000] [--hold 60]     the driver's load
    python benchmarks/cluster_load.py simulate --trials 500 --strace            its calls

`estimate` is the arithmetic of docs/cluster.md with the constants below, which the other two
measure. `simulate` runs the real driver, Slurm executor and submitit against scripts in the place
of sbatch and squeue and against simulated nodes (cluster_simulation.py): first all trials are held
in the queue, which is the driver's load while nothing ends, then all of them end at once, which
gives its cost a trial.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster_simulation import install_commands
from measuring import command_line

from ablate.study.driver import LOOKS_A_SECOND, SAVE_SHARE
from ablate.study.owner import BEAT_SECONDS
from ablate.study.slurm_options import SlurmOptions

HERE = Path(__file__).parent

# Constants of the estimate: calls that reach the file server, from `count` and `simulate`.
EPOCH_CALLS = 20
TRIAL_CALLS = 84
BEAT_CALLS = 3
DRIVER_CALLS = 56  # a trial, from submission to its row
LOOK_CALLS = 2
IMPORT_CALLS = 66_000  # of a job's start, where Python's packages lie
DRIVER_SECONDS = 0.01  # processor time a trial


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A study on a cluster.

    Args:
        slots: trials that run at once.
        epoch_seconds: one epoch of one trial.
        checkpoint_mb: one checkpoint, in MB.
        limit_hours: of a job.
    """

    trials: int
    epochs: int
    slots: int
    epoch_seconds: float
    checkpoint_mb: float
    limit_hours: float

    def lines(self) -> list[str]:
        """The estimate, a line a quantity."""
        trial_seconds = self.epochs * self.epoch_seconds
        ends = self.slots / trial_seconds  # a second
        hours = self.trials * trial_seconds / self.slots / 3600
        requeues = int(trial_seconds / 3600 / self.limit_hours)
        epochs, beats = self.slots / self.epoch_seconds, self.slots / BEAT_SECONDS
        calls = "calls a second"
        starts = ends * (1 + requeues)
        poll = SlurmOptions().poll_seconds
        return [
            f"a trial {trial_seconds / 3600:.1f} h, the study {hours:.0f} h",
            f"trials that end: {ends:.3f} a second; requeues at the limit: {requeues} a trial",
            f"file server, training: {epochs * EPOCH_CALLS:.0f} {calls} "
            f"({epochs:.1f} epochs x {EPOCH_CALLS})",
            f"file server, checkpoints: {epochs * self.checkpoint_mb:.0f} MB a second written",
            f"file server, heartbeats: {beats * BEAT_CALLS:.0f} {calls}",
            f"file server, ends of trials: {ends * (TRIAL_CALLS + DRIVER_CALLS):.1f} {calls}",
            f"file server, driver's looks: at most {LOOKS_A_SECOND * LOOK_CALLS:.0f} {calls}",
            f"packages' disk: {starts * IMPORT_CALLS:.0f} calls a second, "
            f"{self.slots * IMPORT_CALLS / 1e6:.1f} million when all {self.slots} jobs start",
            f"driver: {100 * ends * DRIVER_SECONDS:.2f}% of a core for ends, at most "
            f"{100 * SAVE_SHARE:.0f}% for writing results",
            f"Slurm: one squeue every {poll:g} s, {-(-self.trials // SlurmOptions().array_size)} "
            f"sbatch in all, {starts:.3f} starts a second",
            f"disk: {self.trials * 2 * self.checkpoint_mb / 1e3:.0f} GB of checkpoints, "
            f"{self.trials * 11:,} files",
        ]  # fmt: skip


# Counting.

_CALL = re.compile(r"^\d+\s+(?:<\.\.\. )?(\w+)")
_QUIET = {"close", "lseek", "fcntl", "dup", "dup2", "dup3", "ioctl", "mmap", "munmap", "poll"}
_DATA = {"read", "write", "pread64", "pwrite64"}


def count(log: Path, folder: Path) -> Counter[str]:
    """Calls in a log of strace whose path, or file, lies in `folder`, by name.

    Reads and writes through one open file are buffered by the client of a network file system:
    they are counted apart.
    """
    found: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        name = _CALL.match(line)
        if name and name.group(1) not in _QUIET and str(folder) in line and "resumed" not in line:
            found["(data)" if name.group(1) in _DATA else name.group(1)] += 1
    return found


def strace(log: Path) -> list[str]:
    return ["strace", "-f", "-y", "-qq", "-s", "300", "-e", "trace=file,desc", "-o", str(log)]


def python(role: str, here: Path, *numbers: object) -> list[str]:
    return [
        sys.executable,
        str(HERE / "cluster_simulation.py"),
        role,
        str(here),
        *map(str, numbers),
    ]


def environment(here: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(HERE.parent), str(HERE.parent / "tests")])
    return {
        **os.environ, "PYTHONPATH": paths, "PATH": f"{here / 'bin'}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def count_trial(short: int = 2, long: int = 6) -> None:
    """Print the calls of a trial, and by two lengths, those of an epoch."""
    totals: dict[int, Counter[str]] = {}
    for epochs in (short, long):
        with tempfile.TemporaryDirectory() as name:
            here, log = Path(name).resolve(), Path(name).resolve() / "log"
            command = [*strace(log), *python("trial", here, epochs)]
            subprocess.run(command, env=environment(here), check=True)
            totals[epochs] = count(log, here / "runs")
            print(f"{epochs} epochs: {shown(totals[epochs])}", flush=True)
            everywhere = count(log, Path("/"))
            there = calls_of(everywhere) - calls_of(totals[epochs])
            print(f"  elsewhere (packages, images): {there} calls", flush=True)
    first, last = calls_of(totals[short]), calls_of(totals[long])
    each = (last - first) / (long - short)
    print(f"an epoch: {each:.1f} calls; the rest of a trial: {first - short * each:.0f}")


def calls_of(found: Counter[str]) -> int:
    """All but reads and writes."""
    return found.total() - found["(data)"]


def shown(found: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.most_common())


def simulate(trials: int, epochs: int, running: int, hold: float, *, traced: bool) -> None:
    """Print what the driver cost while all trials were held, and while they ended."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name).resolve()
        install_commands(here)
        log = here / "log"
        prefix: Sequence[str] = strace(log) if traced else ()
        started = time.time()
        driving = subprocess.Popen(
            [*prefix, *python("driver", here, trials, epochs, 20.0 if hold > 20 else 1.0)],
            env=environment(here),
        )
        working = subprocess.Popen(
            python("nodes", here, trials, running, float(hold)), env=environment(here)
        )
        if driving.wait() != 0 or working.wait() != 0:
            sys.exit("the simulation failed")
        report(here, trials, started)
        if traced:
            found = count(log, here / "runs")
            print(f"driver, run folders, a trial: {calls_of(found) / trials:.1f}")
            print(f"  {shown(found)}")


def report(here: Path, trials: int, started: float) -> None:
    facts = json.loads((here / "driver.json").read_text())
    samples = [tuple(pair) for pair in facts["samples"]]
    held, released = (float((here / what).read_text()) for what in ("held", "released"))
    assert facts["done"] == trials, facts["done"]

    def used(at: float) -> float:
        """Processor seconds until a moment."""
        return max((cpu for when, cpu in samples if when <= at), default=0.0)

    (ended, at_end), (over, in_all) = facts["ended"], samples[-1]
    print(f"{trials} trials, memory of the driver at most {facts['memory']:.0f} MiB")
    print(
        f"until all were queued: {held - started:.0f} s, processor "
        f"{1000 * (used(held) - samples[0][1]) / trials:.2f} ms a trial"
    )
    share = (used(released) - used(held)) / (released - held)
    print(f"held {released - held:.0f} s: {100 * share:.1f}% of a core")
    each = 1000 * (at_end - used(released)) / trials
    print(
        f"all end, in {ended - released:.0f} s ({trials / (ended - released):.0f} a second): "
        f"processor {each:.2f} ms a trial, results written meanwhile among it"
    )
    print(f"results written at the end: {over - ended:.0f} s, processor {in_all - at_end:.0f} s")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("what", choices=["estimate", "count", "simulate"])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--gpus", type=int, default=8, help="of a node; a trial takes one")
    parser.add_argument("--epoch-seconds", type=float, default=30.0)
    parser.add_argument("--checkpoint-mb", type=float, default=60.0)
    parser.add_argument("--limit-hours", type=float, default=4.0)
    parser.add_argument("--hold", type=float, default=60.0, help="seconds; simulate")
    parser.add_argument("--strace", action="store_true", help="count the driver's calls; simulate")
    given = parser.parse_args()
    slots = given.nodes * given.gpus
    if given.what == "estimate":
        cluster = Cluster(
            trials=given.trials, epochs=given.epochs, slots=slots,
            epoch_seconds=given.epoch_seconds, checkpoint_mb=given.checkpoint_mb,
            limit_hours=given.limit_hours,
        )  # fmt: skip
        print("\n".join(cluster.lines()))
    elif given.what == "count":
        count_trial()
    else:
        simulate(given.trials, given.epochs, slots, given.hold, traced=given.strace)


if __name__ == "__main__":
    main()
