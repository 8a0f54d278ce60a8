"""Two checkpoints with checksums: what is damaged is never loaded, what is whole never lost."""

import hashlib
import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ablate.training.checkpoint import (
    SLOTS,
    ChecksummedIO,
    matches_checksum,
    newest,
    next_slot,
    sidecar,
)


def save(folder, slot, epochs):
    """A checkpoint as after `epochs` finished epochs (Lightning counts from 0)."""
    content = {"epoch": epochs - 1, "state_dict": {"weight": torch.full((50,), float(epochs))}}
    ChecksummedIO().save_checkpoint(content, folder / SLOTS[slot])


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert newest(tmp_path) is None


def test_the_checkpoint_with_more_epochs_is_the_newest_in_either_slot(tmp_path):
    save(tmp_path, 0, 3)
    save(tmp_path, 1, 4)
    assert newest(tmp_path).epoch == 4
    save(tmp_path, 0, 5)
    saved = newest(tmp_path)
    assert (saved.epoch, saved.path.name) == (5, SLOTS[0])
    assert torch.equal(saved.content["state_dict"]["weight"], torch.full((50,), 5.0))


def test_the_next_goes_where_the_newest_is_not():
    assert next_slot(None) == SLOTS[0]
    assert [next_slot(Path("runs") / slot) for slot in SLOTS] == [SLOTS[1], SLOTS[0]]


@pytest.mark.parametrize("place", [0, 1 / 3, 1])
def test_one_flipped_bit_falls_back_to_the_one_before(tmp_path, place, caplog):
    save(tmp_path, 0, 3)
    save(tmp_path, 1, 4)
    path = tmp_path / SLOTS[1]
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path).epoch == 3
    assert "checkpoint-b.pt does not match its checksum: it is not used" in caplog.text


@pytest.mark.parametrize("keep", [0, 100])
def test_a_torn_file_falls_back_to_the_one_before(tmp_path, keep):
    save(tmp_path, 0, 3)
    save(tmp_path, 1, 4)
    os.truncate(tmp_path / SLOTS[1], keep)
    assert newest(tmp_path).epoch == 3


@pytest.mark.parametrize("checksum", [b"", b"\xff\xfe", b"0" * 64])
def test_a_damaged_checksum_falls_back_to_the_one_before(tmp_path, checksum):
    save(tmp_path, 0, 3)
    save(tmp_path, 1, 4)
    sidecar(tmp_path / SLOTS[1]).write_bytes(checksum)
    assert newest(tmp_path).epoch == 3


def test_a_missing_checksum_counts_as_damaged(tmp_path):
    save(tmp_path, 0, 3)
    sidecar(tmp_path / SLOTS[0]).unlink()
    assert newest(tmp_path) is None


def test_a_whole_file_that_is_no_checkpoint_is_named_and_not_used(tmp_path, caplog):
    save(tmp_path, 0, 3)
    path = tmp_path / SLOTS[0]
    path.write_bytes(b"not a checkpoint")
    digest = hashlib.sha256(b"not a checkpoint").hexdigest()
    sidecar(path).write_text(f"{digest}  {path.name}\n")
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path) is None
    assert "checkpoint-a.pt cannot be read" in caplog.text


def test_loading_runs_no_code_from_the_file(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made-by-the-pickle"),)

    ChecksummedIO().save_checkpoint({"epoch": 0, "code": Code()}, tmp_path / SLOTS[0])
    assert matches_checksum(tmp_path / SLOTS[0])
    assert newest(tmp_path) is None
    assert not (tmp_path / "made-by-the-pickle").exists()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the program sha256sum")
def test_the_checksum_is_the_one_of_sha256sum(tmp_path):
    save(tmp_path, 0, 3)
    subprocess.run(["sha256sum", "-c", f"{SLOTS[0]}.sha256"], cwd=tmp_path, check=True)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    save(tmp_path, 0, 3)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path, 0, 4)
    monkeypatch.undo()
    assert newest(tmp_path).epoch == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [SLOTS[0], f"{SLOTS[0]}.sha256"]
