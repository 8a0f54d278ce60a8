"""Reading weights: from a file or a mapping to a plain state dict, without running any code."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ablate.errors import WeightsError

_WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which checkpoints keep the network beside optimiser and epoch."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
"""What DataParallel, torch.compile and Lightning modules put in front of every key."""


def read_state(source: str | Path | Mapping[str, object]) -> tuple[dict[str, Tensor], str]:
    """The state dict in a source, without wrappers and prefixes, and a name for messages.

    Args:
        source: a `.safetensors` file, a pickle written by `torch.save`, or a mapping.

    Raises:
        WeightsError: no such file, not readable, or without tensors.
    """
    if isinstance(source, Mapping):
        where, content = "the given state dict", source
    else:
        where = str(source)
        content = _read_file(Path(source))
    state = _tensors(content)
    if not state:
        raise WeightsError(f"{where} holds no tensors by name: it is no state dict")
    return _without_prefix(state), where


def _read_file(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, not a state dict (keys and tensors)"
        )
    return content


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"{path} needs safetensors, which is not installed: "
            "pip install 'ablate-vision[weights]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is no safetensors file: {error}") from error


def _read_pickle(path: Path) -> object:
    try:
        # the authors' training scripts store their argparse.Namespace beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file can raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise WeightsError(
            f"{path} cannot be read as tensors alone (pickles that run code are refused): {reason}"
        ) from error


def _tensors(content: Mapping[str, object]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            return _tensors(inner)
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _without_prefix(
                {name.removeprefix(prefix): value for name, value in state.items()}
            )
    return state
