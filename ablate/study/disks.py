"""Which file system a path lies on, and what must not lie on a shared one."""

from __future__ import annotations

from pathlib import Path

from ablate.errors import ConfigError

NETWORK = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p",
        "panfs", "orangefs", "wekafs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph",
    }
)  # fmt: skip
"""File systems that other hosts may write to, by the kernel's names."""

_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path) -> str | None:
    """The kind of network file system that `path` lies on; None: a local one, or not known.

    Args:
        path: need not exist yet.
    """
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:
        return None
    path = path.absolute().resolve()
    best, kind = Path("/"), ""
    for line in lines:  # id, parent, device, root, mount point, options..., "-", type, ...
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, after.split()[0]
    return kind if kind in NETWORK else None


def refuse_shared_sqlite(url: str) -> None:
    """Refuse an SQLite file on a shared disk, whose locks may fail and destroy it.

    Args:
        url: of an Optuna storage.

    Raises:
        ConfigError: names the file, the file system, and what to use instead.
    """
    kind, _, name = url.partition(":///")
    if kind.partition("+")[0] != "sqlite" or not name or name == ":memory:":
        return
    if found := network_file_system(Path(name)):
        raise ConfigError(
            f"storage {url!r} is an SQLite file on a shared disk ({found}), whose locks may fail "
            "and destroy it: name a file on this host's own disk, such as "
            f"sqlite:////tmp/{Path(name).name}, or a database server, postgresql://HOST/NAME"
        )
