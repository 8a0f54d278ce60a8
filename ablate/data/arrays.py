"""The fast path for small images: a whole split as one memory-mapped uint8 array.

Decoded once per content and size, into the cache folder; every trial on the machine maps the same
file, and the operating system keeps one copy of it in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ablate.data.cache import built_once
from ablate.data.decode import square
from ablate.data.sources import Image, Images, Source

LARGEST_SIZE = 96
LARGEST_BYTES = 4 * 2**30
"""Beyond either of them images are decoded in every epoch, by worker processes."""

LARGE_SIDE = 192
"""From about this side in pixels, as the files have it, threads decode faster than one."""
_CHUNK = 256


def fits(source: Source, size: int) -> bool:
    """Whether a dataset takes the fast path: `size` <= 96 pixels and <= 4 GiB when decoded."""
    images = len(source.train.labels) + len(source.test.labels)
    return size <= LARGEST_SIZE and images * 3 * size * size <= LARGEST_BYTES


def pixels(
    source: Source, split: Literal["train", "test"], size: int, folder: Path
) -> NDArray[np.uint8]:
    """All images of a split at one size, as a read-only memory map.

    Images of another size are resized (shorter side, bilinear with antialias) and centre-cropped.

    Args:
        source: the dataset.
        split: which of its parts; `val` is cut out of "train" later.
        size: side in pixels.
        folder: the cache folder.

    Returns:
        (N, 3, size, size), uint8.

    Raises:
        DataError: an image does not decode; names the file.
    """
    images = source.train if split == "train" else source.test
    shape = (len(images.labels), 3, size, size)
    path = folder / "arrays" / f"{source.name}-{source.fingerprint[:16]}-{split}-{size}.npy"
    built_once(path, lambda file: _write(file, images, shape))
    try:
        return _mapped(path, shape)
    except ValueError:  # cut short after it was built, by a disk that was cleaned or repaired
        path.unlink(missing_ok=True)
        built_once(path, lambda file: _write(file, images, shape))
        return _mapped(path, shape)


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    if array.shape != shape or array.dtype != np.uint8:
        raise ValueError(f"{path} holds {array.shape} {array.dtype}, not {shape} uint8")
    return array


def _write(file: BinaryIO, images: Images, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for image in _decoded(images, shape[-1]):
        file.write(np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes())


def _decoded(images: Images, size: int) -> Iterator[Image]:
    """All images in order; large files are decoded by several threads.

    Decoders release the interpreter's lock, but around a small image it costs more than they take.
    """

    def decoded(index: int) -> Image:
        return square(images.read(index), size)

    count = len(images.labels)
    if not count:
        return
    first = images.read(0)
    yield square(first, size)
    if first.size < 3 * LARGE_SIDE**2:
        yield from map(decoded, range(1, count))
        return
    with ThreadPoolExecutor(max_workers=min(8, cpu_count() or 1)) as pool:
        for start in range(1, count, _CHUNK):  # in chunks, so that few images wait in memory
            yield from pool.map(decoded, range(start, min(start + _CHUNK, count)))
