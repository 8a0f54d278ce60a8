"""What a trial is: its data, its recipe, its seed, and the key that all machines agree on.

The key hashes identity only: what changes the numbers. Execution (where the data lies, workers,
devices, memory format, compilation, logging) never enters it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

KEY_VERSION = 1

LEGACY: Mapping[str, Any] = {"train.randaugment_std": 0.0, "train.warmup_lr": None}
"""Fields added after key version 1, as "train.name": the value that leaves old keys unchanged."""

_EXECUTION: JsonDict = {"exclude_from_key": True}
Fraction = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    def identity(self) -> dict[str, Any]:
        """The fields that enter the key, as plain JSON values."""
        fields = type(self).model_fields
        dumped = self.model_dump(mode="json")
        return {
            name: value
            for name, value in dumped.items()
            if (fields[name].json_schema_extra or {}) != _EXECUTION
        }


def _execution(default: Any, description: str) -> Any:
    return Field(default=default, description=description, json_schema_extra=_EXECUTION)


class DataConfig(_Config):
    """Which images, and how they are split.

    `name` is one of the datasets of `ablate.data`; resolving a folder tree replaces it by the
    tree's own name and fills `fingerprint`, which then is the identity of the pixels.
    """

    name: str = Field(default="digits-canvas", description="dataset")
    image_size: Count = Field(default=32, description="side of the square input, in pixels")
    train_fraction: Fraction = Field(
        default=1.0, description="share of the training split, nested and stratified"
    )
    val_fraction: Share = Field(
        default=0.1, lt=1, description="share of the training split held out as `val`"
    )
    split_seed: Natural = Field(default=0, description="seed of the splits and subsets")
    eval_subset: Count = Field(
        default=2000, description="training images on which train loss and accuracy are measured"
    )
    fingerprint: str | None = Field(
        default=None, description="content hash, filled when the data is resolved"
    )
    root: str | None = _execution(None, "folder of the images")
    download: bool = _execution(False, "fetch the dataset where torchvision can")
    cache: str | None = _execution(None, "folder of decoded arrays (default: user cache)")
    workers: Natural | None = _execution(
        None, "decoding processes for large images (default: one a core, at most 8)"
    )

    def identity(self) -> dict[str, Any]:
        """As for every config; a fingerprint stands for the name, which is only its label."""
        fields = super().identity()
        if self.fingerprint is not None:
            fields.pop("name")
        else:
            fields.pop("fingerprint")
        return fields


class TrainConfig(_Config):
    """The training recipe; every field that changes numbers is part of the key."""

    epochs: Count | None = Field(default=20, description="passes over the training images")
    max_steps: Count | None = Field(
        default=None, description="optimizer steps; set, it replaces `epochs`"
    )
    batch_size: Count = Field(default=64, description="images a step, over all devices")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = Field(default=1e-3, description="peak learning rate")
    lr_base_batch: Count | None = Field(
        default=None, description="set, the peak is lr x batch_size / lr_base_batch (DeiT: 512)"
    )
    min_lr: NonNegative = Field(default=0.0, description="learning rate at the end")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_epochs: NonNegative = Field(default=0.0, description="linear warm-up, in epochs")
    warmup_steps: Natural = Field(default=0, description="linear warm-up, in steps; adds to epochs")
    warmup_lr: NonNegative | None = Field(
        default=None,
        description="learning rate that the warm-up starts from (DeiT: 1e-6); without, it starts "
        "with one step's rise from zero",
    )
    weight_decay: NonNegative = Field(
        default=0.05, description="not on norms, biases, position tables and class tokens"
    )
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Positive = 1e-8
    momentum: Rate = Field(default=0.9, description="of SGD (Nesterov)")
    clip_norm: Positive | None = Field(default=None, description="largest gradient norm")
    accumulate: Count = Field(default=1, description="micro-batches a step")
    label_smoothing: Rate = 0.0
    mixup: NonNegative = Field(default=0.0, description="alpha of mixup; 0 is off")
    cutmix: NonNegative = Field(default=0.0, description="alpha of CutMix; 0 is off")
    mix_probability: Share = Field(default=1.0, description="share of images that are mixed")
    crop: Literal["none", "pad", "resized"] = Field(
        default="none", description="random crop: padded by `crop_padding`, or resized (ImageNet)"
    )
    crop_padding: Natural = 4
    eval_crop_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.875, description="centre crop of large images: image_size / resized side"
    )
    hflip: bool = Field(default=False, description="random horizontal flip")
    randaugment_ops: Natural = Field(default=0, description="RandAugment operations an image")
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = Field(
        default=9, description="0 to 30, as torchvision's; timm's m9 of 10 is 27"
    )
    randaugment_std: NonNegative = Field(
        default=0.0, description="normal noise on each magnitude; timm's mstd0.5 is 1.5"
    )
    random_erasing: Share = Field(default=0.0, description="probability of random erasing")
    repeated_augmentation: Count = Field(default=1, description="views of an image in an epoch")
    ema_decay: Rate = Field(default=0.0, description="weight averaging; evaluated when above 0")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    init_from: str | None = Field(
        default=None, description="weights file or trial key to start from (fine-tuning)"
    )
    init_fingerprint: str | None = Field(
        default=None, description="checksum of `init_from`, filled when it is resolved"
    )
    eval_sizes: tuple[Count, ...] = Field(
        default=(), description="other image sizes to evaluate the final weights at"
    )
    channels_last: bool = _execution(False, "memory format of images and weights")
    compile: bool = _execution(False, "torch.compile the network")
    deterministic: bool = _execution(
        False, "deterministic GPU kernels; benchmarks/determinism.py measures what they cost"
    )
    devices: Count = _execution(1, "processes or GPUs of one trial")
    strategy: Literal["auto", "ddp", "fsdp"] = _execution("auto", "how devices share the work")
    timeout_minutes: Positive | None = _execution(None, "a trial that takes longer fails")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("set one of `epochs` and `max_steps` (the other to null)")
        if self.batch_size % (self.accumulate * self.devices):
            raise ValueError(
                f"`batch_size` must be divisible by accumulate x devices, but got "
                f"batch_size={self.batch_size}, accumulate={self.accumulate}, "
                f"devices={self.devices}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """As for every config; a checksum stands for the path of `init_from`."""
        fields = super().identity()
        if self.init_fingerprint is not None:
            fields.pop("init_from")
        return fields


class TrialConfig(_Config):
    """One network, its data, its recipe and a seed: everything that one number depends on.

    Args:
        arch: the canonical arch string, or `torchvision:NAME` / `timm:NAME`.
    """

    arch: str
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    seed: Natural = 0

    def identity(self) -> dict[str, Any]:
        """What is hashed: arch, data, recipe, seed and the version of this rule."""
        rooms = {"data": self.data.identity(), "train": self.train.identity()}
        for path, legacy in LEGACY.items():
            room, name = path.split(".")
            if rooms[room].get(name) == legacy:
                rooms[room].pop(name)
        return {"arch": self.arch, "seed": self.seed, "key_version": KEY_VERSION, **rooms}

    @property
    def key(self) -> str:
        """SHA-256 of the identity, as 64 hexadecimal digits."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class TrialResult(BaseModel):
    """What a finished trial measured: the content of `result.json` and of its row.

    Accuracies are percentages. `train_*` are in eval mode, without augmentation, on the fixed
    subset; `top1`, `top5` and `test_loss` are on `test`, at the last epoch; `best_val_top1` is
    shown beside them, never instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    seed: int
    arch: str
    status: Literal["done"] = "done"
    top1: float
    top5: float
    test_loss: float
    train_top1: float
    train_loss: float
    val_top1: float | None = None
    val_loss: float | None = None
    best_val_top1: float | None = None
    best_val_epoch: int | None = None
    params: int
    macs: int | None = None
    epochs: int
    steps: int
    train_images: int
    test_images: int
    dataset: str
    image_size: int
    precision: str
    device: str
    threads: int | None = None
    seconds: float
    images_per_second: float
    peak_memory_mb: float | None = None
    commit: str | None = None
    version: str
    departures: tuple[str, ...] = ()
    eval_sizes: dict[str, float] = Field(default_factory=dict)
