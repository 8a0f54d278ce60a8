"""The connection of this process to Ray: a cluster by its address, or a Ray of our own."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.errors import ConfigError
from ablate.study.environment import available_cores
from ablate.study.ledger import first_line

_CONNECT_SECONDS = 5.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4  # the type of the frame with which HTTP/2 servers answer (RFC 9113, section 6.5)
_OBJECT_STORE_BYTES = 80 * 2**20  # near Ray's minimum: trials exchange files, not objects

Amounts = Mapping[str, float]
"""What a trial takes or a node has: Ray's names (CPU, GPU, a custom one) -> how much."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the cluster that is alive."""

    id: str
    name: str
    has: Amounts


class Connection:
    """This process in a Ray cluster, until `close`.

    A process that called `ray.init` itself keeps its connection: it is used, and left open.

    Args:
        address: "HOST:PORT" or "auto"; None is RAY_ADDRESS, or else a Ray of our own on this
            machine, which listens on 127.0.0.1 only and ends with the connection.

    Raises:
        ConfigError: ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str | None) -> None:
        self.ray = import_ray()
        self._folder: str | None = None
        self.own = False
        self._ours = not self.ray.is_initialized()
        wished = address or os.environ.get("RAY_ADDRESS")
        if not self._ours:
            self.address = str(self.ray.get_runtime_context().gcs_address)
            _check_same(self.address, address)
        elif wished in (None, "", "local"):
            self.own, self.address = True, "this machine"
            self._start()
        else:
            self.address = str(wished)
            self._join()

    def _start(self) -> None:
        """A Ray on this machine, quiet: no dashboard, no usage statistics, its files put away."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._folder = tempfile.mkdtemp(prefix="ablate-ray-")
        with _loopback(self.ray):
            self._init(
                address="local",
                num_cpus=available_cores(),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=self._folder,
            )

    def _join(self) -> None:
        host = check_address(self.address)
        with (
            _loopback(self.ray) if host in ("127.0.0.1", "localhost") else contextlib.nullcontext()
        ):
            self._init(address=self.address)

    def _init(self, **settings: Any) -> None:
        """`ray.init` that leaves our signal handler and our stdout to us."""
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self.ray.init(log_to_driver=False, configure_logging=False, **settings)
        except Exception as error:  # Ray raises many kinds; each has one reason for the user
            self.close()
            raise ConfigError(
                f"cannot join a Ray cluster at {self.address}: {first_line(error)}"
            ) from error
        finally:
            with contextlib.suppress(ValueError):  # outside the main thread, Ray sets none
                signal.signal(signal.SIGTERM, handler)
        # Even so Ray prints each worker's death on stdout; its debugger silences it like this.
        self.ray._private.worker._worker_logs_enabled = False

    def nodes(self) -> list[Node]:
        """The nodes that are alive now."""
        return [
            Node(id=node["NodeID"], name=node["NodeManagerHostname"], has=node["Resources"])
            for node in self.ray.nodes()
            if node["Alive"]
        ]

    def close(self) -> None:
        """Leave the cluster; a Ray of our own ends."""
        if self._ours:
            self.ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def import_ray() -> Any:
    """The package `ray`, quiet.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError(
            "executor 'ray' needs the package ray: pip install 'ablate-vision[ray]'"
        ) from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """Let Ray take 127.0.0.1 at its word; on Linux it puts the machine's outward address there."""
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def check_address(address: str) -> str | None:
    """The host of an address at which a Ray may listen; None for "auto".

    Ray itself would try for minutes, printing, at an address that is not Ray's.

    Raises:
        ConfigError: not HOST:PORT, nothing listens there, or something that is not Ray.
    """
    if address == "auto":
        return None
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not host or not port.isdigit():
        raise ConfigError(
            f"the address of a Ray cluster must be HOST:PORT of its head or 'auto', but got "
            f"{address!r}; ablate runs on a node of the cluster, not as a remote client"
        )
    try:
        grpc = _speaks_grpc(host, int(port))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({getattr(error, 'strerror', None) or error}): "
            "start one with `ray start --head --port=PORT`, or leave the address away for a Ray "
            "on this machine"
        ) from error
    if not grpc:
        raise ConfigError(
            f"what answers at {address} is no Ray cluster: give the address that "
            "`ray start --head` printed"
        )
    return host


def _speaks_grpc(host: str, port: int) -> bool:
    """Whether a server answers as Ray's head does: HTTP/2, or anything where Ray uses TLS."""
    with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return True
        connection.sendall(_PREFACE)
        try:
            frame = connection.recv(9)
        except TimeoutError:
            return False
    return len(frame) == 9 and frame[3] == _SETTINGS


def _check_same(current: str, address: str | None) -> None:
    if address not in (None, "auto", current):
        raise ConfigError(
            f"this process is connected to the Ray cluster at {current}, but the address is "
            f"{address!r}"
        )


def room(nodes: Sequence[Node], need: Amounts) -> int:
    """How many trials that take `need` run at once on these nodes.

    >>> room([Node(id="a", name="a", has={"CPU": 8, "GPU": 2})], {"CPU": 1, "GPU": 0.4})
    4
    """
    return sum(
        min(_times(node.has.get(name, 0.0), name, much) for name, much in need.items())
        for node in nodes
    )


def _times(has: float, name: str, much: float) -> int:
    """How often `much` fits; a part of a GPU is always of one GPU."""
    if name == "GPU" and much < 1:
        return int(has) * math.floor(1 / much + 1e-3)  # Ray counts in steps of 1e-4
    return math.floor(has / much + 1e-9)
