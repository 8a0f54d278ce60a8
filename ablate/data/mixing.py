"""Mixup and CutMix: each image with its neighbour in the shuffled batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.config import TrainConfig
from ablate.data.clock import Draws


@dataclass(frozen=True)
class Mixing:
    """Mixes each image with its neighbour, and their classes in the same proportion.

    Images 0 and 1, 2 and 3, ... of a batch are each other's partners: the batch is shuffled, so a
    partner is random, and it is on the same process. (An odd last image takes the one before it.)
    Where both are on, each image takes one of them with equal probability.

    Args:
        mixup: alpha; the share of the image itself is Beta(alpha, alpha). 0 is off.
        cutmix: alpha, likewise.
        probability: that an image is mixed.
        num_classes: of the targets.

    Source: mixup, Zhang et al., arXiv 1710.09412; CutMix, Yun et al., arXiv 1905.04899; chosen
    between as DeiT does (arXiv 2012.12877, Table 9). Departure: parameters are drawn for each
    image, not for each batch.
    """

    mixup: float
    cutmix: float
    probability: float
    num_classes: int

    @classmethod
    def of(cls, train: TrainConfig, num_classes: int) -> Mixing | None:
        """The mixing of a recipe, or None where it mixes nothing."""
        if not (train.mixup or train.cutmix) or not train.mix_probability:
            return None
        return cls(train.mixup, train.cutmix, train.mix_probability, num_classes)

    def __call__(self, images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: (N, C, H, W), normalised.
            labels: (N,), int64.
            draws: the batch's random numbers.

        Returns:
            The images, and float shares of the classes, (N, num_classes); each row sums to 1.
        """
        partner = neighbours(len(images), images.device)
        others = images.index_select(0, partner)
        weight = torch.zeros(len(images), 1, *images.shape[-2:], device=images.device)
        weight += self._mixup_weight(draws)
        if self.cutmix:
            box = self._cutmix_box(draws, *images.shape[-2:])
            weight = torch.where(self._takes_cutmix(draws), box, weight)
        mixed = draws.chance(self.probability)[:, None, None, None]
        weight = torch.where(mixed, weight, 1.0)
        own = weight.mean((1, 2, 3))[:, None]  # (N, 1): the share of the image itself
        classes = F.one_hot(labels, self.num_classes).to(torch.float32)
        return torch.lerp(others, images, weight), torch.lerp(classes[partner], classes, own)

    def _mixup_weight(self, draws: Draws) -> Tensor:
        share = draws.beta(self.mixup) if self.mixup else draws.uniform(1.0, 1.0)
        return share[:, None, None, None]

    def _takes_cutmix(self, draws: Draws) -> Tensor:
        return draws.chance(0.5 if self.mixup else 1.0)[:, None, None, None]

    def _cutmix_box(self, draws: Draws, height: int, width: int) -> Tensor:
        """1 where the image keeps its own pixels, 0 in the box of its partner: (N, 1, H, W)."""
        side = (1 - draws.beta(self.cutmix)).sqrt()
        centre = draws.uniform(columns=2)
        rows = _outside(centre[:, 0], side, height)[:, None, :, None]
        columns = _outside(centre[:, 1], side, width)[:, None, None, :]
        return (rows | columns).to(torch.float32)


def neighbours(count: int, device: torch.device) -> Tensor:
    """Each image's partner: 1, 0, 3, 2, ...; an odd last one takes the one before it."""
    partner = torch.arange(count, device=device) ^ 1
    return torch.where(partner < count, partner, max(count - 2, 0))


def _outside(centre: Tensor, side: Tensor, size: int) -> Tensor:
    """Which places lie outside the box, which is clipped at the border: (N, size)."""
    places = torch.arange(size, device=centre.device)
    middle = (centre * size).floor()
    half = (side * size / 2).floor()
    return (places < (middle - half)[:, None]) | (places >= (middle + half)[:, None])
