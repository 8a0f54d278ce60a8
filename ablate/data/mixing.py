"""Mixup and CutMix: each image with its neighbour in the shuffled batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
        height, width = images.shape[-2:]
        rows, columns = self._taken(draws, height, width)
        own = 1 - (rows.mean(1) * columns.mean(1))[:, None]  # (N, 1): the share of the image itself
        weight = (rows[:, :, None] * columns[:, None])[:, None]  # (N, 1, H, W): of the partner
        partner = neighbours(len(images), images.device)
        classes = labels[:, None] == torch.arange(self.num_classes, device=labels.device)
        classes = classes.to(torch.float32)
        return (
            torch.lerp(images, images.index_select(0, partner), weight),
            torch.lerp(classes[partner], classes, own),
        )

    def _taken(self, draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
        """What is taken of the partner, as weights of rows (N, H) and of columns (N, W).

        A pixel's weight is their product: both are 1 in CutMix's box and 0 outside of it; for
        mixup, rows have the partner's share and columns 1; where nothing is mixed, rows have 0.
        """
        share = 1 - (draws.beta(self.mixup) if self.mixup else draws.uniform(1.0, 1.0))
        rows, columns = share[:, None].expand(-1, height), share.new_ones(len(share), width)
        if self.cutmix:
            side = (1 - draws.beta(self.cutmix)).sqrt()
            centre = draws.uniform(columns=2)
            boxed = draws.chance(0.5 if self.mixup else 1.0)[:, None]
            rows = torch.where(boxed, _inside(centre[:, 0], side, height), rows)
            columns = torch.where(boxed, _inside(centre[:, 1], side, width), columns)
        return rows * draws.chance(self.probability)[:, None], columns


def neighbours(count: int, device: torch.device) -> Tensor:
    """Each image's partner: 1, 0, 3, 2, ...; an odd last one takes the one before it."""
    partner = torch.arange(count, device=device) ^ 1
    return torch.where(partner < count, partner, max(count - 2, 0))


def _inside(centre: Tensor, side: Tensor, size: int) -> Tensor:
    """1 for the places inside the box, which is clipped at the border, else 0: (N, size)."""
    places = torch.arange(size, device=centre.device)
    middle = (centre * size).floor()[:, None]
    half = (side * size / 2).floor()[:, None]
    return ((places >= middle - half) & (places < middle + half)).to(torch.float32)
