"""From the bytes of an image file to pixels, and from pixels of any size to a square."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image

from ablate.data.sources import Image
from ablate.errors import DataError

_THREE_CHANNELS = {"RGB", "P", "CMYK", "YCbCr", "LAB", "HSV"}
_ONE_CHANNEL = {"1", "L"}


def decode(file: BinaryIO | Path, where: str) -> Image:
    """Decode an image file to RGB.

    Grey images are repeated to three channels; palettes and CMYK are converted; an alpha channel
    is dropped where it is opaque everywhere, and is otherwise an error, since what lies behind
    the image is not ours to choose.

    Args:
        file: path or open binary file.
        where: how messages name the file.

    Returns:
        (H, W, 3), uint8.

    Raises:
        DataError: it does not decode, or has a wrong number of channels.
    """
    try:
        with PIL.Image.open(file) as image:
            image.load()
            return np.asarray(_rgb(image, where))
    except DataError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... on damage
        raise DataError(f"cannot decode the image {where}: {error}") from error


def _rgb(image: PIL.Image.Image, where: str) -> PIL.Image.Image:
    if image.mode in _THREE_CHANNELS | _ONE_CHANNEL and "transparency" not in image.info:
        return image.convert("RGB")
    if image.has_transparency_data and image.mode in {"RGBA", "LA", "P", "RGB", "L", "1"}:
        alpha = image.convert("RGBA").getchannel("A").getextrema()
        if alpha == (255, 255):
            return image.convert("RGB")
    raise DataError(
        f"the image {where} has {len(image.getbands())} channels of mode {image.mode}"
        f"{' with transparency' if image.has_transparency_data else ''}, "
        f"but images have 1 (grey) or 3 (colour) channels of 8 bits; convert it to RGB"
    )


def square(image: Image, size: int) -> Image:
    """Resize the shorter side to `size` (bilinear, antialiased) and crop the centre square.

    Args:
        image: (H, W, 3).
        size: side of the result, in pixels; an image that has it already is returned as it is.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    resized = PIL.Image.fromarray(image).resize(
        (size, size), PIL.Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(resized)
