"""What runs on the nodes of a Ray cluster: one call of the driver, in surroundings like its own.

Ray reuses a worker process for many calls, and gives a call that takes GPUs a fresh one. As with
a spawned process of this machine, the worker takes over the driver's current folder, import paths
and plugins, so that relative paths of data and runs mean the same on every node.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.errors import ConfigError
from ablate.study.environment import code
from ablate.study.executors import start_worker


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What of the driver's process a worker takes over.

    Args:
        cwd: the driver's current folder, which every node must see.
        paths: its `sys.path`.
        plugins: modules to import first.
        threads: CPU threads a trial.
        gpu: False hides a node's GPUs from trials that take none.
    """

    cwd: str
    paths: tuple[str, ...]
    plugins: tuple[str, ...]
    threads: int
    gpu: bool


class _Entered:
    """That this process has taken over the surroundings."""

    done = False


def call(pickled: bytes, surroundings: Surroundings) -> Any:
    """Run the pickled (function, args, kwargs); unpickled here, where imports work as there."""
    _enter(surroundings)
    function, args, kwargs = pickle.loads(pickled)
    return function(*args, **kwargs)


def _enter(surroundings: Surroundings) -> None:
    if _Entered.done:
        return
    try:
        os.chdir(surroundings.cwd)
    except OSError as error:
        raise ConfigError(
            f"node {socket.gethostname()} cannot enter {surroundings.cwd} ({error.strerror}): "
            "start ablate in a folder that all nodes of the Ray cluster share"
        ) from error
    sys.path += [path for path in surroundings.paths if path not in sys.path]
    hidden = None if surroundings.gpu else ""
    start_worker(hidden, surroundings.threads, surroundings.plugins)
    _Entered.done = True


def inspect(lease: Path | None, digests: Mapping[str, str], plugins: tuple[str, ...]) -> str | None:
    """What keeps this node from training the driver's trials, in one line; None where nothing does.

    Args:
        lease: the driver's file in the runs folder, which it has just written.
        digests: of the driver's code, part by part.
        plugins: the study's modules, part of the code.
    """
    if lease is not None and not lease.exists():
        return (
            f"does not see {lease.parent.absolute()}: the runs folder must be shared by all nodes"
        )
    own = code(plugins)
    other = sorted(room for room in {*own, *digests} if own.get(room) != digests.get(room))
    if other:
        return (
            f"has other code than this process ({', '.join(other)}): install the same on all nodes"
        )
    return None
