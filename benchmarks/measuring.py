"""What the benchmarks share: their command line, seconds, and means with 95% intervals."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import scipy.stats


def command_line(doc: str) -> argparse.ArgumentParser:
    """A script's command line, with its docstring as the help."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


class Seconds(NamedTuple):
    cpu: float
    wall: float


def seconds(call: Callable[[], object]) -> Seconds:
    """What a call takes: the processor seconds of this process, and the wall-clock."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def timed(command: Sequence[str], folder: Path, **environment: str) -> tuple[float, str]:
    """Wall-clock seconds of a command that runs in a folder, and what it printed."""
    env, start = {**os.environ, **environment}, time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - start, done.stdout


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95% interval, Student's t; of at least two values."""
    deviation = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), scipy.stats.t.ppf(0.975, len(values) - 1) * deviation


def geometric(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean and its 95% interval, by the logarithms; of at least two ratios."""
    mean, half = mean_and_half([math.log(ratio) for ratio in ratios])
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
