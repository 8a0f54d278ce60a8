"""What a dataset is before it is split: its name, classes and images; and the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ablate.config import DataConfig
from ablate.errors import DataError, unknown

Image = NDArray[np.uint8]
"""One decoded image: (H, W, 3)."""


class Images(Protocol):
    """The images of one split, decoded one at a time. Decoding processes get it pickled."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, (N,)."""

    def read(self, index: int) -> Image:
        """Decode one image.

        Raises:
            DataError: it does not decode, or has a wrong number of channels; names the file.
        """


@dataclass(frozen=True)
class ArrayImages:
    """Images that are one array already, (N, H, W, 3) or, grey, (N, H, W)."""

    array: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def read(self, index: int) -> Image:
        """One image; grey is repeated to three channels."""
        image = self.array[index]
        return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset as it was found.

    Args:
        name: its own name, which tells its pixels.
        class_names: in the order of the labels.
        train: the training images; `val` is held out of them.
        test: the images that the final number is measured on.
        fingerprint: SHA-256 of the content.
        named: `name` alone stands for the pixels (embedded, or checked against the published
            checksums), so the fingerprint is not needed in a trial's identity.
    """

    name: str
    class_names: tuple[str, ...]
    train: Images
    test: Images
    fingerprint: str
    named: bool = False


SOURCES: Mapping[str, str] = {
    "digits": "ablate.data.digits:digits",
    "digits-canvas": "ablate.data.digits:digits_canvas",
    "cifar10": "ablate.data.cifar:cifar10",
    "cifar100": "ablate.data.cifar:cifar100",
    "image_folder": "ablate.data.folder:image_folder",
    "parquet": "ablate.data.parquet:parquet",
}
"""Name in `data.name` -> "module:function" of type `DataConfig -> Source`."""


def names() -> list[str]:
    """The values that `data.name` takes."""
    return list(SOURCES)


def open_source(config: DataConfig) -> Source:
    """Find the images that a config names.

    A resolved config carries the data's own name and a fingerprint; its files are found by what
    lies in `data.root`, and must have that fingerprint.

    Raises:
        DataError: unknown name, missing or damaged files, another fingerprint than the config's.
    """
    source = _builder(config)(config)
    if config.fingerprint is not None and source.fingerprint != config.fingerprint:
        raise DataError(
            f"data.root={config.root} does not hold the images of this trial ({config.name}): "
            f"their fingerprint is {source.fingerprint[:16]}, but {config.fingerprint[:16]} "
            f"is expected; files were added, removed or changed"
        )
    return source if config.name in SOURCES else replace(source, name=config.name)


def _builder(config: DataConfig) -> Callable[[DataConfig], Source]:
    name = config.name
    if name not in SOURCES and config.fingerprint is not None:
        name = _found_in(config)
    if name not in SOURCES:
        raise DataError(
            unknown("dataset", name, SOURCES)
            + "; a folder of images of your own is `name: image_folder` with `root: FOLDER`"
        )
    module, function = SOURCES[name].split(":")
    builder: Callable[[DataConfig], Source] = getattr(import_module(module), function)
    return builder


def _found_in(config: DataConfig) -> str:
    """Which source reads the files of a resolved config."""
    if config.root is not None:
        root = Path(config.root).expanduser()
        for name, pattern in (
            ("cifar10", "cifar-10-batches-py"),
            ("cifar100", "cifar-100-python"),
        ):
            if config.name.startswith(name) and (root / pattern).is_dir():
                return name
        if not (root / "train").is_dir() and any(root.rglob("*.parquet")):
            return "parquet"
    return "image_folder"
