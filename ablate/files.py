"""Writing files so that a reader sees the old content or the new, never a torn one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_atomic(
    path: Path, content: str | bytes, *, durable: bool = True, one_writer: bool = False
) -> None:
    """Replace `path` by `content` in one step; on an error the old file stays as it was.

    Args:
        durable: also wait until the disk holds the file and its name (fsync).
        one_writer: nobody else writes `path` at the same time, so that the temporary file has
            a fixed name and what a killed process left is overwritten by the next one.
    """
    part = "" if one_writer else f".{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.name}{part}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk holds the names in `folder`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems without it
            raise
    finally:
        os.close(handle)


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """As `write_atomic`, as indented JSON with keys in the order given."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, text, durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where there is no file.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        content = json.loads(_read(path))
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _read(path: Path) -> bytes:
    """The content of a file that another host may replace meanwhile.

    NFS forgets the old file at once, and a reader that has it open gets ESTALE: the new one is
    there then.
    """
    for attempt in range(3):
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno != errno.ESTALE or attempt == 2:
                raise
    raise AssertionError("the last attempt returns or raises")


def set_aside(path: Path, why: str) -> Path:
    """Rename `path` to the first free `NAME.WHY-N` beside it; nothing is ever deleted."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    os.rename(path, aside)
    return aside
