"""Orders that are the same on every machine and in every version of every library.

Splits and the embedded datasets enter a trial's key by their seed alone, so the order that a seed
stands for must never change. The streams of numpy and torch may change with their versions;
SplitMix64 is fixed by its definition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def hashed(seed: int, count: int) -> NDArray[np.uint64]:
    """The first `count` numbers of the SplitMix64 stream whose own seed is hashed from `seed`.

    Args:
        seed: any non-negative integer; neighbouring seeds give unrelated streams.
        count: how many 64-bit numbers.

    Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (2014), Fig. 17.
    """
    start = int(_mix(np.array([(seed * _GOLDEN + _GOLDEN) & _MASK], dtype=np.uint64))[0])
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)  # wraps, as meant
    return _mix(steps + np.uint64(start))


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A shuffled order of the images in which every prefix, and every interval, is stratified.

    Each class is shuffled by itself; its i-th of n images stands at (i + 1/2) / n of the way, so
    any interval of the order holds each class in proportion, to within one image.

    Args:
        labels: class of each image, (N,).
        seed: of the shuffle.

    Returns:
        Indices into `labels`, (N,).
    """
    keys = hashed(seed, len(labels))
    by_class = np.lexsort((keys, labels))  # class by class, shuffled inside
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    sorted_labels = labels[by_class]
    position = np.arange(len(labels)) - starts[sorted_labels]
    place = (2 * position + 1) / (2 * counts[sorted_labels])
    order: NDArray[np.int64] = by_class[np.lexsort((keys[by_class], place))]
    return order
