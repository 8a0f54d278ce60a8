"""What building a network on the meta device tells, without allocating its weights."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.config import TrainConfig
from ablate.cost import Cost, profile
from ablate.cost.memory import STATES
from ablate.cost.meta import ShapeCache
from ablate.models import create_model
from ablate.study.plugins import import_plugins
from ablate.training.recipe import decayed

Network = tuple[str, int, int]
"""Arch, image size, number of classes."""

_MANY = 40
"""Networks from which on starting processes pays."""
_BYTES = 4
_AUTOCAST = 0.55
"""Share of fp32 activations under autocast: halves, but some norms and softmax stay in fp32."""
_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class Built:
    """Facts of a network at an image size and number of classes.

    Args:
        cost: params and MACs.
        shapes: parameter -> shape.
        initial: parameter -> how its first values are drawn, as text.
        decays: trainable parameter -> whether weight decay acts on it.
        activation_bytes: kept for the backward pass of one image, in fp32.
    """

    cost: Cost
    shapes: Mapping[str, tuple[int, ...]]
    initial: Mapping[str, str]
    decays: Mapping[str, bool]
    activation_bytes: int

    def training_bytes(self, train: TrainConfig) -> int:
        """Estimated memory of a training step on one device: weights, gradients, optimizer,
        averaged weights, activations of a micro-batch. One forward pass tells it for every batch
        size; `ablate.cost.memory.training_memory` follows a whole step and takes as much longer.
        """
        copies = 2 + STATES[train.optimizer] + (1 if train.ema_decay else 0)
        mixed = train.precision != "fp32"
        images = train.batch_size // (train.accumulate * train.devices)
        activations = self.activation_bytes * images * (_AUTOCAST if mixed else 1.0)
        halves = self.cost.params * _BYTES // 2 if mixed else 0
        return int(self.cost.params * _BYTES * copies + halves + activations)


def build(arch: str, *, image_size: int, num_classes: int) -> Built:
    """Build a network on the meta device and look at it.

    Args:
        arch: an arch string, or `torchvision:NAME` / `timm:NAME`.
        image_size: side of the input, in pixels.
        num_classes: width of the logits.

    Raises:
        AblateError: it cannot be built at this size.
    """
    with _recording() as recorder:
        network = create_model(arch, num_classes=num_classes, image_size=image_size)
    named = dict(network.named_parameters())
    return Built(
        cost=profile(network, image_size=image_size, num_classes=num_classes),
        shapes={name: tuple(parameter.shape) for name, parameter in named.items()},
        initial={name: recorder.drawn(parameter) for name, parameter in named.items()},
        decays={name: decay for name, _, decay in decayed(network)},
        activation_bytes=_activation_bytes(network, image_size),
    )


def build_all(
    networks: Sequence[Network], *, plugins: tuple[str, ...] = (), processes: int = 1
) -> dict[Network, Built]:
    """Build each network once, in several processes where there are many.

    Args:
        networks: (arch, image size, classes); repeated ones are built once.
        plugins: imported in the processes.
        processes: at most so many.

    Raises:
        AblateError: the first network that cannot be built.
    """
    distinct = list(dict.fromkeys(networks))
    if processes < 2 or len(distinct) < _MANY:
        return {network: _build_one(network) for network in distinct}
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=(plugins,)
    )
    with pool:
        built = list(pool.map(_build_one, distinct, chunksize=4))
    return dict(zip(distinct, built, strict=True))


def _start(plugins: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    import_plugins(plugins)


def _build_one(network: Network) -> Built:
    arch, image_size, num_classes = network
    built = build(arch, image_size=image_size, num_classes=num_classes)
    return replace(built, cost=replace(built.cost, calls=()))


class _InitRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the in-place operations that fill each tensor, by its storage."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: dict[int, list[str]] = {}
        self.alive: list[Any] = []  # a freed storage's number would be given again

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.endswith("_") and args and isinstance(args[0], Tensor):
            self.note(args[0], name, args[1:])
        elif name in _CONSTANTS:
            self.note(out, "fill_", _CONSTANTS[name] or args[1:2])
        return out

    def note(self, tensor: Tensor, name: str, arguments: Iterable[Any]) -> None:
        """Write down one operation on a tensor."""
        numbers = [f"{a:.6g}" for a in arguments if isinstance(a, (int, float))]
        if name == "zero_":
            name, numbers = "fill_", ["0"]
        number = _storage(tensor)
        if number not in self.operations:
            self.alive.append(tensor.untyped_storage())
        self.operations.setdefault(number, []).append(f"{name}({', '.join(numbers)})")

    def drawn(self, parameter: Tensor) -> str:
        """How a tensor was filled: the last drawing of values and what followed it."""
        operations = self.operations.get(_storage(parameter), [])
        starts = [i for i, text in enumerate(operations) if text.startswith(_DRAWS)]
        return " ".join(operations[starts[-1] :] if starts else operations)


@contextmanager
def _recording() -> Iterator[_InitRecorder]:
    """Build on the meta device and record; torch draws no truncated normals there by itself."""
    recorder = _InitRecorder()
    trunc_normal = nn.init.trunc_normal_

    def noted(
        tensor: Tensor, mean: float = 0.0, std: float = 1.0, *args: Any, **more: Any
    ) -> Tensor:
        recorder.note(tensor, "trunc_normal_", (mean, std))
        return trunc_normal(tensor, mean, std, *args, **more)

    nn.init.trunc_normal_ = noted
    try:
        with torch.device("meta"), recorder:
            yield recorder
    finally:
        nn.init.trunc_normal_ = trunc_normal


_CONSTANTS: Mapping[str, tuple[int, ...]] = {"zeros": (0,), "ones": (1,), "full": ()}
_DRAWS = ("trunc_normal_", "uniform_", "normal_", "fill_", "copy_")


def _storage(tensor: Tensor) -> int:
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)  # type: ignore[no-untyped-call]


def _activation_bytes(network: nn.Module, image_size: int) -> int:
    """Bytes that one image's forward pass keeps for backward; each storage counts once."""
    own = {_storage(tensor) for tensor in [*network.parameters(), *network.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(_storage(tensor), tensor.untyped_storage())
        return tensor

    # Two images: batch norm in training needs more than one value a channel.
    images = torch.empty(_BATCH, 3, image_size, image_size, device="meta")
    network.train()
    with ShapeCache(), saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    total = sum(storage.nbytes() for number, storage in kept.items() if number not in own)
    return int(total // _BATCH)
