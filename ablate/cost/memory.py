"""Memory of a training step, from a step on shapes alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ablate.cost.counting import Size, on_shapes, size_for
from ablate.cost.formulas import aten
from ablate.cost.meta import ShapeCache, twin
from ablate.cost.trace import RUN_ERRORS, refused
from ablate.errors import ConfigError, unknown
from ablate.models.routes import plain_routes

PRECISIONS = ("fp32", "bf16", "fp16")

STATES = {"adamw": 2, "sgd": 1}
"""Numbers that an optimizer keeps for each trainable parameter (SGD: with momentum)."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_memory(
    model: str | nn.Module,
    batch_size: int,
    precision: str = "fp32",
    optimizer: str = "adamw",
    *,
    image_size: Size | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    **options: object,
) -> int:
    """Estimated peak of the bytes in tensors during a training step; nothing is allocated.

    A forward and a backward pass run on shapes, and every tensor's storage is followed from the
    operator that makes it to its release: parameters, buffers, the batch, activations kept for
    the backward pass, gradients, and what operators need in between. The optimizer's state is
    added. It is what torch's allocator hands out, as `measure` measures it; the process itself,
    CUDA's context, caching and workspaces inside kernels are not in it. The layers' routes for the
    CPU (`ablate.models.routes`) need less.

    Args:
        model: as for `profile`.
        batch_size: images of one step (of one micro-batch where gradients accumulate).
        precision: "fp32", or "bf16" and "fp16" (autocast over fp32 weights).
        optimizer: "adamw" or "sgd", fused.
        image_size: as for `profile`, as the other arguments.

    Raises:
        ConfigError: a batch size, precision or optimizer outside its choices.
        ModelError: a network that cannot be built or run at that size.
    """
    check_step(batch_size, precision, optimizer)
    size = size_for(model, image_size)
    shapes, _ = on_shapes(model, size, num_classes, in_chans, options)
    network = shapes if precision == "fp32" else _pretending(shapes)
    trainable = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    ledger = _Ledger()
    ledger.follow([*network.parameters(), *network.buffers()])
    parameter = next(network.parameters())
    images = parameter.new_empty(batch_size, in_chans, *size)
    ledger.follow([images])
    try:
        _step(network, images, precision, ledger)
    except RUN_ERRORS as error:
        raise refused(network, size, in_chans, error) from error
    return ledger.peak + STATES[optimizer] * trainable


def check_step(batch_size: Any, precision: str, optimizer: str) -> None:
    """Raises ConfigError where a training step cannot be what is asked for."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"a batch size is a whole number of at least 1, but got {batch_size!r}")
    if precision not in PRECISIONS:
        raise ConfigError(unknown("precision", precision, PRECISIONS))
    if optimizer not in STATES:
        raise ConfigError(unknown("optimizer", optimizer, STATES))


def _step(network: nn.Module, images: Tensor, precision: str, ledger: _Ledger) -> None:
    network.train()
    half = torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32")
    # what autograd makes itself, as zeros for an output without gradient, is to pretend as well
    pretence = images.fake_mode if isinstance(images, FakeTensor) else nullcontext()
    with plain_routes(), pretence, _FlashOnShapes(), ShapeCache(), ledger:
        with half:
            logits = network(images)
        target = torch.empty_like(logits[:, 0], dtype=torch.long)
        F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]


def _pretending(shapes: nn.Module) -> nn.Module:
    """A copy whose tensors say that they are on the CPU, as autocast asks for."""
    mode = FakeTensorMode()
    cpu = torch.device("cpu")
    return twin(shapes, lambda tensor: FakeTensor(mode, tensor.detach(), cpu))


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all living storages that it has seen, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._living: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.follow(tree_leaves(out))
        return out

    def follow(self, values: Iterable[Any]) -> None:
        """Count the storages of tensors that are not counted yet, until they are released."""
        for value in values:
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._living:
            return
        self._living.add(address)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, address, storage.nbytes()).atexit = False

    def _release(self, address: int, size: int) -> None:
        self._living.discard(address)
        self.now -= size


class _FlashOnShapes(TorchFunctionMode):
    """Attention without a bias as a fused kernel, which keeps no attention maps, on meta too."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        fused = (
            func is F.scaled_dot_product_attention
            and len(args) == 3
            and args[0].is_meta
            and kwargs.get("attn_mask") is None
        )
        if not fused:
            return func(*args, **kwargs)
        kernel = aten._scaled_dot_product_flash_attention_for_cpu
        scale, causal = kwargs.get("scale"), kwargs.get("is_causal", False)
        return kernel(*args, 0.0, causal, attn_mask=None, scale=scale)[0]
