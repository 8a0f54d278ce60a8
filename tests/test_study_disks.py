"""No SQLite on a shared disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.errors import ConfigError
from ablate.study import disks
from ablate.study.disks import network_file_system, refuse_shared_sqlite

MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/local rw - xfs /dev/sdb1 rw
32 21 0:42 / /big\\040data rw - lustre mds:/big rw
33 21 0:43 / /data rw - fuse.sshfs host: rw
34 21 0:44 / /homework rw - tmpfs tmpfs rw
"""


@pytest.fixture(autouse=True)
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(disks, "_MOUNTS", tmp_path / "mountinfo")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/runs", "nfs4"),
        ("/home/me/local/runs", None),
        ("/big data/runs", "lustre"),
        ("/data", "fuse.sshfs"),
        ("/homework/runs", None),
        ("/tmp/runs", None),
    ],
)
def test_the_innermost_mount_tells_the_file_system(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path)) == kind


def test_without_a_list_of_mounts_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_MOUNTS", Path("/nowhere"))
    assert network_file_system(Path("/home/me")) is None


def test_an_sqlite_file_on_a_shared_disk_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(ConfigError, match=r"shared disk \(nfs4\).*sqlite:////tmp/a.db, or a data"):
        refuse_shared_sqlite("sqlite:////home/me/runs/search/a.db")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////tmp/a.db",
        "sqlite:///:memory:",
        "sqlite://",
        "postgresql://home/me",
        "sqlite:///",
    ],
)
def test_other_storages_pass(url: str) -> None:
    refuse_shared_sqlite(url)
