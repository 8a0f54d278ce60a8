"""The recipe as torch objects: parameter groups, optimizer, learning rate per step."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ablate.config import TrainConfig
from ablate.errors import ConfigError

_TABLES = (
    "bias_table",
    "class_token",
    "cls_token",
    "pos_embed",
    "position.table",
    "rel_pos",
    "relative_position",
)
"""In the last two parts of the names of class tokens, position and relative-bias tables."""


def peak_lr(train: TrainConfig) -> float:
    """The highest learning rate: `lr`, scaled linearly by the batch where a base is given."""
    if train.lr_base_batch is None:
        return train.lr
    return train.lr * train.batch_size / train.lr_base_batch


def decayed(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Every trainable parameter: its name, itself, and whether weight decay acts on it.

    No decay on: norms, biases and everything else with one dimension, class tokens, absolute
    position tables, relative-bias tables, and what the network's own `no_weight_decay()` names
    (timm's convention). Shared parameters come once.
    """
    named: set[str] = getattr(network, "no_weight_decay", set)()
    seen: set[int] = set()
    for path, module in network.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            exempt = (
                isinstance(module, nn.LayerNorm)
                or parameter.ndim <= 1
                or leaf.endswith("bias")
                or name in named
                or any(table in ".".join(name.split(".")[-2:]) for table in _TABLES)
            )
            yield name, parameter, not exempt


def build_optimizer(network: nn.Module, train: TrainConfig, *, fused: bool = True) -> Optimizer:
    """AdamW or SGD with Nesterov momentum, in two groups: with and without weight decay.

    Args:
        fused: one call for all parameters: a for-loop over the many small tensors of a micro
            network costs a tenth of its step. Not for scaled gradients (fp16) that are clipped,
            since a fused step unscales them after that.
    """
    parameters = list(decayed(network))
    groups = [
        {"params": [p for _, p, decay in parameters if decay], "weight_decay": train.weight_decay},
        {"params": [p for _, p, decay in parameters if not decay], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if train.optimizer == "adamw":
        return AdamW(groups, lr=peak_lr(train), betas=train.betas, eps=train.eps, fused=fused)
    nesterov = train.momentum > 0
    return SGD(groups, lr=peak_lr(train), momentum=train.momentum, nesterov=nesterov, fused=fused)


def warmup_length(train: TrainConfig, steps_per_epoch: float) -> int:
    """Steps of linear warm-up: `warmup_epochs` in steps, plus `warmup_steps`.

    Raises:
        ConfigError: `warmup_epochs` where the length of an epoch is not known (infinite).
    """
    if train.warmup_epochs == 0:
        return train.warmup_steps
    if math.isinf(steps_per_epoch):
        raise ConfigError(
            f"warmup_epochs={train.warmup_epochs} needs a loader of known length; "
            "set warmup_steps instead"
        )
    return round(train.warmup_epochs * steps_per_epoch) + train.warmup_steps


def lr_factor(train: TrainConfig, step: int, total: float, warmup: int) -> float:
    """The learning rate of a step, as a share of the peak.

    Args:
        step: steps taken before this one, from 0.
        total: steps of the whole run; from there on the rate is `min_lr`.
        warmup: steps that rise linearly; the first takes `warmup_lr`, or without it 1 / warmup of
            the peak, not zero.
    """
    if step < warmup:
        if train.warmup_lr is None:
            return (step + 1) / warmup
        start = train.warmup_lr / peak_lr(train)
        return start + (1 - start) * step / warmup
    if train.schedule == "constant":
        return 1.0
    floor = min(1.0, train.min_lr / peak_lr(train))
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    left = 1 - progress if train.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return floor + (1 - floor) * left


def build_schedule(
    optimizer: Optimizer, train: TrainConfig, total: float, steps_per_epoch: float
) -> LambdaLR:
    """The schedule as Lightning steps it: once after every optimizer step."""
    warmup = warmup_length(train, steps_per_epoch)
    return LambdaLR(optimizer, lambda step: lr_factor(train, step, total, warmup))
