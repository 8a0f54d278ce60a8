"""Networks that have shapes but no values, and a faster way to run them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

_PLAIN = (
    str, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator, type(None),
)  # fmt: skip


_MOST_KNOWN = 50_000
"""Operators with their shapes that are kept for this process; all presets together need 3,000."""


class ShapeCache(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators on meta tensors, each on the same shapes only once.

    torch works out shapes in Python, some 0.2 ms an operator; the blocks of a network repeat
    theirs. Views, and operators on tensors with values, always run.
    """

    _known: ClassVar[dict[Hashable, Callable[[Sequence[Any]], Any]]] = {}

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload) or func.is_view:
            return func(*args, **kwargs)
        try:
            key = (func, _key(args), _key(kwargs))
            again = self._known.get(key)
        except TypeError:  # a tensor with values, or an argument without a hash
            return func(*args, **kwargs)
        if again is None:
            out = func(*args, **kwargs)
            again = _repeat(func, args, key, out)
            if again is not None and len(self._known) < _MOST_KNOWN:
                self._known[key] = again
            return out
        return again(args)


def _key(value: Any) -> Hashable:
    """What the shapes of a result depend on; TypeError where values could matter."""
    if isinstance(value, Tensor):
        if (type(value) is not Tensor and type(value) is not nn.Parameter) or not value.is_meta:
            raise TypeError
        return value.dtype, value.shape, value.stride()
    if isinstance(value, (bool, int, float)):
        return type(value), value
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    if isinstance(value, Mapping):
        return tuple((name, _key(item)) for name, item in value.items())
    raise TypeError


def _repeat(
    func: OpOverload, args: Sequence[Any], key: Hashable, out: Any
) -> Callable[[Sequence[Any]], Any] | None:
    """A function that makes the result once more; None where that is not known to be safe."""
    if func._schema.is_mutable:
        unchanged = bool(args) and out is args[0] and (func, _key(args), ()) == key
        return (lambda args: args[0]) if unchanged else None
    if isinstance(out, Tensor):
        return _maker(out)
    if isinstance(out, tuple) and all(isinstance(item, Tensor) for item in out):
        makers = [_maker(item) for item in out]
        if all(makers):
            return lambda args: tuple(make(args) for make in makers if make)
    return None


def _maker(tensor: Tensor) -> Callable[[Sequence[Any]], Tensor] | None:
    if not tensor.is_meta or tensor.storage_offset():
        return None
    shape, stride, dtype = tensor.shape, tensor.stride(), tensor.dtype
    return lambda args: torch.empty_strided(shape, stride, dtype=dtype, device="meta")


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers of a network, shared ones once."""
    yield from model.parameters()
    yield from model.buffers()


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of a network that has shapes but no values; the weights are not copied."""
    return twin(model, lambda tensor: torch.empty_like(tensor, device="meta"))


def twin(model: nn.Module, replace: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network whose tensors are replaced, also those that are no parameters."""
    # deepcopy takes what stands in its memo for the copy, so no weight is ever duplicated.
    memo: dict[int, Any] = {}
    for tensor in tensors_of(model):
        other = replace(tensor)
        if isinstance(tensor, nn.Parameter):
            other = nn.Parameter(other, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = other
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                setattr(module, name, replace(value))
    return copied
