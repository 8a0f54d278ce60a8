"""The embedded images: scikit-learn's real handwritten digits, plain and on a larger canvas.

They need no file and no network, and are the same on every machine: all arithmetic on them is on
integers, and all randomness comes from `ordering.hashed`.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998): 1,797 images of
8x8 pixels with 17 grey levels, distributed with scikit-learn.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ablate.config import DataConfig
from ablate.data.ordering import hashed, stratified_order
from ablate.data.sources import ArrayImages, Source

CANVAS = 32
TEST_IMAGES = 997
_TEST_SEED = 1797
_PLACE_SEED = 8


def digits(config: DataConfig) -> Source:
    """The plain digits, 8x8: 800 for train and val, 997 for test."""
    images, labels = _load()
    return _source("digits", np.minimum(images * 16, 255).astype(np.uint8), labels)


def digits_canvas(config: DataConfig) -> Source:
    """The digits, enlarged to 24x24, each at its own random place on a black 32x32 canvas.

    Train and test are those of `digits`. The place carries no information about the class, and
    800 images are too few to learn each digit at each of the 81 places by heart.
    """
    images, labels = _load()
    large = _enlarged(images)
    side = large.shape[1]
    places = hashed(_PLACE_SEED, len(large))
    room = np.uint64(CANVAS - side + 1)
    canvas = np.zeros((len(large), CANVAS, CANVAS), dtype=np.uint8)
    tops, lefts = places % room, (places >> np.uint64(32)) % room
    for image, digit, top, left in zip(canvas, large, tops.tolist(), lefts.tolist(), strict=True):
        image[top : top + side, left : left + side] = digit
    return _source("digits-canvas", canvas, labels)


def _load() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # a second to import: only where it is needed

    loaded = load_digits()
    return loaded.images.astype(np.int64), loaded.target.astype(np.int64)


def _enlarged(images: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Three times the size, bilinear, in whole numbers: (N, 24, 24) from (N, 8, 8) in 0..16.

    The middle pixel of three is its source; the outer ones take 2/3 of it and 1/3 of its
    neighbour. The weights are kept times 3, so that both axes together give 9 x 16 = 144 levels.
    """
    source = np.arange(8)
    weights = np.zeros((24, 8), dtype=np.int64)
    for offset, neighbour in ((0, -1), (1, 0), (2, 1)):
        weights[3 * source + offset, source] += 2
        weights[3 * source + offset, np.clip(source + neighbour, 0, 7)] += 1
    return (weights @ images @ weights.T * 255 // 144).astype(np.uint8)


def _source(name: str, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Source:
    order = stratified_order(labels, _TEST_SEED)
    test, train = np.sort(order[:TEST_IMAGES]), np.sort(order[TEST_IMAGES:])
    return Source(
        name=name,
        class_names=tuple("0123456789"),
        train=ArrayImages(images[train], labels[train]),
        test=ArrayImages(images[test], labels[test]),
        fingerprint=hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest(),
        named=True,
    )
