"""Where trials run: executors in the shape of `concurrent.futures`, by name.

An executor has `submit`, `slots` (how many trials it runs at once) and `kill`. A worker process
that dies shows as `WorkerDied` in its future and costs one slot's process, not the others.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ablate.errors import ConfigError, unknown
from ablate.study.allocator import starting_with_large_pages
from ablate.study.environment import available_cores
from ablate.study.plugins import import_plugins
from ablate.study.worker import Order, ask_to_stop, load_training

T = TypeVar("T")


class StopNow(BaseException):
    """Leave the trial that runs in this process, at once."""


class WorkerDied(Exception):  # noqa: N818  (what happened)
    """The process that ran a trial is gone: killed, or out of the host's memory."""


class Left(Exception):  # noqa: N818  (what happened)
    """The trial goes on in its cluster, and this process no longer waits for it."""


class TrialExecutor(Executor):
    """What the engine needs beyond `concurrent.futures.Executor`."""

    slots: int = 1
    """How many trials it takes at once: it runs them, or keeps them in a cluster's queue."""

    @property
    def stopping(self) -> str:
        """What a first Ctrl-C does, in words."""
        return (
            "stopping: current trials finish their epoch; again to stop at once (nothing is lost)"
        )

    def place(self, order: Order) -> Order:
        """The order with this executor's devices and threads filled in."""
        return order

    def warm_up(self, trials: int) -> None:
        """Begin what so many trials need to start, while the driver still looks at them."""

    def has(self, path: Path) -> bool:
        """Whether the trial in this run folder is in the cluster's queue already: submitted by an
        earlier driver, so that `submit` waits for that job."""
        return False

    def leave(self) -> None:
        """The driver was told to end; called in a signal's handler.

        An executor whose trials need no driver settles their futures with `Left`; the others'
        trials stop with the driver's lease.
        """

    def stop(self) -> None:
        """Let all trials finish their epoch and stop, where the driver's lease does not do so."""

    def kill(self) -> None:
        """Stop all workers at once; their futures end with `WorkerDied`."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the user gives to trials.

    Args:
        workers: trials at once; None is one a GPU slot, or one a CPU core.
        per_gpu: trials that share a GPU.
        trials: how many trials the study has in all (more slots than that are never made).
        plugins: modules that every worker imports first.
        threads: CPU threads a trial; None divides the cores between the slots.
        options: what only some executors take (partition, address ...).
        folder: the runs folder, where an executor may keep files of its own.
    """

    workers: int | None = None
    per_gpu: int = 1
    trials: int = 1
    plugins: tuple[str, ...] = ()
    threads: int | None = None
    options: Mapping[str, Any] | None = None
    folder: Path = Path("runs")


