"""Augmentation of a whole batch at once, on its device, with parameters of its own for each image.

    crop -> flip -> RandAugment -> normalise -> erase -> mix

Everything up to RandAugment works on uint8 pixels, as the reference implementations do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.config import TrainConfig
from ablate.data.clock import Clock, Draws
from ablate.data.crops import pad_crop, random_flip, resized_crop
from ablate.data.erasing import random_erasing
from ablate.data.mixing import Mixing
from ablate.data.randaugment import randaugment

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, per channel of [0, 1], for every dataset: one rule, and what pretrained weights
expect."""

Batch = tuple[Tensor, Tensor]


def normalise(images: Tensor) -> Tensor:
    """(pixels / 255 - mean) / std, float32.

    Args:
        images: (N, 3, H, W), uint8.
    """
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(3, 1, 1) * 255
    return images.to(torch.float32).sub_(mean).div_(std)


@dataclass(frozen=True)
class Augment:
    """What a recipe does to a training batch.

    Args:
        train: the recipe.
        num_classes: of the dataset.
        cropped: the images were cropped at random when they were decoded.
    """

    train: TrainConfig
    num_classes: int
    cropped: bool = False

    def __call__(self, batch: Batch, draws: Draws, clock: Clock) -> Batch:
        """Augment and normalise.

        Args:
            batch: images (N, 3, H, W) uint8 and labels (N,) int64.
            draws: the random numbers of this batch.
            clock: seed and epoch, of the noise that random erasing puts in.

        Returns:
            Images, float32, and labels, or class shares (N, num_classes) where images are mixed.
        """
        images, labels = batch
        images = self._pixels(images, draws)
        normalised = normalise(images)
        if self.train.random_erasing > 0:
            random_erasing(normalised, self.train.random_erasing, draws, clock)
        mixing = Mixing.of(self.train, self.num_classes)
        return mixing(normalised, labels, draws) if mixing else (normalised, labels)

    @torch.inference_mode()  # a tenth less time a call; what leaves is converted by `normalise`
    def _pixels(self, images: Tensor, draws: Draws) -> Tensor:
        train = self.train
        if train.crop == "pad":
            images = pad_crop(images, train.crop_padding, draws)
        elif train.crop == "resized" and not self.cropped:
            images = resized_crop(images, draws)
        if train.hflip:
            images = random_flip(images, draws)
        if train.randaugment_ops:
            images = randaugment(
                images,
                train.randaugment_ops,
                train.randaugment_magnitude,
                draws,
                train.randaugment_std,
            )
        return images
