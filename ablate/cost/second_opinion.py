"""fvcore's counts of the same network: a second opinion, which needs weights and a CPU."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import nn

from ablate.cost.counting import (
    Cost,
    Size,
    count_params,
    device_of,
    name_of,
    size_for,
    stage_costs,
    with_values,
)
from ablate.cost.parts import partition
from ablate.cost.trace import RUN_ERRORS, evaluating, refused
from ablate.errors import ModelError

_PRODUCTS = ("conv", "linear", "matmul", "addmm", "mm", "bmm", "einsum")
"""fvcore's names for what counts as a multiply-add."""


def _shape(value: Any) -> list[int]:
    sizes: list[int] = value.type().sizes()
    return sizes


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """q (..., L, d) k^T and the logits times v (..., S, d_v)."""
    q, k, v = (_shape(value) for value in inputs[:3])
    return prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _product(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Any torch.matmul: of vectors, and of batches that broadcast, on which fvcore's own fails."""
    return prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _matrix_in(place: int) -> Callable[[Sequence[Any], Sequence[Any]], int]:
    return lambda inputs, outputs: prod(_shape(inputs[place]))


def _added_batches(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return prod(_shape(inputs[1])) * _shape(inputs[2])[-1]


_HANDLES: Mapping[str, Callable[[Sequence[Any], Sequence[Any]], int]] = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::matmul": _product,
    "aten::baddbmm": _added_batches,
    "aten::addbmm": _added_batches,
    "aten::mv": _matrix_in(0),
    "aten::dot": _matrix_in(0),
    "aten::addmv": _matrix_in(1),
}
"""Operators that fvcore skips or mistakes; what else it skips is listed in `uncounted_ops`."""

_OWN = tuple(name.removeprefix("aten::") for name in _HANDLES)


def profile_with_fvcore(
    model: str | nn.Module,
    image_size: Size | None,
    num_classes: int,
    in_chans: int,
    options: Mapping[str, object],
) -> Cost:
    """The cost by fvcore, which traces the network with its weights (see `profile`).

    `macs` and `per_operator` are its convolutions, linear layers and matrix products, with our
    handlers where it has none; norms, pooling and interpolation are in `extra_per_operator`.

    Raises:
        ModelError: the network is on the meta device, or does not take such an image.
    """
    size = size_for(model, image_size)
    network = with_values(model, size, num_classes, in_chans, options)
    arch = name_of(network) if isinstance(model, nn.Module) else getattr(network, "arch", model)
    counts, uncounted = _analyse(network, size, in_chans)
    parts = partition(network)
    names = {module: name for name, module in network.named_modules()}
    whole = _products(counts[""])
    per_part = {index: _products(counts[names[part.module]]) for index, part in enumerate(parts)}
    macs = {index: sum(found.values()) for index, found in per_part.items()}
    macs[-1] = sum(whole.values()) - sum(macs.values())
    params, trainable = count_params(network)
    return Cost(
        arch=str(arch),
        image_size=size,
        params=params,
        trainable=trainable,
        macs=sum(whole.values()),
        per_stage=stage_costs(network, parts, macs),
        per_operator=whole,
        uncounted_ops=dict(uncounted.most_common()),
        extra_per_operator={
            name: int(count) for name, count in counts[""].items() if name not in whole
        },
        counter="fvcore",
    )


def _products(counted: Mapping[str, float]) -> dict[str, int]:
    return {
        name: int(count) for name, count in counted.items() if name in _PRODUCTS or name in _OWN
    }


def _analyse(
    network: nn.Module, size: tuple[int, int], in_chans: int
) -> tuple[Mapping[str, Mapping[str, float]], Counter[str]]:
    """fvcore's counts by module and operator, and the operators that it has no handle for."""
    device = device_of(network)
    if device.type == "meta":
        raise ModelError("fvcore needs weights: build the network on the CPU, or counter='ablate'")
    image = torch.zeros(1, in_chans, *size, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore is built on torch.jit, which is deprecated
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(network, (image,)).set_op_handle(**_HANDLES)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none").ancestor_mode("caller")
        try:
            with evaluating(network), torch.no_grad():
                return analysis.by_module_and_operator(), analysis.unsupported_ops()
        except RUN_ERRORS as error:
            raise refused(network, size, in_chans, error) from error