class SerialExecutor(TrialExecutor):
    """Runs each trial in this process when it is submitted: for debugging, and for one core."""

    def __init__(self, resources: Resources = Resources()) -> None:
        self._threads = resources.threads
        import_plugins(resources.plugins)

    def place(self, order: Order) -> Order:
        return replace(order, threads=self._threads or available_cores())

    def kill(self) -> None:
        """Called in a signal's handler, this ends the trial that the signal interrupted."""
        raise StopNow

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class LocalExecutor(TrialExecutor):
    """Persistent worker processes, one single-worker pool a slot.

    A thread a slot hands it one call at a time, so that a process that dies takes nothing with it
    but its own call; the slot gets a new process with the next one.
    """

    def __init__(self, resources: Resources = Resources()) -> None:
        gpus = visible_gpus()
        wished = resources.workers or len(gpus) * resources.per_gpu or available_cores()
        self.slots = max(1, min(wished, resources.trials))
        self._thread_count = resources.threads or max(1, available_cores() // self.slots)
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._warming: list[_Slot] = []
        self._all = [
            _Slot(gpus[number % len(gpus)] if gpus else None, self._thread_count, resources.plugins)
            for number in range(self.slots)
        ]
        for slot in self._all:
            self._free.put(slot)
        self._callers = ThreadPoolExecutor(self.slots, thread_name_prefix="slot")

    def place(self, order: Order) -> Order:
        return replace(order, threads=self._thread_count)

    def warm_up(self, trials: int) -> None:
        for _ in self._all[:trials]:
            self._callers.submit(self._warm)

    def _warm(self) -> None:
        slot = self._free.get()
        self._warming.append(slot)
        try:
            slot.call(load_training)
        finally:
            self._warming.remove(slot)
            self._free.put(slot)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return self._callers.submit(self._call, fn, args, kwargs)

    def _call(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        slot = self._free.get()
        try:
            return slot.call(fn, *args, **kwargs)
        finally:
            self._free.put(slot)

    def kill(self) -> None:
        for slot in self._all:
            slot.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._callers.shutdown(wait=False, cancel_futures=cancel_futures)
        for slot in list(self._warming) if cancel_futures else ():
            slot.kill()  # its trial does not come any more
        self._callers.shutdown(wait=wait)
        for slot in self._all:  # idle by now; a process takes seconds to unload what it imported
            slot.close(wait=False)


class _Slot:
    """One worker process, made when it is first needed and again when it has died."""

    def __init__(self, gpu: str | None, threads: int, plugins: Sequence[str]) -> None:
        self._initargs = (gpu, threads, tuple(plugins))
        self._pool: ProcessPoolExecutor | None = None
        self._pid: int | None = None

    def call(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        try:
            if self._pool is None:
                self._start()
            assert self._pool is not None
            return self._pool.submit(fn, *args, **kwargs).result()
        except BrokenProcessPool as error:
            pid, self._pid = self._pid, None
            self.close(wait=True)  # until it is really gone, and its owner file stale
            raise WorkerDied(f"worker process {pid or '(starting)'} died") from error

    def _start(self) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=start_worker,
            initargs=self._initargs,
        )
        with starting_with_large_pages():
            asked = self._pool.submit(os.getpid)
        self._pid = asked.result()

    def kill(self) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def close(self, *, wait: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=True)
            self._pool = None


def start_worker(gpu: str | None, threads: int, plugins: Sequence[str]) -> None:
    """Prepare a fresh worker process, before it imports torch.

    A terminal sends Ctrl-C to the whole process group: only the driver answers it. SIGTERM asks
    the trial to finish its epoch; a second one ends the process. When the driver is gone, the
    worker ends too: whoever comes next resumes its trial.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _first_sigterm)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.environ["OMP_NUM_THREADS"] = str(threads)
    threading.Thread(target=_die_with_the_driver, name="driver-watch", daemon=True).start()
    import_plugins(plugins)


def _first_sigterm(number: int, frame: object) -> None:
    ask_to_stop()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _die_with_the_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        multiprocessing.connection.wait([driver.sentinel])
        os._exit(1)


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as values for CUDA_VISIBLE_DEVICES; starts no context."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed else [str(number) for number in range(count)]
    return [name.strip() for name in names[:count]]


Factory = Callable[[Resources], TrialExecutor]


def _slurm(resources: Resources) -> TrialExecutor:
    from ablate.study.slurm import SlurmExecutor  # only where it is asked for

    return SlurmExecutor(resources)


def _ray(resources: Resources) -> TrialExecutor:
    from ablate.study.ray_executor import RayExecutor  # only where it is asked for

    return RayExecutor(resources)


_EXECUTORS: dict[str, Factory] = {
    "serial": SerialExecutor,
    "local": LocalExecutor,
    "slurm": _slurm,
    "ray": _ray,
}


def executor_names() -> list[str]:
    """The executors there are."""
    return list(_EXECUTORS)


def register_executor(name: str, factory: Factory) -> None:
    """Add an executor; the contract tests in tests/test_study_executors.py hold for it too."""
    _EXECUTORS[name] = factory


def check_executor(name: str) -> None:
    """Raises ConfigError where there is no such executor."""
    if name not in _EXECUTORS:
        raise ConfigError(unknown("executor", name, _EXECUTORS))


def create_executor(name: str, resources: Resources) -> TrialExecutor:
    """The executor of that name.

    Raises:
        ConfigError: there is no such executor, or a number is below 1.
    """
    check_executor(name)
    for field in ("workers", "per_gpu", "threads"):
        value = getattr(resources, field)
        if value is not None and value < 1:
            raise ConfigError(f"`{field}` must be at least 1, but got {field}={value}")
    return _EXECUTORS[name](resources)
