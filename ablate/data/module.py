"""The DataModule: a config's images, split, batched and augmented, for anyone's Trainer."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import pytorch_lightning as pl
import torch

from ablate.config import DataConfig, TrainConfig
from ablate.data.arrays import fits, pixels
from ablate.data.augment import Augment, Batch, normalise
from ablate.data.cache import cache_folder
from ablate.data.clock import Clock, Draws, Share
from ablate.data.loaders import ArrayFetcher, Fetcher, Loader
from ablate.data.plans import EvalPlan, Indices, TrainPlan
from ablate.data.resolve import DatasetInfo, describe
from ablate.data.sources import Images, Source, open_source
from ablate.data.splits import Splits, split
from ablate.data.workers import DecodingFetcher, eval_transform, train_transform
from ablate.errors import ConfigError, DataError

SMALL_EVAL_BATCH = 256
"""Least images of an evaluation batch on the fast path: results do not depend on it, speed does."""

Part = Literal["train", "test"]


class DataModule(pl.LightningDataModule):
    """Loaders of uint8 batches, and their augmentation on the device.

    Loaders yield (images (N, 3, H, W) uint8, labels (N,) int64). In a Trainer
    `on_after_batch_transfer` augments and normalises them; without one, call `transform`.

    `batch_size` is global: with several processes each gets its share of the same batches, and
    with `accumulate` a batch is a micro-batch of batch_size / accumulate images. Use Trainer's
    `accumulate_grad_batches=train.accumulate`.

    Args:
        data: which images; resolved or not.
        train: the recipe; its crop, flip, mixing, ... are done here.
        seed: of shuffling and augmentation.
    """

    def __init__(self, data: DataConfig, train: TrainConfig, seed: int) -> None:
        super().__init__()
        self.data = data
        self.recipe = train
        self.clock = Clock(seed)

    @cached_property
    def source(self) -> Source:
        """The images as they were found; opened at the first use."""
        return open_source(self.data)

    @cached_property
    def info(self) -> DatasetInfo:
        """Facts of the dataset, checked."""
        return describe(self.data, self.source)

    @property
    def num_classes(self) -> int:
        """Classes of the dataset."""
        return self.info.num_classes

    @cached_property
    def _splits(self) -> Splits:
        return split(self.source.train.labels, self.data, self.source.class_names)

    @property
    def _decoded_once(self) -> bool:
        return fits(self.source, self.data.image_size)

    @property
    def share(self) -> Share:
        """This process's share of a batch: of the Trainer, else of torch.distributed."""
        if self.trainer is not None:
            return Share(self.trainer.global_rank, self.trainer.world_size)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return Share()

    def prepare_data(self) -> None:
        """Check the dataset, and decode small images into the cache. Called on one process."""
        assert self.info  # raises DataError where something is wrong
        if self._decoded_once:
            for part in ("train", "test"):
                self._pixels(part)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next training iteration is, counted from 0; Trainers do so."""
        self.clock.epoch = epoch

    def train_dataloader(self) -> Loader:
        """The training split, shuffled anew in every epoch; the last partial batch is dropped."""
        plan = TrainPlan(
            indices=self._splits.train,
            step_size=self.recipe.batch_size,
            clock=self.clock,
            share=self.share,
            accumulate=self.recipe.accumulate,
            repeats=self.recipe.repeated_augmentation,
        )
        self._check_step(plan)
        return Loader(plan, self._fetcher("train", augmented=True), self.clock)

    def _check_step(self, plan: TrainPlan) -> None:
        world, recipe = self.share.world, self.recipe
        if recipe.batch_size % (world * recipe.accumulate):
            raise ConfigError(
                f"train.batch_size must be divisible by processes x accumulate, but got "
                f"batch_size={recipe.batch_size}, processes={world}, "
                f"accumulate={recipe.accumulate}"
            )
        if not plan.batch_size:
            raise DataError(
                f"{self.info.name} has {len(plan.indices)} training images, fewer than "
                f"processes x accumulate = {world} x {recipe.accumulate}"
            )

    def train_eval_dataloader(self) -> Loader:
        """The fixed subset of the training split, without augmentation."""
        return self._eval_loader("train", self._splits.train_eval)

    def val_dataloader(self) -> Loader:
        """The images held out of train; of length 0 where val_fraction is 0."""
        return self._eval_loader("train", self._splits.val)

    def test_dataloader(self) -> Loader:
        """The test split, in order."""
        return self._eval_loader("test", np.arange(len(self.source.test.labels)))

    def at_size(self, image_size: int) -> DataModule:
        """The same images and splits at another size, to evaluate or fine-tune at."""
        data = self.data.model_copy(update={"image_size": image_size})
        return DataModule(data, self.recipe, self.clock.seed)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment a training batch, or normalise another, on the device."""
        return self.transform(batch, train=self.trainer is not None and self.trainer.training)

    def transform(self, batch: Batch, *, train: bool) -> Batch:
        """What the network is fed.

        Training batches must come in the order of `train_dataloader`: the n-th call after the
        start of an iteration draws the random numbers of the epoch's n-th batch.

        Args:
            batch: as a loader yields it, on any device.
            train: augment.

        Returns:
            Images, float32, normalised; and labels (N,), or shares of the classes
            (N, num_classes) where the recipe mixes images.

        Raises:
            DataError: the images are not (N, 3, H, W) uint8.
        """
        images, labels = batch
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise DataError(
                f"images are (N, 3, H, W) uint8, but got {tuple(images.shape)} {images.dtype}"
            )
        if not train:
            return normalise(images), labels
        step, self.clock.step = self.clock.step, self.clock.step + 1
        draws = Draws(self.clock.rng("augment", step), len(images), self.share, images.device)
        return self._augment(batch, draws, self.clock)

    @cached_property
    def _augment(self) -> Augment:
        return Augment(self.recipe, self.num_classes, cropped=not self._decoded_once)

    def _pixels(self, part: Part) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return pixels(self.source, part, self.data.image_size, cache_folder(self.data))

    def _images(self, part: Part) -> Images:
        return self.source.train if part == "train" else self.source.test

    def _fetcher(self, part: Part, augmented: bool = False) -> Fetcher:
        images, size = self._images(part), self.data.image_size
        if self._decoded_once:
            return ArrayFetcher(self._pixels(part), images.labels)
        random = augmented and self.recipe.crop == "resized"
        transform = (
            train_transform(size) if random else eval_transform(size, self.recipe.eval_crop_ratio)
        )
        return DecodingFetcher(images, transform, self.clock, self.data.workers)

    def _eval_loader(self, part: Part, indices: Indices) -> Loader:
        size = max(self.recipe.batch_size // self.recipe.accumulate, self.share.world)
        if self._decoded_once:
            size = max(size, SMALL_EVAL_BATCH)
        return Loader(EvalPlan(indices, size, self.share), self._fetcher(part))
