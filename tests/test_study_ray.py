"""Trials on Ray: what they take of a node, what is refused, and a sweep that loses a node."""

from __future__ import annotations

import csv
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import add_node, cluster, lose_node, needs_ray, raylet_pid
from study_fakes import Recorder

from ablate.errors import ConfigError
from ablate.study.environment import code
from ablate.study.executors import Resources, TrialExecutor, create_executor
from ablate.study.owner import read_owner
from ablate.study.ray_cluster import Node, check_address, room
from ablate.study.ray_executor import amounts
from ablate.study.ray_options import RayOptions
from ablate.study.ray_worker import inspect
from ablate.study.worker import Order

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def node(**has: float) -> Node:
    return Node(id="n", name="n", has=has)


# What a trial takes, and how many fit: no ray needed.


@pytest.mark.parametrize(
    ("need", "fits"),
    [
        ({"CPU": 1}, 20),
        ({"CPU": 3}, 6),
        ({"CPU": 1, "GPU": 1}, 4),
        ({"CPU": 1, "GPU": 0.5}, 8),
        ({"CPU": 1, "GPU": 0.4}, 8),
        ({"CPU": 1, "GPU": 0.3333}, 12),
        ({"CPU": 1, "GPU": 3}, 1),
        ({"CPU": 1, "a100": 1}, 1),
        ({"CPU": 100}, 0),
    ],
)
def test_the_nodes_of_a_cluster_hold_so_many_trials(need: dict[str, float], fits: int) -> None:
    assert room([node(CPU=16, GPU=4, a100=1), node(CPU=4)], need) == fits


GPU_NODES = [node(CPU=32, GPU=4), node(CPU=16, GPU=4), node(CPU=8)]


@pytest.mark.parametrize(
    ("options", "resources", "takes"),
    [
        ({}, {}, {"CPU": 4, "GPU": 1}),
        ({}, {"per_gpu": 2}, {"CPU": 2, "GPU": 0.5}),
        ({}, {"per_gpu": 3}, {"CPU": 1, "GPU": 0.3333}),
        ({"gpus": 0.5}, {}, {"CPU": 2, "GPU": 0.5}),
        ({"gpus": 0.5}, {"per_gpu": 4}, {"CPU": 1, "GPU": 0.25}),
        ({"gpus": 2, "cpus": 3}, {}, {"CPU": 3, "GPU": 2}),
        ({"gpus": 0}, {}, {"CPU": 1}),
        ({"gpus": 0}, {"threads": 2}, {"CPU": 2}),
        ({"cpus": 4}, {"threads": 2}, {"CPU": 4, "GPU": 1}),
        ({"gpus": 0, "resources": {"a100": 1}}, {}, {"CPU": 1, "a100": 1}),
    ],
)
def test_a_trial_takes_its_share_of_a_node(
    options: dict[str, Any], resources: dict[str, Any], takes: dict[str, float]
) -> None:
    made = RayOptions(**options), Resources(trials=100, **resources)
    assert amounts(*made, GPU_NODES, own=False) == takes


def test_a_ray_of_our_own_divides_the_cores_as_the_local_executor_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ablate.study.ray_executor.available_cores", lambda: 12)
    nodes, options = [node(CPU=12)], RayOptions()
    assert amounts(options, Resources(workers=3, trials=9), nodes, own=True) == {"CPU": 4}
    assert amounts(options, Resources(trials=2), nodes, own=True) == {"CPU": 6}
    assert amounts(options, Resources(trials=100), nodes, own=False) == {"CPU": 1}


def test_a_trial_takes_a_part_of_one_gpu_or_whole_ones() -> None:
    with pytest.raises(ValueError, match=r"a part of one GPU or a whole number, but got 1\.5"):
        RayOptions(gpus=1.5)


# What is refused before anything starts.


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"needs the package ray: pip install 'ablate-vision"):
        create_executor("ray", Resources())


@pytest.mark.parametrize("address", ["here", "ray://127.0.0.1:10001", ":6379", "here:", "a:b"])
def test_an_address_is_host_and_port(address: str) -> None:
    message = f"must be HOST:PORT of its head or 'auto', but got '{address}'"
    with pytest.raises(ConfigError, match=message):
        check_address(address)


def test_an_address_where_nothing_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address} .*refused.*ray st"):
        check_address(address)


def test_a_server_that_is_not_ray_is_told() -> None:
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"what answers at {address} is no Ray cluster"):
            check_address(address)
        thread.join()


