"""Trials as tasks of a Ray cluster: Ray places them, the driver alone tries them again.

Ray would retry a task that was lost with its node by itself (`max_retries`); it is told not to.
Only the driver knows from the run folder whether the lost process is really gone (its heartbeat
stopped), counts the tries that `--retries` allows, and writes the failure of a trial that has
none left. One trial so never has two parties that start it.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from ablate.errors import AblateError, ConfigError
from ablate.study.cluster import parse_options
from ablate.study.environment import available_cores, code
from ablate.study.executors import Resources, TrialExecutor, WorkerDied
from ablate.study.ledger import first_line
from ablate.study.ray_cluster import Amounts, Connection, Node, room
from ablate.study.ray_options import RayOptions
from ablate.study.ray_worker import Surroundings, call, inspect
from ablate.study.worker import Order

T = TypeVar("T")

_COUNT_SECONDS = 2.0
_INSPECT_SECONDS = 120.0


class RayExecutor(TrialExecutor):
    """Each call is one Ray task that takes the CPUs and GPUs of one trial."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._options = parse_options(RayOptions, resources.options)
        self._connection = Connection(self._options.address)
        self._ray = self._connection.ray
        try:
            self._need = self._await_room()
        except BaseException:
            self._connection.close()
            raise
        self._threads = resources.threads or max(1, int(self._need["CPU"]))
        self._running: dict[Future[Any], Any] = {}
        self._counted = (-_COUNT_SECONDS, 1)
        self._closed = False
        self._surroundings = Surroundings(
            cwd=os.getcwd(),
            paths=tuple(os.path.abspath(path) for path in sys.path),
            plugins=tuple(resources.plugins),
            threads=self._threads,
            gpu="GPU" in self._need,
        )
        self._task = self._as_task(call, self._need)

    def _as_task(self, function: Callable[..., Any], need: Amounts, **more: Any) -> Any:
        custom = {name: much for name, much in need.items() if name not in ("CPU", "GPU")}
        return self._ray.remote(function).options(
            num_cpus=need.get("CPU", 0), num_gpus=need.get("GPU", 0), resources=custom,
            max_retries=0, retry_exceptions=False, name="trial", **more,
        )  # fmt: skip

    # What a trial takes, and how many run at once.

    def _await_room(self) -> Amounts:
        """What one trial takes, once the cluster has a node for it."""
        give_up = time.monotonic() + (0 if self._connection.own else self._options.wait_seconds)
        while True:
            nodes = self._connection.nodes()
            need = amounts(self._options, self._resources, nodes, own=self._connection.own)
            if room(nodes, need) > 0:
                return need
            if time.monotonic() >= give_up:
                there = "; ".join(f"{node.name}: {_listed(node.has)}" for node in nodes)
                raise ConfigError(
                    f"a trial takes {_listed(need)}, but no node of the Ray cluster at "
                    f"{self._connection.address} has that: {there or 'it has no nodes'}"
                )
            time.sleep(0.5)

    @property
    def slots(self) -> int:  # type: ignore[override]  # nodes come and go
        """As many as the user wants, else as many as the living nodes hold; at least one."""
        wished = self._resources.workers or self._room()
        return max(1, min(wished, self._resources.trials))

    def _room(self) -> int:
        counted, found = self._counted
        if time.monotonic() - counted > _COUNT_SECONDS:
            found = room(self._connection.nodes(), self._need)
            self._counted = (time.monotonic(), found)
        return found

    # Before the first trial.

    def place(self, order: Order) -> Order:
        """The order with its threads, after every node was seen to share folders and code.

        Raises:
            ConfigError: a node that does not; nothing was started.
        """
        digests = code(self._surroundings.plugins)
        lease = order.lease.absolute() if order.lease else None
        arguments = (lease, digests, self._surroundings.plugins)
        asked = {
            self._ask(node, arguments): node
            for node in self._connection.nodes()
            if room([node], self._need) > 0
        }
        self._ray.wait([*asked], num_returns=len(asked), timeout=_INSPECT_SECONDS)
        for reference, node in asked.items():
            if complaint := self._answer(reference):
                raise ConfigError(f"node {node.name} of the Ray cluster {complaint}")
        return replace(order, threads=self._threads)

    def _ask(self, node: Node, arguments: tuple[Any, ...]) -> Any:
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        task = self._as_task(call, {}, scheduling_strategy=affinity(node.id, soft=False))
        return task.remote(self._pickle(inspect, arguments, {}), self._surroundings)

    def _answer(self, reference: Any) -> str | None:
        try:
            answer: str | None = self._ray.get(reference, timeout=0)
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, AblateError):
                return f"cannot train: {cause}"
            if _is_death(self._ray, cause):
                return None  # it has left, or is lost: its trials would be tried elsewhere
            return f"cannot run ablate: {type(cause).__name__}: {first_line(cause)}"
        return answer

    # Calls.

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        reference = self._task.remote(self._pickle(fn, args, kwargs), self._surroundings)
        self._running[future] = reference
        reference.future().add_done_callback(functools.partial(self._settle, future))
        return future

    def _pickle(self, fn: Callable[..., Any], args: object, kwargs: object) -> bytes:
        pickled: bytes = self._ray.cloudpickle.dumps((fn, args, kwargs))
        return pickled

    def _settle(self, future: Future[Any], done: Future[Any]) -> None:
        """Hand Ray's answer on, in the words of `concurrent.futures`; a thread of Ray's calls."""
        self._running.pop(future, None)
        error = done.exception()
        if error is None:
            future.set_result(done.result())
            return
        cause = _cause(error)
        if _is_death(self._ray, cause):
            died = WorkerDied(f"worker process died ({_reason(self._ray, cause)})")
            died.__cause__ = cause
            cause = died
        future.set_exception(cause)

    # The end.

    def kill(self) -> None:
        """Called in a signal's handler, where Ray's own locks may be held: a thread does it."""
        threading.Thread(target=self._cancel, name="ray-kill", daemon=True).start()

    def _cancel(self) -> None:
        for reference in list(self._running.values()):
            self._ray.cancel(reference, force=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the calls, and leave the cluster; Ray offers no way to drop queued ones only."""
        self._closed = True
        if wait:
            concurrent.futures.wait(list(self._running))
            self._connection.close()


def amounts(
    options: RayOptions, resources: Resources, nodes: list[Node], *, own: bool
) -> dict[str, float]:
    """What one trial takes of a node.

    A GPU, or the part of it that `per_gpu` leaves, where the cluster has any; of the CPU what the
    user says, else its node's cores divided by the node's trials: on GPU nodes, and in a Ray of
    our own as in the local executor; on a cluster of CPUs it is one core.
    """
    gpus = _gpus(options, resources, nodes)
    need = {"GPU": gpus} if gpus else {}
    need |= options.resources
    cpus = options.cpus or resources.threads
    if cpus is None and gpus:
        holding = [node for node in nodes if room([node], need) > 0]
        shares = [node.has.get("CPU", 1.0) // room([node], need) for node in holding]
        cpus = max(1.0, min(shares, default=1.0))
    elif cpus is None and own:
        wished = resources.workers or available_cores()
        cpus = max(1, available_cores() // max(1, min(wished, resources.trials)))
    return {"CPU": float(cpus or 1), **need}


def _gpus(options: RayOptions, resources: Resources, nodes: list[Node]) -> float:
    if resources.per_gpu > 1 and options.gpus != 0:
        return 10_000 // resources.per_gpu / 10_000  # Ray counts in steps of 1e-4
    if options.gpus is not None:
        return options.gpus
    return 1.0 if any(node.has.get("GPU") for node in nodes) else 0.0


def _listed(has: Amounts) -> str:
    """Amounts for a message, without Ray's own bookkeeping."""
    own = ("memory", "object_store_memory")
    shown = sorted(name for name in has if name not in own and ":" not in name)
    return ", ".join(f"{has[name]:g} {name}" for name in shown) or "nothing"


def _cause(error: BaseException) -> BaseException:
    """The exception as the call raised it, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _is_death(ray: Any, error: BaseException) -> bool:
    """Whether the process that ran a call is gone: killed, cancelled, or lost with its node."""
    kinds = ray.exceptions
    return isinstance(
        error,
        (
            kinds.WorkerCrashedError,
            kinds.NodeDiedError,
            kinds.LocalRayletDiedError,
            kinds.TaskCancelledError,
            kinds.OutOfMemoryError,
            kinds.ObjectLostError,
            kinds.TaskUnschedulableError,
        ),
    )


def _reason(ray: Any, error: BaseException) -> str:
    """Why, in a few words."""
    kinds = ray.exceptions
    if isinstance(error, kinds.OutOfMemoryError):
        return "Ray ended it: its node was nearly out of memory"
    if isinstance(error, kinds.TaskCancelledError):
        return "stopped"
    if isinstance(error, kinds.NodeDiedError):
        return "lost with its node"
    if isinstance(error, kinds.WorkerCrashedError):
        return "killed, or lost with its node"
    return f"{type(error).__name__}: {first_line(error)}"
