"""Starting from trained weights: a file, or the checkpoint of another trial."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ablate.config import TrainConfig
from ablate.errors import WeightsError
from ablate.training.checkpoint import newest

_KEY = re.compile(r"[0-9a-f]{64}")


def resolve_init(train: TrainConfig, runs: Path) -> TrainConfig:
    """The recipe with `init_fingerprint` filled in, so that the key tells the weights.

    A trial's key says by itself what its weights are; a file is hashed.

    Args:
        runs: the folder of all runs, where a trial's key is looked up.

    Raises:
        WeightsError: there is no such file, or no finished epoch of such a trial.
    """
    if train.init_from is None:
        return train
    if _KEY.fullmatch(train.init_from):
        _state_of_trial(train.init_from, runs)
        return train
    return train.model_copy(update={"init_fingerprint": _digest(train.init_from)})


def load_initial(network: nn.Module, train: TrainConfig, runs: Path) -> Any:
    """Load `init_from` into the network; position and relative-bias tables are resized.

    Returns:
        The report of `ablate.models.load_weights`, or None where the recipe names no weights.

    Raises:
        WeightsError: there is no such file, its checksum is not the trial's, or it does not fit.
    """
    if train.init_from is None:
        return None
    from ablate.models import load_weights

    if _KEY.fullmatch(train.init_from):
        return load_weights(network, _state_of_trial(train.init_from, runs))
    found = _digest(train.init_from)
    if train.init_fingerprint not in (None, found):
        raise WeightsError(
            f"init_from={train.init_from!r} changed: its SHA-256 is {found}, "
            f"but the trial was made with {train.init_fingerprint}"
        )
    return load_weights(network, train.init_from)


def network_state(content: dict[str, Any]) -> dict[str, Tensor]:
    """The network's weights in a checkpoint of `ImageClassifier`: the averaged ones, if any."""
    prefix = "network."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(prefix)
    }


def _state_of_trial(key: str, runs: Path) -> dict[str, Tensor]:
    saved = newest(runs / key)
    if saved is None:
        raise WeightsError(f"init_from={key!r}: no whole checkpoint in {runs / key}")
    return network_state(saved.content)


def _digest(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_file():
        raise WeightsError(f"init_from={name!r}: there is no such file, and it is no trial's key")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
