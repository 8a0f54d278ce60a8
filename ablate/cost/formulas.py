"""Multiply-adds of one aten operator from its shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

Formula = Callable[[Sequence[Any], Any], int]
"""From the arguments and the result of a call to its multiply-adds."""

MOVES = frozenset({
    "_to_copy", "_unsafe_view", "arange", "cat", "clone", "constant_pad_nd", "copy_",
    "embedding", "empty", "empty_like", "empty_strided", "eye", "fill_", "flip", "full",
    "full_like", "gather", "index", "index_copy", "index_select", "lift_fresh",
    "lift_fresh_copy", "linspace", "masked_fill", "masked_fill_", "new_empty",
    "new_empty_strided", "new_full", "new_ones", "new_zeros", "ones", "ones_like",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "repeat",
    "replication_pad1d", "replication_pad2d", "roll", "scalar_tensor", "select_scatter",
    "slice_scatter", "stack", "tril", "triu", "unsafe_split", "unsafe_split_with_sizes",
    "zero_", "zeros", "zeros_like", "as_strided_", "detach_", "resize_", "squeeze_", "t_",
    "transpose_", "unsqueeze_",
})  # fmt: skip
"""Operators that move or make values and compute none; views are told by their schema."""


def _attention(args: Sequence[Any], out: Any) -> int:
    """q (..., L, d) k^T and the logits times v (..., S, d_v), as if no logit were masked."""
    q, k, v = (tuple(tensor.shape) for tensor in args[:3])
    macs: int = prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    return macs


def _first_times_width(args: Sequence[Any], out: Any) -> int:
    """A matrix (M, K) in first place times a vector (K)."""
    return int(args[0].numel())


def _second_times_width(args: Sequence[Any], out: Any) -> int:
    """A matrix (M, K) in second place times a vector (K), added to the first argument."""
    return int(args[1].numel())


def _batch_summed(args: Sequence[Any], out: Any) -> int:
    """sum_b (B, M, K) @ (B, K, N)."""
    return int(args[1].numel()) * int(args[2].shape[-1])


_OWN: dict[Any, Formula] = {
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_attention_math_for_mps: _attention,
    aten.dot: _first_times_width,
    aten.mv: _first_times_width,
    aten.addmv: _second_times_width,
    aten.addbmm: _batch_summed,
}
"""Matrix products on which torch.utils.flop_counter is silent."""


def count_macs(packet: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int | None:
    """Multiply-adds of a call: convolutions, matrix products and attention.

    Args:
        packet: the operator without its overload, such as `torch.ops.aten.addmm`.
        args: positional arguments of the call.
        kwargs: named arguments of the call.
        out: its result.

    Returns:
        The count, without biases; None where there is no formula for the operator.
    """
    if packet in _OWN:
        return _OWN[packet](args, out)
    if packet in flop_registry:
        flops: int = flop_registry[packet](*args, **kwargs, out_val=out)
        return flops // 2  # the registry counts a multiply-add as two
    return None


def computes(func: OpOverload) -> bool:
    """Whether an operator does arithmetic, as far as its schema and `MOVES` tell."""
    return not func.is_view and func.overloadpacket.__name__ not in MOVES


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor, of the first tensor of a sequence, or None."""
    if isinstance(value, (tuple, list)) and value:
        return shape_of(value[0])
    return tuple(value.shape) if isinstance(value, Tensor) else None
