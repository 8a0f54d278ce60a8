"""The LightningModule of image classification: a network, its recipe, its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ablate.config import TrainConfig, TrialConfig
from ablate.errors import ConfigError, unknown
from ablate.options import OPTIONS
from ablate.training.divergence import first_nonfinite_layer
from ablate.training.outcomes import Diverged
from ablate.training.recipe import build_optimizer, build_schedule
from ablate.training.tally import Tally, score


class ImageClassifier(pl.LightningModule):
    """Trains `network` by `recipe` on batches of (images, target), in any Trainer.

    Images are floating, normalised, (N, C, H, W); a target is a class index (N,) or, under mixup
    and CutMix, class weights (N, classes). Logged once an epoch: `train_loss_running` (the mean
    loss of the steps, smoothing, mixing and drop-path included), and in evaluation `val_loss`
    (cross-entropy without smoothing), `val_top1` and `val_top5` (percent), likewise `test_*`. A
    second validation loader is logged as `val_1_*`, unless `eval_names` says otherwise.

    What belongs to the Trainer is taken from the Trainer: epochs or steps, precision,
    accumulation, clipping, devices. `ablate.training.fit` sets them from the recipe; in your own
    Trainer you set them. The schedule spans `trainer.estimated_stepping_batches`. With
    `ema_decay` above 0 the averaged weights are evaluated, and are the module's when fit ends.

    Weight decay acts on none of: norms, biases, other one-dimensional parameters, class tokens,
    position tables, relative-bias tables (`ablate.training.recipe.decayed`).

    Raises (in a step):
        Diverged: the loss is NaN or infinite.
    """

    def __init__(self, network: nn.Module, recipe: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.eval_names: tuple[str, ...] = ("val",)
        self.running = Tally("loss")
        self.tallies: dict[str, Tally] = {}
        self.measured: dict[str, float] = {}
        self.predictions: list[Tensor] = []
        self.last_lr = 0.0
        if recipe.channels_last:
            network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, target = batch
        logits = self(images)
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), target, label_smoothing=smoothing)
        self._check(loss, images)
        self.running.add(len(images), loss.detach() * len(images))
        self.last_lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        return loss

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._evaluate(self._eval_name(dataloader_idx), batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self._evaluate("test", batch)
        predicted = logits.argmax(1)
        confidence = logits.float().softmax(1).gather(1, predicted[:, None])[:, 0]
        self.predictions.append(torch.stack([batch[1].double(), predicted.double(), confidence]))

    def on_train_epoch_start(self) -> None:
        self.running.reset()

    def on_train_epoch_end(self) -> None:
        self.measured["train_loss_running"] = self.running.means(self.trainer.strategy)["loss"]
        self.log("train_loss_running", self.measured["train_loss_running"], sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        self.tallies.clear()

    def on_test_epoch_start(self) -> None:
        self.tallies.clear()
        self.predictions.clear()

    def on_validation_epoch_end(self) -> None:
        self._log_tallies()

    def on_test_epoch_end(self) -> None:
        self._log_tallies()

    def configure_optimizers(self) -> Any:
        # The loader is asked for its length first: with max_steps alone Lightning would not.
        self.trainer.fit_loop.setup_data()
        total = self.trainer.estimated_stepping_batches
        if self.recipe.max_steps is not None:
            total = min(total, self.recipe.max_steps)
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        fused = not (scaled and self.trainer.gradient_clip_val)
        optimizer = build_optimizer(self.network, self.recipe, fused=fused)
        batches = self.trainer.num_training_batches
        steps_per_epoch = max(1.0, batches / self.trainer.accumulate_grad_batches)
        schedule = build_schedule(optimizer, self.recipe, total, steps_per_epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_callbacks(self) -> list[Callback]:
        if not self.recipe.ema_decay:
            return []
        average = get_ema_multi_avg_fn(self.recipe.ema_decay)  # type: ignore[no-untyped-call]
        return [WeightAveraging(multi_avg_fn=average)]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val is None:
            return
        # Not by `self.clip_gradients`: under autocast it refuses a fused optimizer, which is used
        # here only where no gradient is scaled.
        root, plugin = self.trainer.strategy.model, self.trainer.precision_plugin
        if gradient_clip_algorithm == "value":
            plugin.clip_grad_by_value(optimizer, gradient_clip_val)
        elif isinstance(root, FullyShardedDataParallel):
            # Each process holds a share of the gradients: only the root knows their norm.
            root.clip_grad_norm_(gradient_clip_val)
        else:
            plugin.clip_grad_by_norm(optimizer, gradient_clip_val)

    def _eval_name(self, index: int) -> str:
        if index < len(self.eval_names):
            return self.eval_names[index]
        return f"{self.eval_names[0]}_{index}"

    def _evaluate(self, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits: Tensor = self(images)
        sums = score(logits, labels)
        self._check(sums[0], images)
        if name not in self.tallies:
            self.tallies[name] = Tally("loss", "top1", "top5")
        self.tallies[name].add(len(images), *sums)
        return logits

    def _log_tallies(self) -> None:
        for name, tally in self.tallies.items():
            for metric, value in tally.means(self.trainer.strategy).items():
                self.measured[f"{name}_{metric}"] = value
                self.log(f"{name}_{metric}", value, sync_dist=True)

    def _check(self, loss: Tensor, images: Tensor) -> None:
        # Before backward, so that the weights are still those of the step at fault.
        if not torch.isfinite(loss):
            raise Diverged(self.trainer.global_step, first_nonfinite_layer(self.network, images))


def create_module(
    trial_or_model: TrialConfig | str | nn.Module,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    **settings: Any,
) -> ImageClassifier:
    """A LightningModule that trains a network, for anyone's Trainer and DataLoader.

    >>> module = create_module("coatnet-micro", num_classes=10, image_size=32, lr=1e-3)

    Args:
        trial_or_model: a trial; a preset, arch string or `timm:`/`torchvision:` name; or a network.
        num_classes: classes (default: of the trial's dataset; 1000 for a name).
        image_size: side of the input, in pixels (default: of the trial; 224 for a name).
        settings: the recipe, fields of `TrainConfig` (such as lr, label_smoothing), and, for a
            name, options of the network (such as cpe=False).

    Raises:
        ConfigError: a setting that neither the recipe nor the grammar knows, or a wrong value.
    """
    if isinstance(trial_or_model, TrialConfig):
        return _module_of_trial(trial_or_model, num_classes, image_size, settings)
    recipe = {name: value for name, value in settings.items() if name in TrainConfig.model_fields}
    options = {name: value for name, value in settings.items() if name in OPTIONS}
    for name in settings:
        if name not in recipe and name not in options:
            raise ConfigError(unknown("setting", name, [*TrainConfig.model_fields, *OPTIONS]))
    if isinstance(trial_or_model, nn.Module):
        if options or num_classes is not None or image_size is not None:
            raise ConfigError("a network that is built already takes no options, classes or size")
        return ImageClassifier(trial_or_model, checked_recipe(recipe))
    from ablate.models import create_model

    network = create_model(
        trial_or_model,
        num_classes=1000 if num_classes is None else num_classes,
        image_size=224 if image_size is None else image_size,
        **options,
    )
    return ImageClassifier(network, checked_recipe(recipe))


def _module_of_trial(
    trial: TrialConfig,
    num_classes: int | None,
    image_size: int | None,
    settings: Mapping[str, Any],
) -> ImageClassifier:
    from ablate.models import create_model

    if num_classes is None:
        from ablate.data import resolve

        num_classes = resolve(trial.data)[1].num_classes
    size = trial.data.image_size if image_size is None else image_size
    network = create_model(trial.arch, num_classes=num_classes, image_size=size)
    return ImageClassifier(network, checked_recipe({**trial.train.model_dump(), **settings}))


def checked_recipe(settings: Mapping[str, Any]) -> TrainConfig:
    """A `TrainConfig` of these settings; `max_steps` alone takes the place of `epochs`.

    Raises:
        ConfigError: an unknown setting or a wrong value, the first of them.
    """
    if settings.get("max_steps") is not None and "epochs" not in settings:
        settings = {**settings, "epochs": None}
    try:
        return TrainConfig(**settings)
    except ValidationError as error:
        raise ConfigError(_first_mistake(error)) from None


def _first_mistake(error: ValidationError) -> str:
    mistake = error.errors()[0]
    name = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "extra_forbidden":
        return unknown("recipe setting", name, TrainConfig.model_fields)
    reason = mistake["msg"].removeprefix("Value error, ")
    return f"{name}={mistake['input']!r}: {reason}" if name else reason
