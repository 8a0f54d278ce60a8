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


@contextmanager
def cluster(*nodes: Mapping[str, Any]) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster`: the first node is the head, `.others` lists the others.

    Args:
        nodes: what each offers, such as {"num_cpus": 1, "num_gpus": 2}.
    """
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    own = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    made = Cluster(
        initialize_head=True,
        head_node_args={**own, **nodes[0], "temp_dir": folder, "include_dashboard": False},
    )
    try:
        made.others = [made.add_node(**own, **node) for node in nodes[1:]]
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def raylet_pid(node: Any) -> int:
    """The process of a node that starts its workers."""
    (raylet,) = node.all_processes["raylet"]
    return int(raylet.process.pid)
