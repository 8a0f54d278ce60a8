"""Ray clusters of several nodes on this machine, all on 127.0.0.1."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed: pip install 'ablate-vision[ray]', or `make test-ray`",
)

NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
"""What every node is started with, beside what it offers."""


@contextmanager
def cluster(*nodes: Mapping[str, Any]) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster`: the first node is the head, `.others` lists the others.

    Args:
        nodes: what each offers, such as {"num_cpus": 1, "num_gpus": 2}.
    """
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    made = Cluster(
        initialize_head=True,
        head_node_args={**NODE, **nodes[0], "temp_dir": folder, "include_dashboard": False},
    )
    try:
        made.others = [add_node(made, **node) for node in nodes[1:]]
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def add_node(nodes: Any, **offers: Any) -> Any:
    """Another node of a cluster."""
    return nodes.add_node(**NODE, **offers)


def lose_node(nodes: Any) -> None:
    """Kill the first of the nodes that are not the head."""
    nodes.remove_node(nodes.others[0], allow_graceful=False)


def raylet_pid(node: Any) -> int:
    """The process of a node that starts its workers."""
    (raylet,) = node.all_processes["raylet"]
    return int(raylet.process.pid)
