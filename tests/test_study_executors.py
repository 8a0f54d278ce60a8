"""The contract of every executor: a new one joins by its name in `EXECUTORS`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from ray_nodes import cluster, needs_ray
from slurm_queues import LocalQueue

from ablate.errors import ConfigError
from ablate.study.executors import (
    LocalExecutor,
    Resources,
    TrialExecutor,
    WorkerDied,
    create_executor,
    executor_names,
)
from ablate.study.slurm import SlurmExecutor
from ablate.study.worker import Order

SLURM = [
    pytest.param("slurm", marks=[pytest.mark.slow, pytest.mark.skipif(
        "ABLATE_TEST_SLURM" not in os.environ, reason="no Slurm here: see `make test-slurm`")]),
    pytest.param("submitit", marks=pytest.mark.slow),  # our Slurm executor on submitit's local jobs
]  # fmt: skip
RAY = pytest.param("ray", marks=[pytest.mark.slow, needs_ray])
PERSISTENT = ["local", RAY]
IN_OTHER_PROCESSES = [*PERSISTENT, *SLURM]
EXECUTORS = ["serial", *IN_OTHER_PROCESSES]


def make(name: str, folder: Path) -> TrialExecutor:
    resources = Resources(workers=2, trials=8, folder=folder)
    if name in ("slurm", "submitit"):
        resources = replace(resources, options={"poll_seconds": 1, "mem": "200M", "time": 5})
    if name == "submitit":
        pytest.importorskip("submitit")
        return SlurmExecutor(resources, queue=LocalQueue(), patience_seconds=1.0)
    return create_executor(name, resources)


def made(
    request: pytest.FixtureRequest, factory: pytest.TempPathFactory
) -> Iterator[TrialExecutor]:
    if request.param == "ray":
        request.getfixturevalue("two_nodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # jobs import this module, too
        with make(request.param, factory.mktemp("runs")) as executor:
            yield executor


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[None]:
    """A Ray cluster that this process has joined, as a user's process may have."""
    from ablate.study.ray_cluster import Connection

    with cluster({"num_cpus": 1}, {"num_cpus": 1}) as nodes:
        connection = Connection(nodes.address)
        yield
        connection.close()


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrialExecutor]:
    yield from made(request, tmp_path_factory)


@pytest.fixture(scope="module", params=IN_OTHER_PROCESSES)
def distant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrialExecutor]:
    yield from made(request, tmp_path_factory)


@pytest.fixture(scope="module", params=PERSISTENT)
def persistent(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrialExecutor]:
    yield from made(request, tmp_path_factory)


def add(a: int, b: int = 0) -> int:
    return a + b


def fail(message: str) -> None:
    raise ValueError(message)


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def pid_after_meeting(folder: Path, count: int) -> int:
    """This process, once `count` calls are in the folder at once, or nobody came for 20 s."""
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    give_up = time.monotonic() + 20.0
    while len(list(folder.iterdir())) < count and time.monotonic() < give_up:
        time.sleep(0.02)
    return os.getpid()


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def environ(name: str) -> str | None:
    return os.environ.get(name)


def is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def sleep_long() -> None:
    time.sleep(60.0)


def is_loaded(module: str) -> bool:
    return module in sys.modules


def plugin_value() -> int:
    import sys

    return int(sys.modules["a_plugin"].VALUE)


def test_every_executor_stands_in_the_contract() -> None:
    named = {getattr(param, "values", (param,))[0] for param in EXECUTORS}
    assert named == {*executor_names(), "submitit"}


def test_a_call_returns_its_value_through_a_future(executor: TrialExecutor) -> None:
    future = executor.submit(add, 2, b=3)
    assert isinstance(future, Future)
    assert future.result(timeout=60) == 5


@pytest.mark.slow
def test_local_workers_import_what_trains_before_they_get_a_trial() -> None:
    with LocalExecutor(Resources(workers=1)) as local:
        assert not local.submit(is_loaded, "pytorch_lightning").result()
        local.warm_up(1)
        assert local.submit(is_loaded, "pytorch_lightning").result()


def test_only_as_many_local_workers_warm_up_as_there_are_trials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load = partial(pid_after_meeting, tmp_path, 1)
    monkeypatch.setattr("ablate.study.executors.load_training", load)
    with LocalExecutor(Resources(workers=3, trials=3)) as local:
        local.warm_up(2)
    assert len(list(tmp_path.iterdir())) == 2


def test_local_workers_that_warm_up_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.study.executors.load_training", sleep_long)
    local = LocalExecutor(Resources(workers=1))
    local.submit(add, 1, 2).result()  # the process is there
    local.warm_up(1)
    time.sleep(0.5)
    begin = time.monotonic()
    local.shutdown(wait=True, cancel_futures=True)
    assert time.monotonic() - begin < 20.0


