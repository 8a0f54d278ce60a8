"""Large images: decoded, cropped and resized in every epoch, by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from ablate.data.clock import Clock
from ablate.data.loaders import Batch
from ablate.data.plans import Planned
from ablate.data.sources import Images
from ablate.errors import DataError

MOST_WORKERS = 8

_Request = tuple[int, int, int]  # image, epoch, place in the epoch
_Item = tuple[Tensor, int] | DataError


def train_transform(size: int) -> v2.Transform:
    """RandomResizedCrop, bicubic; flips and colours follow on the device."""
    return v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC)


def eval_transform(size: int, crop_ratio: float) -> v2.Transform:
    """Resize the shorter side to size / crop_ratio, bicubic, and crop the centre."""
    resize = v2.Resize(round(size / crop_ratio), interpolation=InterpolationMode.BICUBIC)
    return v2.Compose([resize, v2.CenterCrop(size)])


class _Decoded(Dataset[_Item]):
    """Decodes and transforms one image; its randomness is that of its place in its epoch."""

    def __init__(self, images: Images, transform: v2.Transform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __getitem__(self, request: _Request) -> _Item:
        index, epoch, place = request
        try:
            image = PIL.Image.fromarray(self.images.read(index))
        except DataError as error:
            return error  # raised by the reader: a worker would bury it in its traceback
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(Clock(self.seed, epoch).rng("decode", place).integers(2**63)))
            pixels = np.array(self.transform(image))
        return torch.from_numpy(pixels).permute(2, 0, 1), int(self.images.labels[index])


class _Feed:
    """The batch sampler of a DataLoader that lives longer than an epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches: Iterable[Planned] = ()

    def __iter__(self) -> Iterator[list[_Request]]:
        for batch in self.batches:
            yield [
                (index, self.epoch, batch.place + offset)
                for offset, index in enumerate(batch.indices.tolist())
            ]


class DecodingFetcher:
    """Gets batches of large images from worker processes, which are kept between epochs.

    Args:
        images: to decode.
        transform: PIL image -> PIL image of one size.
        clock: seed and epoch of random transforms.
        workers: processes; None is one a core, at most 8; 0 decodes in this process.
    """

    def __init__(
        self, images: Images, transform: v2.Transform, clock: Clock, workers: int | None
    ) -> None:
        self.images = images
        self.transform = transform
        self.clock = clock
        self.workers = min(os.cpu_count() or 1, MOST_WORKERS) if workers is None else workers
        self._feed = _Feed()

    @cached_property
    def _loader(self) -> DataLoader[_Item]:
        return DataLoader(
            _Decoded(self.images, self.transform, self.clock.seed),
            batch_sampler=self._feed,
            collate_fn=_collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each pass takes a number from the global one
        )

    def fetch(self, batches: Iterable[Planned]) -> Iterator[Batch]:
        """Decode in the order asked.

        Raises:
            DataError: an image does not decode; names the file.
        """
        self._feed.batches, self._feed.epoch = batches, self.clock.epoch
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


def _collate(items: list[_Item]) -> Batch | DataError:
    decoded = []
    for item in items:
        if isinstance(item, DataError):
            return item
        decoded.append(item)
    images, labels = zip(*decoded, strict=True)
    return torch.stack(images), torch.tensor(labels)
