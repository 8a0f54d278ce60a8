"""What a network costs: parameters and multiply-adds, by stage and by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn

from ablate.cost.meta import ShapeCache, on_meta, tensors_of
from ablate.cost.parts import REST, Part, partition
from ablate.cost.trace import Call, trace
from ablate.errors import ConfigError, ModelError, unknown
from ablate.models.factory import create_model
from ablate.models.network import Network

COUNTERS = ("ablate", "fvcore")

Size = int | tuple[int, int]

_SOFTMAX = ("aten._softmax", "aten._safe_softmax")


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One stage's share of the cost.

    Args:
        name: "stem", "stage1", ..., "group", "head", or a submodule's name.
        kind: letter of the grammar, form of the head, or the class of the submodule.
        resolution: (H, W) of its map; None where not known.
        depth: blocks; width: channels; heads: attention heads; None where there are none.
        params: parameters that no earlier stage has.
        macs: multiply-adds of its calls.
    """

    name: str
    kind: str
    resolution: tuple[int, int] | None
    depth: int | None
    width: int | None
    heads: int | None
    params: int
    macs: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one network, for one image's forward pass in eval mode.

    Args:
        arch: canonical arch string; for other networks their name or class.
        image_size: (H, W) of the input, in pixels.
        params: parameter elements, frozen ones included, shared ones once.
        trainable: those that take gradients.
        macs: multiply-adds of convolutions, linear layers and all matrix products, attention
            included; no biases, norms, activations, softmax, pooling or interpolation.
        per_stage: the same by stage; sums to `params` and `macs`.
        per_operator: `macs` by operator.
        uncounted_ops: calls of every operator that computes and has no formula.
        attention_logits: elements of the softmaxes in attention, heads x queries x keys; None
            where the counter does not see them.
        extra_per_operator: what the counter counts beyond `macs` (fvcore: norms, interpolation).
        counter: "ablate", or "fvcore" for the second opinion.
        calls: every operator call, for other conventions (`paper_flops`).
    """

    arch: str
    image_size: tuple[int, int]
    params: int
    trainable: int
    macs: int
    per_stage: tuple[StageCost, ...]
    per_operator: Mapping[str, int]
    uncounted_ops: Mapping[str, int]
    attention_logits: int | None = None
    extra_per_operator: Mapping[str, int] = field(default_factory=dict)
    counter: str = "ablate"
    calls: tuple[Call, ...] = field(default=(), repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names above, without the single calls."""
        kept = {name: value for name, value in vars(self).items() if name != "calls"}
        return {
            **kept,
            "image_size": list(self.image_size),
            "per_stage": [asdict(stage) for stage in self.per_stage],
            "per_operator": dict(self.per_operator),
            "uncounted_ops": dict(self.uncounted_ops),
            "extra_per_operator": dict(self.extra_per_operator),
        }


