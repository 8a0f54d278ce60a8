"""The kinds in which a trial can fail, kept apart, and the one line that each is told in."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from ablate.errors import AblateError

Kind = Literal["diverged", "out_of_memory", "timeout", "killed", "invalid", "error"]
KINDS: tuple[str, ...] = get_args(Kind)

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Failure(BaseModel):
    """Why a trial has no result: the content of `failure.json`.

    Args:
        kind: one of `KINDS`.
        message: one line, for tables.
        step, layer: of a divergence, the first optimizer step and layer that were not finite.
        attempts: how many times a worker tried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    message: str
    step: int | None = None
    layer: str | None = None
    attempts: int = 1
    host: str | None = None


def classify(error: BaseException, folder: Path) -> Failure:
    """The failure that an exception of a trial stands for.

    Args:
        folder: the run folder, to tell whether its disk is full.
    """
    from ablate.training.outcomes import Diverged, TimedOut  # torch: not for reading ledgers

    details: dict[str, Any] = {"host": socket.gethostname()}
    if isinstance(error, Diverged):
        details |= {"step": error.step, "layer": error.layer}
        return Failure(kind="diverged", message=first_line(error), **details)
    if isinstance(error, TimedOut):
        return Failure(kind="timeout", message=first_line(error), **details)
    if is_out_of_memory(error):
        return Failure(kind="out_of_memory", message=first_line(error), **details)
    if isinstance(error, AblateError):
        return Failure(kind="invalid", message=first_line(error), **details)
    if is_disk_full(error, folder):
        return Failure(kind="error", message=f"disk full: {first_line(error)}", **details)
    return Failure(kind="error", message=f"{type(error).__name__}: {first_line(error)}", **details)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had too little memory for the trial."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error).lower() for sign in _OUT_OF_MEMORY
    )


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether a write failed for want of space; torch reports it without an errno."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
            return True
        if isinstance(cause, RuntimeError) and "PytorchStreamWriter" in str(cause):
            return shutil.disk_usage(folder).free < 2**20
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