def test_an_exception_comes_back_as_itself(executor: TrialExecutor) -> None:
    with pytest.raises(ValueError, match="the message"):
        executor.submit(fail, "the message").result(timeout=60)


def test_a_failure_stops_no_other_call(executor: TrialExecutor) -> None:
    futures = [executor.submit(add, n) if n % 3 else executor.submit(fail, "x") for n in range(8)]
    wait(futures, timeout=60)
    assert [f.result() for f in futures if not f.exception()] == [1, 2, 4, 5, 7]


def test_it_says_how_many_run_at_once(executor: TrialExecutor) -> None:
    assert executor.slots >= 1


def test_it_gives_every_trial_threads(executor: TrialExecutor) -> None:
    assert (executor.place(Order()).threads or 0) >= 1


def test_calls_run_in_other_processes(distant: TrialExecutor, tmp_path: Path) -> None:
    futures = [distant.submit(pid_after_meeting, tmp_path, 2) for _ in range(2)]
    pids = {future.result(timeout=60) for future in futures}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_calls_run_at_once_in_as_many_processes_as_there_are_slots(
    persistent: TrialExecutor, tmp_path: Path
) -> None:
    rooms, slots = (tmp_path / "first", tmp_path / "second"), persistent.slots
    futures = [
        persistent.submit(pid_after_meeting, room, slots) for room in rooms for _ in range(slots)
    ]
    assert len({future.result(timeout=60) for future in futures}) == slots


def test_a_process_serves_many_calls(persistent: TrialExecutor) -> None:
    calls = 2 * persistent.slots
    first = {persistent.submit(pid_after, 0.2).result(timeout=60) for _ in range(calls)}
    assert len(first) <= persistent.slots


def test_a_dead_process_costs_its_own_call_only(distant: TrialExecutor, tmp_path: Path) -> None:
    beside = distant.submit(pid_after, 1.0)
    with pytest.raises(WorkerDied, match="worker process"):
        distant.submit(kill_itself).result(timeout=60)
    assert isinstance(beside.result(timeout=60), int)
    futures = [distant.submit(pid_after_meeting, tmp_path, 2) for _ in range(2)]
    assert len({future.result(timeout=60) for future in futures}) == 2


def test_a_worker_leaves_ctrl_c_to_the_driver(distant: TrialExecutor) -> None:
    assert distant.submit(is_ignored, signal.SIGINT).result(timeout=60)


def test_plugins_are_imported_in_every_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_plugin.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    with LocalExecutor(Resources(workers=1, plugins=("a_plugin",))) as made:
        assert made.submit(plugin_value).result(timeout=60) == 7


def test_cores_are_divided_between_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.study.executors.available_cores", lambda: 12)
    with LocalExecutor(Resources(workers=3, trials=100)) as made:
        assert made.place(Order()).threads == 4
    with LocalExecutor(Resources(trials=100)) as made:
        assert (made.slots, made.place(Order()).threads) == (12, 1)
    with LocalExecutor(Resources(trials=4)) as made:
        assert (made.slots, made.place(Order()).threads) == (4, 3)


def test_gpus_are_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.study.executors.visible_gpus", lambda: ["3", "MIG-a"])
    with LocalExecutor(Resources(per_gpu=2, trials=100)) as made:
        assert made.slots == 4
        futures = [made.submit(environ_later, "CUDA_VISIBLE_DEVICES") for _ in range(4)]
        seen = sorted(str(future.result(timeout=60)) for future in futures)
    assert seen == ["3", "3", "MIG-a", "MIG-a"]


def environ_later(name: str) -> str | None:
    time.sleep(0.5)
    return environ(name)


def test_kill_ends_the_running_calls(distant: TrialExecutor) -> None:
    distant.submit(add, 1).result(timeout=60)
    future = distant.submit(pid_after, 300.0)
    time.sleep(3.0 if isinstance(distant, SlurmExecutor) else 0.3)
    distant.kill()
    with pytest.raises(WorkerDied):
        future.result(timeout=60)


@pytest.mark.parametrize(
    ("name", "resources", "message"),
    [
        ("locl", Resources(), r"unknown executor 'locl' \(did you mean 'local'\?\)"),
        ("local", Resources(workers=0), "`workers` must be at least 1, but got workers=0"),
        ("local", Resources(per_gpu=-1), "`per_gpu` must be at least 1, but got per_gpu=-1"),
    ],
)
def test_wrong_settings_are_told(name: str, resources: Resources, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_executor(name, resources)
