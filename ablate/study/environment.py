"""What a trial was trained with: code, versions, device, data; and what of it has changed since."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ablate

ROOMS: Mapping[str, tuple[str, ...]] = {
    "arch": ("grammar", "kinds.py", "options.py"),
    "models": ("models",),
    "data": ("data",),
    "training": ("training",),
}
"""The parts of our own code that the numbers of a trial depend on."""

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "timm")


def environment(
    plugins: Sequence[str] = (), *, fingerprint: str | None = None, **execution: Any
) -> dict[str, Any]:
    """The content of `environment.json`.

    `diff` names a file in `runs/.diffs` that many trials share.

    Args:
        plugins: modules of the user that the study registers blocks or data from.
        fingerprint: of the dataset's images.
        execution: how this trial runs: device, threads, accumulate.
    """
    return {
        "ablate": ablate.__version__,
        **_repository(),
        "code": code(tuple(plugins)),
        "versions": versions(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
        "fingerprint": fingerprint,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **execution,
    }


@functools.cache
def code(plugins: tuple[str, ...] = ()) -> dict[str, str]:
    """A digest of each part of the code that numbers depend on; comments do not count."""
    root = Path(ablate.__file__).parent
    rooms = {room: [root / name for name in names] for room, names in ROOMS.items()}
    for plugin in plugins:
        spec = None if plugin.endswith(".py") else importlib.util.find_spec(plugin)
        path = Path(spec.origin) if spec is not None and spec.origin else Path(plugin)
        rooms[f"plugin {path.stem}"] = [path]
    return {room: _digest(paths) for room, paths in rooms.items()}


def code_digest(rooms: Mapping[str, str]) -> str:
    """One short digest of all parts, for a row."""
    text = ",".join(f"{room}={digest}" for room, digest in sorted(rooms.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            total.update(file.name.encode())
            for line in file.read_text(encoding="utf-8").splitlines():
                statement = line.rstrip()
                if statement and not statement.lstrip().startswith("#"):
                    total.update(statement.encode() + b"\n")
    return total.hexdigest()[:12]


@functools.cache
def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on, without importing them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _repository() -> dict[str, Any]:
    """Commit and uncommitted changes of our own code; None where it is no git checkout."""
    root = Path(ablate.__file__).parent
    if _git(root, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None, "diff": None}
    diff = uncommitted()
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": bool(diff),
        "diff": f"{hashlib.sha256(diff.encode()).hexdigest()[:16]}.diff" if diff else None,
    }


@functools.cache
def uncommitted() -> str:
    """What our own code differs in from its commit, as git tells it; "" where in nothing."""
    root = Path(ablate.__file__).parent
    return _git(root, "diff", "HEAD", "--", ".") or ""


def commit() -> str | None:
    """The commit of our own code, with `+` behind it where files differ from it."""
    found = _repository()
    return f"{found['commit']}{'+' * found['dirty']}" if found["commit"] else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, errors="replace", timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def available_cores() -> int:
    """CPU cores this process may use: its affinity and its container's quota."""
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two environments that numbers depend on, in words.

    >>> changes({"code": {"models": "a"}}, {"code": {"models": "b"}})
    ['code: models']
    """
    old, new = then.get("code") or {}, now.get("code") or {}
    rooms = [room for room in new if old and old.get(room) != new[room]]
    found = [f"code: {', '.join(rooms)}"] if rooms else []
    before, after = then.get("fingerprint"), now.get("fingerprint")
    if before and after and before != after:
        found.append(f"data: fingerprint {before[:12]} is now {after[:12]}")
    return found
