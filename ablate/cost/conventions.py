"""FLOPs as different papers count them, from one trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import nn

from ablate.cost.counting import Cost, Size, profile
from ablate.cost.trace import Call, Shape
from ablate.errors import ConfigError, unknown

LOGIT_FLOPS = 12.53
"""CoAtNet: counted operations for each attention logit; fitted to its 18 printed numbers."""

STEM_FLOPS = 17.97
"""CoAtNet: counted operations for each output element of the two convolutions of S0; fitted."""


def paper_flops(
    model: Cost | str | nn.Module,
    convention: str,
    *,
    image_size: Size | None = None,
    num_classes: int = 1000,
    **options: Any,
) -> int:
    """FLOPs of a network by a paper's own convention, in units (not 10^9).

    - "macs": multiply-adds of convolutions, linear layers and matrix products.
    - "fvcore": the total of fvcore's FlopCountAnalysis, as CoaT prints it: multiply-adds, 5 for
      each element of an affine LayerNorm or GroupNorm (4 otherwise), 2 of an affine BatchNorm
      (1 otherwise), 4 for each output element of bilinear resizing, 1 for each input element of
      adaptive pooling.
    - "fvcore-einsum": the same for a network whose attention is written in einsums, as the
      official code of CoaT and CvT: fvcore reads each einsum's cost, doubled, off numpy's printed
      path, which shows four digits.
    - "coat": the same for CoaT's official code, whose last norms run over all tokens; ours
      norms the class token alone, which is all that the head reads.
    - "coatnet": multiply-adds, 12.53 for each attention logit and 17.97 for each output element
      of S0: fitted to the paper's numbers (CoAtNet-0 to 5 within 0.03 of their rounding),
      documented nowhere.
    - "cvt": multiply-adds, biases, 2 for each element of a BatchNorm; the CvT tables truncate
      it. CvT-W24 stays 0.5% off.

    Args:
        model: a counted cost, or what `profile` takes.
        convention: one of the names above.
        image_size: as for `profile`; as num_classes and options, for what is not counted yet.

    Raises:
        ConfigError: an unknown convention, or one that needs the operator calls of
            counter="ablate".
    """
    if convention not in CONVENTIONS:
        raise ConfigError(unknown("convention", convention, CONVENTIONS))
    if not isinstance(model, Cost):
        model = profile(model, image_size=image_size, num_classes=num_classes, **options)
    if model.counter == "fvcore":
        return _of_second_opinion(model, convention)
    return round(CONVENTIONS[convention](model))


def _of_second_opinion(cost: Cost, convention: str) -> int:
    if convention == "macs":
        return cost.macs
    if convention == "fvcore":
        return cost.macs + sum(cost.extra_per_operator.values())
    raise ConfigError(f"convention {convention!r} is computed from counter='ablate', not 'fvcore'")


def _macs(cost: Cost) -> float:
    return cost.macs


def _fvcore(cost: Cost) -> float:
    return cost.macs + sum(_fvcore_extra(call) for call in cost.calls)


def _fvcore_einsum(cost: Cost) -> float:
    products = [call.macs or 0 for call in cost.calls if call.op == "aten.bmm"]
    rounded = sum(float(f"{2 * macs:.3e}") // 2 for macs in products)
    return _fvcore(cost) - sum(products) + rounded


def _coat(cost: Cost) -> float:
    normed = [c for c in cost.calls if c.part < 0 and c.op in _AFFINE and len(c.output) == 2]
    stages = [stage for stage in cost.per_stage if stage.resolution and stage.kind == "F"]
    read = stages[len(stages) - len(normed) :]
    return _fvcore_einsum(cost) + sum(
        5 * prod(stage.resolution or ()) * (stage.width or 0) for stage in read
    )


def _coatnet(cost: Cost) -> float:
    stems = {index for index, stage in enumerate(cost.per_stage) if stage.kind == "S"}
    elements = sum(
        prod(call.output)
        for call in cost.calls
        if call.part in stems and call.op == "aten.convolution"
    )
    return cost.macs + LOGIT_FLOPS * (cost.attention_logits or 0) + STEM_FLOPS * elements


def _cvt(cost: Cost) -> float:
    return cost.macs + sum(_biases(call) + 2 * _batch_norm(call) for call in cost.calls)


def _biases(call: Call) -> int:
    """Elements to which a convolution or linear layer adds a bias."""
    biased = call.op == "aten.addmm" or (
        call.op == "aten.convolution" and call.inputs[2] is not None
    )
    return prod(call.output) if biased else 0


def _batch_norm(call: Call) -> int:
    return prod(call.output) if call.op in _BATCH_NORMS else 0


def _fvcore_extra(call: Call) -> int:
    """What fvcore adds for an operator that is no convolution or matrix product."""
    if call.op in _AFFINE:
        weight, plain, affine = _AFFINE[call.op]
        return prod(call.output) * (affine if call.inputs[weight] else plain)
    if call.op in _PER_OUTPUT:
        return prod(call.output) * _PER_OUTPUT[call.op]
    return prod(_image(call)) if call.op == "aten.adaptive_avg_pool2d" else 0


def _image(call: Call) -> Shape:
    return call.inputs[0] or ()


_BATCH_NORMS = (
    "aten.native_batch_norm", "aten._native_batch_norm_legit",
    "aten._native_batch_norm_legit_no_training", "aten.cudnn_batch_norm",
)  # fmt: skip

_AFFINE: Mapping[str, tuple[int, int, int]] = {
    "aten.native_layer_norm": (2, 4, 5),
    "aten.native_group_norm": (1, 4, 5),
    **dict.fromkeys(_BATCH_NORMS, (1, 1, 2)),
}
"""Norms: place of the weight among the arguments, cost of an element without and with it."""

_PER_OUTPUT: Mapping[str, int] = {
    "aten.upsample_bilinear2d": 4,
    "aten.grid_sampler_2d": 4,
}

CONVENTIONS: Mapping[str, Callable[[Cost], float]] = {
    "macs": _macs,
    "fvcore": _fvcore,
    "fvcore-einsum": _fvcore_einsum,
    "coat": _coat,
    "coatnet": _coatnet,
    "cvt": _cvt,
}
