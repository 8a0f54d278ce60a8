"""Where a trial computes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch

from ablate.config import TrainConfig
from ablate.errors import ConfigError

_CHOICES = "auto, cpu, cuda, cuda:N, mps"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Lightning's words for a device.

    Args:
        accelerator: "cpu", "gpu" or "mps".
        devices: how many, or the indices of the GPUs.
        launches: this process has to start the processes of the trial.
    """

    accelerator: str
    devices: int | list[int]
    launches: bool = False

    @property
    def name(self) -> str:
        """The device class that a row carries: "cpu", "mps", or the GPU's name."""
        if self.accelerator != "gpu":
            return self.accelerator
        return torch.cuda.get_device_name(self._index)

    def reset_peak_memory(self) -> None:
        """Start measuring the peak anew."""
        if self.accelerator == "gpu":
            torch.cuda.reset_peak_memory_stats(self._index)

    @property
    def peak_memory_mb(self) -> float | None:
        """Most memory that tensors took on the GPU since the reset, in MiB; None elsewhere."""
        if self.accelerator != "gpu":
            return None
        return torch.cuda.max_memory_allocated(self._index) / 2**20

    @property
    def _index(self) -> int:
        return self.devices[0] if isinstance(self.devices, list) else 0


def choose(device: str, train: TrainConfig) -> Place:
    """The place for a trial.

    Raises:
        ConfigError: a device that is unknown or not there, or that cannot do what the recipe asks.
    """
    kind, index = _kind(device)
    if train.precision == "fp16" and kind == "cpu":
        raise ConfigError("precision='fp16' needs a GPU; on the CPU choose fp32 or bf16")
    if train.strategy == "fsdp" and kind != "gpu":
        raise ConfigError("strategy='fsdp' needs CUDA GPUs; on the CPU choose auto or ddp")
    if train.strategy == "fsdp" and train.ema_decay:
        raise ConfigError("strategy='fsdp' shards the weights: set ema_decay=0")
    if kind == "gpu" and train.devices > torch.cuda.device_count():
        raise ConfigError(
            f"devices={train.devices}, but this machine has {torch.cuda.device_count()} GPUs"
        )
    if train.devices > 1:
        launched = "LOCAL_RANK" in os.environ
        return Place(accelerator=kind, devices=train.devices, launches=not launched)
    return Place(accelerator=kind, devices=[index] if kind == "gpu" else 1)


def _kind(device: str) -> tuple[str, int]:
    match = re.fullmatch(r"(auto|cpu|mps|cuda)(?::(\d+))?", device)
    if match is None or (match[2] and match[1] != "cuda"):
        raise ConfigError(f"unknown device {device!r}; choose from {_CHOICES}")
    kind, index = match[1], int(match[2] or 0)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else _without_cuda()
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r} is not there: this machine has {torch.cuda.device_count()} GPUs"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not there: it needs a Mac with an Apple GPU")
    return ("gpu" if kind == "cuda" else kind), index


def _without_cuda() -> str:
    return "mps" if torch.backends.mps.is_available() else "cpu"
