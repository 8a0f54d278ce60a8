"""The one door to models: a preset, an arch string or a comparison row by name."""

from __future__ import annotations

from torch import nn

from ablate.errors import ConfigError, ModelError
from ablate.grammar import canonical, override, resolve
from ablate.models.comparison import create_comparison, is_comparison
from ablate.models.network import Network
from ablate.presets import expand


def create_model(
    model: str,
    *,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    features_only: bool = False,
    **options: object,
) -> nn.Module:
    """A network with freshly initialised weights.

    Args:
        model: a preset (`coat-lite-tiny`), a preset with options (`coat-tiny@cpe=false`), an
            arch string, or `torchvision:NAME` / `timm:NAME`.
        num_classes: width of the logits.
        image_size: input size in pixels, one number or (height, width).
        in_chans: channels of the input.
        features_only: return the maps of all stages, as a detection backbone needs them.
        options: changes of the arch as in a study: any option of the grammar, `layout`,
            `depths`, `widths`.

    Returns:
        A module from (N, in_chans, H, W) to logits (N, num_classes), or to a list of maps.

    Raises:
        ModelError: unknown preset or option, or an image too small for the strides.
        GrammarError: an arch string that does not parse or whose parts do not fit.

    >>> net = create_model("coat-lite-micro", num_classes=10, image_size=32, cpe=False)
    """
    if num_classes < 1 or in_chans < 1:
        raise ConfigError(
            f"num_classes and in_chans must be at least 1, but got {num_classes} and {in_chans}"
        )
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"image_size is one number or (height, width), but got {image_size}")
    if is_comparison(model):
        if options:
            raise ModelError(
                f"{model} is no arch of ours: it takes no options ({', '.join(options)})"
            )
        return create_comparison(
            model, num_classes=num_classes, image_size=size, in_chans=in_chans,
            features_only=features_only,
        )  # fmt: skip
    arch = override(expand(model), **options)
    network = Network(
        resolve(arch), num_classes=num_classes, image_size=size, in_chans=in_chans,
        features_only=features_only,
    )  # fmt: skip
    network.arch = canonical(arch)
    return network
