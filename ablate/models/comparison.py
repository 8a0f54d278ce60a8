"""Comparison rows: classifiers of torchvision and timm beside the archs of the grammar."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ablate.errors import ModelError

_BUILD_ERRORS = (AssertionError, KeyError, RuntimeError, TypeError, ValueError)
"""What torchvision and timm raise for a size or an option that a network cannot take."""


def is_comparison(model: str) -> bool:
    """Whether a model's name is `torchvision:NAME` or `timm:NAME`."""
    return model.partition(":")[0] in _BUILDERS and ":" in model


def create_comparison(
    model: str,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    in_chans: int = 3,
    features_only: bool = False,
) -> nn.Module:
    """A classifier of torchvision or timm, with fresh weights.

    Args:
        model: `torchvision:NAME` or `timm:NAME`.
        num_classes: width of the logits.
        image_size: (H, W) in pixels, handed on where the network is made for one size.
        in_chans: channels of the input.
        features_only: the maps of several scales instead of logits (timm only).

    Returns:
        A module from (N, in_chans, H, W) to logits (N, num_classes).

    Raises:
        ModelError: an unknown name, timm not installed, or a size that the network cannot take.
    """
    library, _, name = model.partition(":")
    try:
        network = _BUILDERS[library](name, num_classes, image_size, in_chans, features_only)
    except _BUILD_ERRORS as error:
        raise _refused(model, image_size, error) from error
    _check_size(network, model, image_size, in_chans)
    return network


def _refused(model: str, image_size: tuple[int, int], error: Exception) -> ModelError:
    height, width = image_size
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(f"{model} cannot be built for images of {height}x{width}: {reason}")


def _check_size(network: nn.Module, model: str, image_size: tuple[int, int], in_chans: int) -> None:
    """Run the network on shapes alone, so that a bad size is told before anything trains."""
    # Each tensor under one name only: one that is swapped under two is not given back.
    named = [*network.named_parameters(), *network.named_buffers()]
    state = {name: value.to("meta") for name, value in named}
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), torch.device("meta"):
            shape_only = torch.empty(1, in_chans, *image_size)
            functional_call(network, state, shape_only)
    except NotImplementedError:
        return  # reads values, which shapes alone do not have
    except _BUILD_ERRORS as error:
        raise _refused(model, image_size, error) from error
    finally:
        network.train(training)


def _unknown(library: str, name: str, choices: Iterable[str]) -> ModelError:
    close = difflib.get_close_matches(name, list(choices), n=5, cutoff=0.4)
    hint = f"the nearest are {', '.join(close)}" if close else "no name is like it"
    return ModelError(f"unknown {library} model {name!r}: {hint}")


# -- torchvision ---------------------------------------------------------------------------------


def _torchvision(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    in_chans: int,
    features_only: bool,
) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise _unknown("torchvision", name, names)
    if features_only:
        raise ModelError(
            f"torchvision:{name} has no features_only form; use one of our archs or timm:NAME"
        )
    options = _torchvision_options(name, image_size)

    def build() -> nn.Module:
        network: nn.Module = models.get_model(
            name, weights=None, num_classes=num_classes, **options
        )
        if in_chans != 3:
            _replace_first_conv(network, in_chans)
        return network

    return _build_anywhere(build)


def _torchvision_options(name: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """What a few networks need besides the number of classes."""
    if name.startswith("vit_"):
        if image_size[0] != image_size[1]:
            raise ModelError(
                f"torchvision:{name} takes square images, but got {image_size[0]}x{image_size[1]}"
            )
        return {"image_size": image_size[0]}
    if name.startswith("maxvit_"):
        return {"input_size": image_size}
    if name in ("inception_v3", "googlenet"):
        return {"aux_logits": False, "init_weights": True}  # one output, as in all other rows
    return {}


def _build_anywhere(build: Callable[[], nn.Module]) -> nn.Module:
    """Build under the current default device, or on the CPU where the meta device is refused."""
    try:
        return build()
    except NotImplementedError:  # RegNet computes its widths with tensors
        device = torch.get_default_device()
        with torch.device("cpu"):
            return build().to(device)


def _replace_first_conv(network: nn.Module, in_chans: int) -> None:
    """Another number of input channels; the new convolution has torch's own initialisation."""
    name, conv = next(
        (name, part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d)
    )
    fresh = nn.Conv2d(
        in_chans, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )  # fmt: skip
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, fresh)


# -- timm ----------------------------------------------------------------------------------------


def _import_timm(name: str) -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(
            f"timm:{name} needs timm, which is not installed: pip install 'ablate-vision[timm]'"
        ) from error


def _timm(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    in_chans: int,
    features_only: bool,
) -> nn.Module:
    timm = _import_timm(name)
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    options: dict[str, Any] = {"in_chans": in_chans}
    options |= {"features_only": True} if features_only else {"num_classes": num_classes}

    def build() -> nn.Module:
        try:  # attention networks are made for one size, convolutional ones know no such option
            sized: nn.Module = timm.create_model(name, img_size=image_size, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, **options)  # type: ignore[no-any-return]
        return sized

    return _build_anywhere(build)


_Builder = Callable[[str, int, tuple[int, int], int, bool], nn.Module]
_BUILDERS: dict[str, _Builder] = {"torchvision": _torchvision, "timm": _timm}