def test_a_node_that_shares_no_folder_or_has_other_code_is_told(tmp_path: Path) -> None:
    lease, digests = tmp_path / "lease", code()
    assert inspect(None, digests, ()) is None
    assert f"does not see {tmp_path}" in str(inspect(lease, digests, ()))
    lease.touch()
    assert inspect(lease, digests, ()) is None
    told = str(inspect(lease, digests | {"models": "another"}, ()))
    assert "has other code than this process (models)" in told


# On a cluster.


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """A head that takes one trial, and a node with four CPUs and two pretended GPUs."""
    with cluster({"num_cpus": 1}, {"num_cpus": 4, "num_gpus": 2}) as made:
        yield made


def executor_on(nodes: Any, options: Mapping[str, Any], **resources: Any) -> TrialExecutor:
    """The executor on a cluster, as `--address` and the other options ask for it."""
    given = {"address": nodes.address, **options}
    return create_executor("ray", Resources(options=given, **resources))


def cuda_devices(seconds: float) -> str | None:
    time.sleep(seconds)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@needs_ray
@pytest.mark.slow
def test_trials_share_gpus(two_nodes: Any) -> None:
    with executor_on(two_nodes, {}, per_gpu=2, trials=9) as executor:
        assert executor.slots == 4
        futures = [executor.submit(cuda_devices, 5.0) for _ in range(4)]
        assert sorted(str(f.result(timeout=120)) for f in futures) == ["0", "0", "1", "1"]


def plugin_value() -> int:
    return int(sys.modules["a_ray_plugin"].VALUE)


@needs_ray
@pytest.mark.slow
def test_plugins_are_imported_on_every_node(two_nodes: Any, tmp_path: Path) -> None:
    plugin = tmp_path / "a_ray_plugin.py"
    plugin.write_text("VALUE = 7\n")
    with executor_on(two_nodes, {"gpus": 0}, plugins=(str(plugin),)) as executor:
        assert executor.submit(plugin_value).result(timeout=60) == 7


@needs_ray
@pytest.mark.slow
def test_a_plugin_that_a_node_cannot_import_is_told(two_nodes: Any, tmp_path: Path) -> None:
    plugin = tmp_path / "a_local_plugin.py"
    plugin.write_text(f"import os\nassert os.getpid() == {os.getpid()}, 'only at home'\n")
    with (
        executor_on(two_nodes, {"gpus": 0}, plugins=(str(plugin),)) as executor,
        pytest.raises(ConfigError, match=r"node .* cannot train: plugin .*a_local_plugin.*at home"),
    ):
        executor.place(Order())


@needs_ray
@pytest.mark.slow
def test_trials_without_a_gpu_see_none(two_nodes: Any) -> None:
    with executor_on(two_nodes, {"gpus": 0}, trials=9) as executor:
        assert executor.slots == 5
        assert executor.submit(cuda_devices, 0.0).result(timeout=60) == ""


@needs_ray
@pytest.mark.slow
def test_a_trial_that_fits_on_no_node_is_told(two_nodes: Any) -> None:
    with pytest.raises(ConfigError, match=r"takes 1 CPU, 8 GPU, but no node .*: 4 CPU, 2 GPU"):
        executor_on(two_nodes, {"gpus": 8, "wait_seconds": 0})


@needs_ray
@pytest.mark.slow
def test_a_runs_folder_that_is_not_shared_is_told(two_nodes: Any, tmp_path: Path) -> None:
    with (
        executor_on(two_nodes, {"gpus": 0}) as executor,
        pytest.raises(ConfigError, match=f"node .* does not see {tmp_path}: the runs folder must"),
    ):
        executor.place(Order(lease=tmp_path / "lease"))


@needs_ray
@pytest.mark.slow
def test_trials_wait_for_a_node_where_the_last_one_is_lost() -> None:
    with (
        cluster({"num_cpus": 0}, {"num_cpus": 1}) as nodes,
        executor_on(nodes, {}, trials=9) as executor,
    ):
        assert executor.slots == 1
        lose_node(nodes)
        future = executor.submit(cuda_devices, 0.0)
        time.sleep(3.0)
        assert not future.done()
        add_node(nodes, num_cpus=2)
        future.result(timeout=60)
        assert awaited(lambda: executor.slots == 2)


# A sweep of real trials.


