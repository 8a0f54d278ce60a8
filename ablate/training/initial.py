"""Starting from trained weights: a file, or the checkpoint of another trial."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import torch
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
    if _KEY.fullmatch(train.init_from):
        return load_into(network, _state_of_trial(train.init_from, runs))
    found = _digest(train.init_from)
    if train.init_fingerprint not in (None, found):
        raise WeightsError(
            f"init_from={train.init_from!r} changed: its SHA-256 is {found}, "
            f"but the trial was made with {train.init_fingerprint}"
        )
    return load_into(network, _state_of_file(Path(train.init_from).expanduser()))


def load_into(network: nn.Module, weights: Path | dict[str, Tensor]) -> Any:
    """Load weights into a network of the grammar (any known layout) or a comparison row (its own).

    Returns:
        The report of `ablate.models.load_weights`; for a comparison row, torch's.
    """
    from ablate.models import Network, load_weights

    if isinstance(network, Network):
        return load_weights(network, weights)
    state = torch.load(weights, weights_only=True) if isinstance(weights, Path) else weights
    try:
        return network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit {type(network).__name__}: {error}") from error


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


def _state_of_file(path: Path) -> Path | dict[str, Tensor]:
    """The network's weights in a checkpoint of ours; any other file is left to its reader."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError):
        return path
    if not isinstance(content, dict) or "callbacks" not in content:
        return path
    return network_state(content)


def _digest(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_file():
        raise WeightsError(f"init_from={name!r}: there is no such file, and it is no trial's key")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
