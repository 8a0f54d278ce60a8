"""All randomness of an epoch derives from (seed, epoch), so that a resumed run repeats it."""

from __future__ import annotations

import random

import numpy as np
import torch

INITIAL = 2**31 - 1
"""Stands in the place of the epoch for what happens before the first: the initial weights."""


def reseed(seed: int, epoch: int, process: int = 0) -> None:
    """Seed torch (all devices), numpy's global generator and `random`.

    Args:
        seed: of the trial.
        epoch: from 0, or `INITIAL`.
        process: rank, so that processes drop different paths.
    """
    torch_word, numpy_word, python_word = np.random.SeedSequence(
        [seed, epoch, process]
    ).generate_state(3, np.uint32)
    torch.manual_seed(int(torch_word))
    np.random.seed(numpy_word)  # noqa: NPY002  (the global generator is what third parties use)
    random.seed(int(python_word))
