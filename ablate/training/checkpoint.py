"""Two alternating checkpoints with checksums: a torn or damaged one falls back to the other."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO

from ablate.files import write_atomic

log = logging.getLogger(__name__)

SLOTS = ("checkpoint-a.pt", "checkpoint-b.pt")


def sidecar(path: Path) -> Path:
    """The file beside a checkpoint that holds its SHA-256, as `sha256sum -c` reads it."""
    return path.with_name(f"{path.name}.sha256")


class ChecksummedIO(CheckpointIO):
    """Writes and reads Lightning's checkpoints with a checksum beside each.

    The checkpoint is renamed into place before its checksum: killed between the two, it does not
    match and counts as damaged, while the other slot is untouched. Loading executes no code
    (`weights_only`).
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        target = Path(path)
        write_atomic(target, content, one_writer=True)
        digest = hashlib.sha256(content).hexdigest()
        write_atomic(sidecar(target), f"{digest}  {target.name}\n", one_writer=True)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        sidecar(Path(path)).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that is whole: where it lies and what it holds."""

    path: Path
    content: dict[str, Any]

    @property
    def epoch(self) -> int:
        """Epochs that were finished when it was written."""
        return int(self.content["epoch"]) + 1


def newest(folder: Path) -> Saved | None:
    """The whole checkpoint with the most epochs, or None; damaged ones are named in the log."""
    return max(_whole(folder), key=lambda saved: saved.epoch, default=None)


def next_slot(current: Path | None) -> str:
    """The slot that does not hold the checkpoint to keep."""
    return SLOTS[1] if current is not None and current.name == SLOTS[0] else SLOTS[0]


def _whole(folder: Path) -> Iterator[Saved]:
    for slot in SLOTS:
        path = folder / slot
        if not path.exists():
            continue
        if not matches_checksum(path):
            log.warning("%s does not match its checksum: it is not used", slot)
            continue
        try:
            # Mapped: what is not asked for is never read into memory.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            log.warning("%s cannot be read (%s): it is not used", slot, error)
            continue
        yield Saved(path=path, content=content)


def matches_checksum(path: Path) -> bool:
    """Whether a checkpoint's bytes are those that its checksum was computed of."""
    try:
        expected = sidecar(path).read_text().split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == expected
