"""Where a network's numbers stop being finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def tensors(output: Any) -> Iterable[Tensor]:
    """Every tensor in a module's output: a tensor, or nested tuples, lists and dicts of them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from tensors(value)


def is_finite(output: Any) -> bool:
    """Whether every number in every floating tensor of `output` is finite."""
    return all(
        bool(torch.isfinite(tensor).all())
        for tensor in tensors(output)
        if tensor.is_floating_point()
    )


@torch.no_grad()
def first_nonfinite_layer(network: nn.Module, images: Tensor) -> str:
    """The name of the first module, in the order of execution, whose output is not finite.

    The forward is run again, uncompiled, with hooks on all modules; the innermost module
    finishes first, so a block is named only if none of its layers is at fault.

    Returns:
        The module's dotted name; "input" if the images are not finite; "loss" if every output is.
    """
    if not is_finite(images):
        return "input"
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not is_finite(output):
                found.append(name)

        return hook

    hooks = [
        module.register_forward_hook(watch(name or "network"))
        for name, module in network.named_modules()
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "loss"
