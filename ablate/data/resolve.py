"""From a config to a checked dataset with its own name: all that can be said without training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ablate.config import DataConfig
from ablate.data.arrays import fits, pixels
from ablate.data.cache import cache_folder
from ablate.data.sources import Images, Source, open_source
from ablate.data.splits import split
from ablate.errors import DataError


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The facts of a dataset under one config.

    Args:
        name: its own name, which tells its pixels.
        class_names: in the order of the labels.
        train_images: after `val_fraction` and `train_fraction`.
        fingerprint: SHA-256 of the content.
        image_shape: (C, H, W) that the network sees.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    train_images: int
    val_images: int
    test_images: int
    fingerprint: str
    image_shape: tuple[int, int, int]


def resolve(config: DataConfig) -> tuple[DataConfig, DatasetInfo]:
    """Find the images, check classes and counts, and give the data its own name.

    Downloads where `data.download` says so. Hashes the files once; later calls compare names,
    sizes and times only. Needs no torch.

    Args:
        config: as the study says it, or resolved already.

    Returns:
        The config with its own name, and with a fingerprint where the name alone does not tell
        the pixels; and the facts.

    Raises:
        DataError: what is missing or wrong, and where.
    """
    source = open_source(config)
    return _resolved(config, source), describe(config, source)


def prepare(config: DataConfig) -> tuple[DataConfig, DatasetInfo]:
    """`resolve`, and decode small images into the cache, so that trials start at once.

    Raises:
        DataError: as `resolve`, and where a small image does not decode; names the file.
    """
    source = open_source(config)
    info = describe(config, source)
    if fits(source, config.image_size):
        for part in ("train", "test"):
            pixels(source, part, config.image_size, cache_folder(config))
    return _resolved(config, source), info


def _resolved(config: DataConfig, source: Source) -> DataConfig:
    fingerprint = None if source.named else source.fingerprint
    return config.model_copy(update={"name": source.name, "fingerprint": fingerprint})


def describe(config: DataConfig, source: Source) -> DatasetInfo:
    """The facts of an opened source under a config.

    Raises:
        DataError: a split without images, or a class without a training or test image.
    """
    for name, images in (("train", source.train), ("test", source.test)):
        _check_classes(name, images, source)
    splits = split(source.train.labels, config, source.class_names)
    return DatasetInfo(
        name=source.name,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        train_images=len(splits.train),
        val_images=len(splits.val),
        test_images=len(source.test.labels),
        fingerprint=source.fingerprint,
        image_shape=(3, config.image_size, config.image_size),
    )


def _check_classes(split_name: str, images: Images, source: Source) -> None:
    counts = np.bincount(images.labels, minlength=len(source.class_names))
    if not len(images.labels):
        raise DataError(f"{source.name}: the split {split_name} has no images")
    empty = [source.class_names[label] for label in np.flatnonzero(counts == 0).tolist()]
    if empty:
        raise DataError(
            f"{source.name}: {len(empty)} of {len(source.class_names)} classes have no image in "
            f"{split_name}, for example {empty[0]!r}"
        )
