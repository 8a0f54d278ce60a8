"""One trial of CoaT-Lite on a folder of images, as a careful user of Lightning would write it.

    python benchmarks/plain_study.py DATA --seed 0 --epochs 10

Nothing of ours: timm's CoaT, torchvision's ImageFolder and transforms, a DataLoader with workers,
a Trainer with its defaults (CSV log, checkpoint of the last epoch). `benchmarks/whole_study.py`
runs it against `ablate run`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from timm.models.coat import CoaT
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

NORMALIZE = [
    v2.ToImage(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
]


class Classifier(pl.LightningModule):
    """CoaT-Lite of widths 32/64/96/128 at 16x16 tokens: `coat-lite-micro`."""

    def __init__(self, args: argparse.Namespace, steps: int) -> None:
        super().__init__()
        self.args, self.steps = args, steps
        self.network = CoaT(
            img_size=32,
            patch_size=2,
            num_classes=10,
            embed_dims=(32, 64, 96, 128),
            serial_depths=(1, 1, 1, 2),
            mlp_ratios=(4, 4, 4, 4),
        )
        for stage, side in enumerate((16, 8, 4, 2), start=1):
            embed = getattr(self.network, f"patch_embed{stage}")
            embed.strict_img_size = False  # timm takes the first patches to be of 4 pixels
            embed.grid_size = (side, side)
        if args.channels_last:
            self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if self.args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, label_smoothing=0.1)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], name: str) -> None:
        images, labels = batch
        logits = self(images)
        self.log(f"{name}_loss", F.cross_entropy(logits, labels))
        self.log(f"{name}_top1", (logits.argmax(1) == labels).float().mean(), prog_bar=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
            lr=self.args.lr,
        )
        warmup = self.steps // self.args.epochs

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return (1 + math.cos(math.pi * (step - warmup) / (self.steps - warmup))) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Training, validation (1%) and test images."""
    augment = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *NORMALIZE]
    train = ImageFolder(args.data / "train", v2.Compose(augment))
    val = ImageFolder(args.data / "train", v2.Compose(NORMALIZE))
    test = ImageFolder(args.data / "test", v2.Compose(NORMALIZE))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    held = len(order) // 100
    settings = {"batch_size": args.batch_size, "num_workers": args.workers}
    return (
        DataLoader(
            Subset(train, order[held : held + args.images]),
            shuffle=True,
            drop_last=True,
            persistent_workers=True,
            **settings,
        ),
        DataLoader(Subset(val, order[:held]), persistent_workers=True, **settings),
        DataLoader(test, **settings),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with train/ and test/, a folder a class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=5000, help="training images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="32-true", help="Lightning's name: bf16-mixed ...")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("plain_runs"))
    args = parser.parse_args()
    start = time.perf_counter()
    pl.seed_everything(args.seed, workers=True)
    train, val, test = loaders(args)
    module = Classifier(args, args.epochs * len(train))
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        precision=args.precision,
        accelerator="cpu",
        logger=CSVLogger(args.folder, version=args.seed),
    )
    trainer.fit(module, train, val)
    (found,) = trainer.test(module, test)
    params = sum(p.numel() for p in module.parameters())
    seconds = time.perf_counter() - start
    print(json.dumps({"top1": 100 * found["test_top1"], "params": params, "seconds": seconds}))


if __name__ == "__main__":
    main()
