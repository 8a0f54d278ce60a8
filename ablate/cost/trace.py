"""One forward pass on shapes alone, as the list of operators that it calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.cost.formulas import computes, count_macs, shape_of
from ablate.cost.meta import ShapeCache
from ablate.cost.parts import Part
from ablate.errors import ModelError

Shape = tuple[int, ...]

RUN_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What a forward pass raises for an input that the network does not take."""


@dataclass(frozen=True)
class Call:
    """One call of an operator that computes.

    Args:
        op: the operator, such as "aten.addmm".
        part: index of the part that called it; -1 outside of all parts.
        macs: multiply-adds; None where there is no formula for it.
        inputs: shape of each positional argument; None for what is no tensor.
        output: shape of the (first) result.
    """

    op: str
    part: int
    macs: int | None
    inputs: tuple[Shape | None, ...]
    output: Shape


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every computing operator below autograd; `part` is where we are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.inside: list[int] = []
        self.pooling = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        out = func(*args, **kwargs)
        macs = count_macs(packet, args, kwargs, out)
        if macs is not None or computes(func):
            part = self.inside[-1] if self.inside else -1
            inputs = tuple(shape_of(argument) for argument in args)
            op = "aten.adaptive_avg_pool2d" if self.pooling else str(packet)
            self.calls.append(Call(op, part, macs, inputs, shape_of(out) or ()))
        return out


class _Pooling(TorchFunctionMode):
    """Tells the recorder of adaptive pooling, which arrives there as a mean."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.recorder.pooling = func is F.adaptive_avg_pool2d
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.recorder.pooling = False


def trace(
    model: nn.Module,
    parts: Sequence[Part],
    *,
    image_size: tuple[int, int],
    in_chans: int,
    device: torch.device,
) -> list[Call]:
    """The computing operators of one image's forward pass in eval mode, part by part.

    Args:
        model: on the device.
        parts: its stages; calls elsewhere have part -1.
        image_size: (H, W) in pixels.
        in_chans: channels of the image.
        device: "meta", where nothing is allocated; elsewhere the network runs for real.

    Raises:
        ModelError: the network does not take such an image.
    """
    recorder = _Recorder()
    image = torch.zeros(1, in_chans, *image_size, device=device)
    with evaluating(model), _attributed(parts, recorder.inside), torch.no_grad():
        try:
            with ShapeCache(), recorder, _Pooling(recorder):
                model(image)
        except RUN_ERRORS as error:
            raise refused(model, image_size, in_chans, error) from error
    return recorder.calls


def refused(
    model: nn.Module, image_size: tuple[int, int], in_chans: int, error: Exception
) -> ModelError:
    name = getattr(model, "arch", "") or type(model).__name__
    lines = str(error).strip().splitlines()
    size = f"{in_chans}x{image_size[0]}x{image_size[1]}"
    return ModelError(
        f"{name} does not take an image of {size}: {lines[0] if lines else type(error).__name__}"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards every module in the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # fused layers would hide their parts
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training


@contextmanager
def _attributed(parts: Sequence[Part], inside: list[int]) -> Iterator[None]:
    """Keep the index of the innermost part that is running at the end of `inside`."""
    handles = []
    for index, part in enumerate(parts):

        def enter(module: nn.Module, args: Any, index: int = index) -> None:
            inside.append(index)

        def leave(module: nn.Module, args: Any, out: Any) -> None:
            inside.pop()

        handles.append(part.module.register_forward_pre_hook(enter))
        handles.append(part.module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        inside.clear()