def profile(
    model: str | nn.Module,
    *,
    image_size: Size | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    counter: str = "ablate",
    **options: object,
) -> Cost:
    """The cost of a network; no weights are allocated.

    Args:
        model: preset, arch string, `torchvision:NAME`, `timm:NAME`, or any network that takes
            images (N, in_chans, H, W).
        image_size: side of the input in pixels, or (height, width); default 224, or what a
            built network of ours was made for.
        num_classes: width of the logits, for a name.
        in_chans: channels of the input.
        counter: "ablate" counts operators on shapes; "fvcore" asks fvcore, which runs the
            network on the CPU.
        options: options of the arch, for a name, as in `create_model`.

    Raises:
        ModelError: an unknown name, or a network that cannot be built or run at that size.
        ConfigError: an unknown counter, or options for a network that is built already.

    >>> profile("coat-lite-tiny").params
    5722856
    """
    if counter not in COUNTERS:
        raise ConfigError(unknown("counter", counter, COUNTERS))
    if counter == "fvcore":
        from ablate.cost.second_opinion import profile_with_fvcore

        return profile_with_fvcore(model, image_size, num_classes, in_chans, options)
    size = size_for(model, image_size)
    network, arch = on_shapes(model, size, num_classes, in_chans, options)
    run = partial(trace, image_size=size, in_chans=in_chans)
    try:
        calls = run(network, partition(network), device=torch.device("meta"))
    except ModelError:
        if any(isinstance(module, Network) for module in network.modules()):
            raise
        # A network that reads values needs more than shapes: it runs for real.
        network = with_values(model, size, num_classes, in_chans, options)
        calls = run(network, partition(network), device=device_of(network))
    return summarize(network, arch, size, partition(network), calls)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights lie; the CPU where it has none."""
    return next((tensor.device for tensor in tensors_of(network)), torch.device("cpu"))


def on_shapes(
    model: str | nn.Module,
    size: tuple[int, int],
    num_classes: int,
    in_chans: int,
    options: Mapping[str, object],
) -> tuple[nn.Module, str]:
    """The network on the meta device, and its name."""
    if isinstance(model, nn.Module):
        refuse_options(options)
        return on_meta(model), name_of(model)
    with torch.device("meta"), ShapeCache():
        network = with_values(model, size, num_classes, in_chans, options)
    return network, str(getattr(network, "arch", model))


def with_values(
    model: str | nn.Module,
    size: tuple[int, int],
    num_classes: int,
    in_chans: int,
    options: Mapping[str, object],
) -> nn.Module:
    """The network that is given, or that a name means, built on the default device."""
    if isinstance(model, nn.Module):
        refuse_options(options)
        return model
    kept: dict[str, Any] = dict(options)
    return create_model(model, num_classes=num_classes, image_size=size, in_chans=in_chans, **kept)


def refuse_options(options: Mapping[str, object]) -> None:
    """Raises ConfigError for options of a network that is built already."""
    if options:
        raise ConfigError(
            f"a network that is built already takes no options, but got {', '.join(options)}"
        )


def name_of(model: nn.Module) -> str:
    """The canonical arch string of a network of ours, else the class."""
    return model.arch if isinstance(model, Network) and model.arch else type(model).__name__


def size_for(model: str | nn.Module, image_size: Size | None) -> tuple[int, int]:
    """(H, W) that is asked for, else what the network was made for, else 224 x 224.

    Raises:
        ConfigError: not one or two whole numbers of at least 1.
    """
    if image_size is None:
        return model.image_size if isinstance(model, Network) else (224, 224)
    size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size,) * 2
    if len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size):
        raise ConfigError(
            f"image_size is one whole number or (height, width), but got {image_size!r}"
        )
    return size


def summarize(
    network: nn.Module,
    arch: str,
    size: tuple[int, int],
    parts: Sequence[Part],
    calls: Sequence[Call],
) -> Cost:
    """The sums over a trace."""
    per_operator: Counter[str] = Counter()
    per_part: Counter[int] = Counter()
    uncounted: Counter[str] = Counter()
    for call in calls:
        if call.macs is None:
            uncounted[call.op] += 1
        else:
            per_operator[call.op] += call.macs
            per_part[call.part] += call.macs
    params, trainable = count_params(network)
    return Cost(
        arch=arch,
        image_size=size,
        params=params,
        trainable=trainable,
        macs=per_operator.total(),
        per_stage=stage_costs(network, parts, per_part),
        per_operator=dict(per_operator.most_common()),
        uncounted_ops=dict(uncounted.most_common()),
        attention_logits=attention_logits(calls),
        calls=tuple(calls),
    )


def count_params(network: nn.Module) -> tuple[int, int]:
    """Parameter elements, shared ones once: all, and those that take gradients."""
    parameters = list(network.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return sum(p.numel() for p in parameters), trainable


def stage_costs(
    network: nn.Module, parts: Sequence[Part], macs: Mapping[int, int]
) -> tuple[StageCost, ...]:
    """A row for each part, from its multiply-adds by index; -1 is what no part called."""
    seen: set[int] = set()
    rest = Part(name=REST, kind=type(network).__name__, module=network)
    rows = [
        StageCost(
            name=part.name, kind=part.kind, resolution=part.resolution, depth=part.depth,
            width=part.width, heads=part.heads, params=_new_params(part.module, seen),
            macs=macs.get(index, 0),
        )
        for index, part in [*enumerate(parts), (-1, rest)]
    ]  # fmt: skip
    return tuple(row for row in rows if row.name != REST or row.params or row.macs)


def _new_params(module: nn.Module, seen: set[int]) -> int:
    """Parameter elements of a module that are not in `seen` yet; they are put there."""
    fresh = [p for p in module.parameters() if id(p) not in seen]
    seen.update(map(id, fresh))
    return sum(p.numel() for p in fresh)


def attention_logits(calls: Sequence[Call]) -> int:
    """Elements that the softmaxes between the two matrix products of attention work on.

    A softmax counts where the product before it is q k^T, of its own shape, so that CoaT's
    softmax over the keys does not.
    """
    total = 0
    last: Call | None = None
    for call in calls:
        if "attention" in call.op and call.macs is not None:
            q, k = call.inputs[0], call.inputs[1]
            total += prod(q[:-1]) * k[-2] if q and k else 0
        elif call.op in _SOFTMAX and last is not None and last.op == "aten.bmm":
            total += prod(call.output) if call.output[-2:] == last.output[-2:] else 0
        if call.macs is not None:
            last = call
    return total
