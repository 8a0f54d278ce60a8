"""Which way a layer is computed: the plain one, or one arranged for the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_PLAIN = ContextVar("plain", default=False)


@contextmanager
def plain_routes() -> Iterator[None]:
    """Every layer by torch's own operations, as on a GPU.

    For second derivatives and torch.func, which the routes for the CPU do not have, and as the
    reference that the tests compare with.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def on_cpu(x: Tensor) -> bool:
    """Whether a layer may take its route for the CPU with this input.

    Compilers and exporters see the plain operations, which they fuse themselves.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return x.device.type == "cpu" and not (_PLAIN.get() or torch.compiler.is_compiling() or tracing)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision of a matrix product with x: autocast's, or that of x."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """The precision of sums and gradients of numbers of a precision."""
    return torch.promote_types(dtype, torch.float32)
