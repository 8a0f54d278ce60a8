"""Files of a dataset on disk: listing them, and a fingerprint of their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ablate.data.cache import JsonFacts, remembered
from ablate.errors import DataError, nearest

WHOLE_BYTES = 2**30
SAMPLED_FILES = 4096
SAMPLED_BYTES = 2**16


class FileFact(NamedTuple):
    """One file: path below the root with "/", size in bytes, time of its last change in ns."""

    path: str
    size: int
    modified: int


def existing_folder(given: str | None, needs: str) -> Path:
    """The folder `data.root`.

    Args:
        given: the value of `data.root`.
        needs: what is looked for, for messages.

    Raises:
        DataError: not set, or not there; names the nearest folder that is.
    """
    if given is None:
        raise DataError(f"data.root is not set; it is the folder that holds {needs}")
    root = Path(given).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(f"data.root={given} is a file, not a folder that holds {needs}")
    parent = root.absolute()
    while not parent.is_dir():
        missing, parent = parent.name, parent.parent
    siblings = _folders(parent)
    guess = nearest(missing, siblings)
    hint = f" (did you mean {parent / guess}?)" if guess else ""
    raise DataError(
        f"data.root={given} does not exist{hint}; {parent} holds {_listed(siblings)}; "
        f"looked for {needs}"
    )


def not_found(root: Path, looked_for: Sequence[str], at: str = "data.root") -> DataError:
    """The error for a folder that holds none of `looked_for`; lists what it holds instead."""
    names = _folders(root)
    wanted = [name.split("/")[0] for name in looked_for]
    inside = [name for name in names if any((root / name / part).exists() for part in wanted)]
    hint = f" (did you mean {root / inside[0]}?)" if inside else ""
    if not inside and any((root.parent / part).exists() for part in wanted):
        hint = f" (did you mean {root.parent}?)"
    return DataError(
        f"{at}={root} holds none of {', '.join(looked_for)}{hint}; it holds {_listed(names)}"
    )


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _listed(names: Sequence[str], most: int = 8) -> str:
    if not names:
        return "no folders"
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return "the folders " + ", ".join(names[:most]) + more


def list_files(folder: Path, suffixes: Iterable[str], prefix: str = "") -> list[FileFact]:
    """All files below `folder` with one of `suffixes`, sorted by path; hidden ones are left out.

    Args:
        folder: searched with its sub-folders; links are followed.
        suffixes: in lower case, with the dot.
        prefix: path of `folder` below the root, with a "/" at the end.

    Raises:
        DataError: a folder cannot be read, or a link leads nowhere.
    """
    endings = tuple(suffixes)
    try:
        return sorted(_walk(str(folder), prefix, endings))
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _walk(folder: str, prefix: str, endings: tuple[str, ...]) -> Iterator[FileFact]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(endings) and not entry.is_dir():
                facts = entry.stat()
                yield FileFact(prefix + entry.name, facts.st_size, facts.st_mtime_ns)
            elif entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", endings)


def remembered_facts(
    cache: Path, root: Path, files: Sequence[FileFact], compute: Callable[[], JsonFacts]
) -> JsonFacts:
    """Facts about the content of `files`, found again where a name, size or time has changed."""
    signature = hashlib.sha256()
    for fact in files:
        signature.update(f"{fact.path}\0{fact.size}\0{fact.modified}\n".encode(errors="replace"))
    subject = f"{root.resolve()}:{files[0].path if files else ''}"
    return remembered(cache, subject, signature.hexdigest(), compute)


def content_fingerprint(root: Path, files: Sequence[FileFact]) -> str:
    """SHA-256 of the relative paths and the bytes of `files`: the same on every machine.

    Beyond 1 GiB in all, reading everything would take longer than it protects: then every path
    and size is hashed, and of 4,096 files (chosen by the hash of their path) the first and the
    last 64 KiB.

    Raises:
        DataError: a file cannot be read.
    """
    whole = sum(fact.size for fact in files) <= WHOLE_BYTES
    read = {fact.path for fact in files} if whole else _sampled(files)
    digest = hashlib.sha256()
    for fact in files:
        digest.update(f"{fact.path}\0{fact.size}\0".encode(errors="surrogateescape"))
        if fact.path in read:
            digest.update(_bytes(root / fact.path, whole))
    return digest.hexdigest()


def _sampled(files: Sequence[FileFact]) -> set[str]:
    def place(path: str) -> bytes:
        return hashlib.sha256(path.encode(errors="surrogateescape")).digest()

    return set(sorted((fact.path for fact in files), key=place)[:SAMPLED_FILES])


def _bytes(path: Path, whole: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if whole:
                return file.read()
            start = file.read(SAMPLED_BYTES)
            file.seek(max(file.tell(), path.stat().st_size - SAMPLED_BYTES))
            return start + file.read()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
