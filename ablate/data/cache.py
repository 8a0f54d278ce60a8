"""The cache folder: facts remembered about files, and files that are built once.

Several trials, on several processes, start at once and want the same thing. A lock file lets one
of them build it; the others wait and find it. What is built appears by an atomic rename, so a
builder that is killed leaves nothing that could be taken for a finished file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from ablate.config import DataConfig
from ablate.errors import DataError

JsonFacts = dict[str, Any]


def cache_folder(config: DataConfig) -> Path:
    """`data.cache`, else $ABLATE_CACHE, else $XDG_CACHE_HOME/ablate, else ~/.cache/ablate.

    Raises:
        DataError: the folder cannot be made or written.
    """
    given = config.cache or os.environ.get("ABLATE_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given).expanduser() if given else user / "ablate"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(folder, "permission denied")
    return folder


def _unwritable(folder: Path, reason: object) -> DataError:
    return DataError(
        f"cannot write the cache folder {folder}: {reason}; "
        f"set data.cache or the environment variable ABLATE_CACHE to a folder that can be written"
    )


def built_once(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    """The file at `path`, written by `write` where it is not there yet.

    Args:
        path: the finished file; `path` + ".lock" and ".partial" are used beside it.
        write: writes the whole content to the open file that it is given.

    Raises:
        DataError: the file cannot be written (a full disk, say); nothing is left behind.
    """
    if path.exists():
        return path
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if path.exists():  # built while we waited
                return path
            try:
                with partial.open("wb") as file:
                    write(file)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error
    return path


def remembered(
    folder: Path, subject: str, signature: str, compute: Callable[[], JsonFacts]
) -> JsonFacts:
    """Facts about `subject`, computed again only where `signature` has changed.

    Args:
        folder: the cache folder.
        subject: what the facts are about, for example a path.
        signature: changes whenever the facts could.
        compute: finds the facts; they must be JSON.
    """
    path = folder / "facts" / f"{hashlib.sha256(subject.encode()).hexdigest()[:32]}.json"
    try:
        stored = json.loads(path.read_text())
        if stored["signature"] == signature:
            return dict(stored["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or damaged: the facts are found again
    facts = compute()
    text = json.dumps({"subject": subject, "signature": signature, "facts": facts})
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # each writer its own
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error
    return facts
