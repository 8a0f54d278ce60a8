"""Files on a disk that other hosts write too: what a network file system may answer."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ablate.files import read_json, sync_folder, write_json


def stale(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first reads fail as they do when another host renamed over the open file."""
    read, left = Path.read_bytes, [None] * times

    def read_bytes(self: Path) -> bytes:
        if left:
            left.pop()
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_a_file_that_was_replaced_while_it_was_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "a.json", {"epoch": 3})
    stale(2, monkeypatch)
    assert read_json(tmp_path / "a.json") == {"epoch": 3}


def test_a_file_that_stays_stale_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {})
    stale(9, monkeypatch)
    with pytest.raises(OSError, match="Stale file handle"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_flushed_is_no_error_and_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if passes:
        sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            sync_folder(tmp_path)