def kill_sweep() -> Any:
    """The script `benchmarks/kill_sweep.py`: its study, and the state that a study ends in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("kill_sweep")


def write_study(folder: Path) -> Path:
    """The small study of the kill sweep, with three seeds."""
    folder.mkdir()
    path = folder / "killed.yaml"
    path.write_text(kill_sweep().STUDY.replace("seeds: 1", "seeds: 3"))
    return path


def train(path: Path, sink: Any, **options: Any) -> Any:
    """Train the study on Ray, driven by this process."""
    from ablate.study.engine import run
    from ablate.study.settings import Settings
    from ablate.study.spec import load_study

    settings = Settings(
        runs=path.parent / "runs", results=path.parent / "results", executor="ray", threads=1,
        options=options,
    )  # fmt: skip
    return run(load_study(path), settings, sink=sink)


def command(path: Path, executor: str, *more: str) -> subprocess.Popen[str]:
    """`ablate run` in a process group of its own."""
    arguments = ["run", path.name, "--executor", executor, "--threads", "1", "--workers", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "ablate", *arguments, *more], cwd=path.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study ends with when it is trained serially, by nobody disturbed."""
    path = write_study(tmp_path_factory.mktemp("ray") / "whole")
    process = command(path, "serial")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found: dict[str, Any] = kill_sweep().state(path.parent)
    return found


def worker_of(raylet: int, runs: Path) -> Path | None:
    """The run folder of a trial that has an epoch behind it and runs on the raylet's node."""
    for owner in runs.glob("*/owner"):
        held, metrics = read_owner(owner), owner.parent / "metrics.csv"
        if held is None or not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
            continue
        stat = Path(f"/proc/{held.pid}/stat")
        if stat.exists() and int(stat.read_text().rpartition(")")[2].split()[1]) == raylet:
            return owner.parent
    return None


def awaited(find: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What `find` returns, once it is true."""
    for _ in range(int(seconds / 0.02)):
        if found := find():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{find} found nothing in {seconds:.0f} s")


def epochs(run: Path) -> list[str]:
    with open(run / "metrics.csv") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@needs_ray
@pytest.mark.slow
def test_a_sweep_that_loses_a_node_ends_every_trial_once(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    """One of two nodes is killed in the middle of its trial; the other ends the study."""
    path = write_study(tmp_path / "lost")
    runs, sink, lost = path.parent / "runs", Recorder(), []
    with cluster({"num_cpus": 1}, {"num_cpus": 1}) as nodes:

        def lose_a_node() -> None:
            pid = raylet_pid(nodes.others[0])
            lost.append(awaited(lambda: worker_of(pid, runs)).name)
            lose_node(nodes)

        thread = threading.Thread(target=lose_a_node)
        thread.start()
        summary = train(path, sink, address=nodes.address)
        thread.join()
    ends = Counter(event.key for event in sink.events if event.kind in ("done", "failed"))
    for event in sink.events:
        print(event.kind, event.label, event.message)
    assert (summary.total, summary.done, summary.trained, summary.failed) == (6, 6, 6, ())
    assert [event.key for event in sink.events if event.kind == "retry"] == lost
    assert set(ends.values()) == {1}
    assert len(ends) == 6
    assert kill_sweep().state(path.parent) == whole
    for run in runs.glob("[0-9a-f]*/"):
        assert epochs(run) == ["1", "2", "3", "4", "5", "6"]
    assert not list(runs.glob("*/owner"))


def busy(runs: Path) -> list[Any]:
    """The owners of trials that have an epoch behind them."""
    owners = [path for path in runs.glob("*/owner") if (path.parent / "metrics.csv").exists()]
    return [owner for owner in map(read_owner, owners) if owner is not None]


@needs_ray
@pytest.mark.slow
def test_the_command_with_a_ray_of_its_own_is_interrupted_loses_a_worker_and_ends_the_same(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    """Ctrl-C to the whole group stops at an epoch; then a worker is killed; all without a trace."""
    path = write_study(tmp_path / "own")
    first = command(path, "ray")
    awaited(lambda: busy(path.parent / "runs"))
    os.killpg(first.pid, signal.SIGINT)
    printed, errors = first.communicate(timeout=120)
    print(printed)
    assert first.returncode == 130, errors
    assert "stopping: current trials finish their epoch" in printed
    assert errors == ""
    assert not list(path.parent.glob("runs/*/owner"))

    second = command(path, "ray", "--json")
    victim = awaited(lambda: busy(path.parent / "runs"))[0]
    os.kill(victim.pid, signal.SIGKILL)
    printed, errors = second.communicate(timeout=180)
    assert second.returncode == 0, errors
    print(errors)
    facts = json.loads(printed)
    assert (facts["total"], facts["done"], facts["failed"]) == (6, 6, [])
    assert kill_sweep().state(path.parent) == whole
