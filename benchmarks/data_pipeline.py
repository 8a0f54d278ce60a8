"""What augmentation costs: images/s, and its share of a training step of a micro network.

    python benchmarks/data_pipeline.py
    python benchmarks/data_pipeline.py --models coatnet-micro --batch-sizes 64 --image-size 32

Batches come from a memory-mapped array, as small datasets do. Data and training steps alternate
in one process on one thread, so that both meet the same machine, and a share is the data's time
over the time of both; the median of `--rounds` pairs is printed. CPU seconds are counted, so that
other work on the machine matters little; it still takes caches and half of a shared core.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from measuring import command_line, seconds

import ablate
from ablate.config import TrainConfig
from ablate.data.augment import Augment, Batch
from ablate.data.clock import Clock, Draws, Share
from ablate.data.loaders import ArrayFetcher, Loader
from ablate.data.plans import TrainPlan

RECIPES = {
    "pad-crop, flip": {"crop": "pad", "hflip": True},
    "everything": {
        "crop": "pad",
        "hflip": True,
        "randaugment_ops": 2,
        "random_erasing": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
    },
}
IMAGES, CLASSES = 10_000, 10


def mapped(folder: str, size: int) -> np.ndarray:
    """Smooth random images on disk, (N, 3, size, size), uint8."""
    coarse = torch.rand(IMAGES, 3, size // 4, size // 4, generator=torch.manual_seed(0)) * 255
    images = F.interpolate(coarse, size, mode="bilinear").to(torch.uint8)
    np.save(f"{folder}/images.npy", images.numpy())
    return np.load(f"{folder}/images.npy", mmap_mode="r")


def batches(pixels: np.ndarray, train: TrainConfig) -> Iterator[Batch]:
    """Gathered and augmented batches, epoch after epoch."""
    clock, augment = Clock(seed=0), Augment(train, CLASSES)
    fetcher = ArrayFetcher(pixels, np.arange(IMAGES) % CLASSES)
    loader = Loader(TrainPlan(np.arange(IMAGES), train.batch_size, clock, Share()), fetcher, clock)
    while True:
        for step, batch in enumerate(loader):
            rng = clock.rng("augment", step)
            draws = Draws(rng, len(batch[0]), Share(), torch.device("cpu"))
            yield augment(batch, draws, clock)
        clock.epoch += 1


def training_step(name: str, size: int) -> Callable[[Batch], None]:
    """Forward, backward and AdamW's step of a preset."""
    options = {"stem_stride": 1} if name.startswith("coatnet") else {}
    network = ablate.create_model(name, num_classes=CLASSES, image_size=size, **options)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def step(batch: Batch) -> None:
        loss = F.cross_entropy(network(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def compare(stream: Iterator[Batch], step: Callable[[Batch], None], rounds: int) -> list[float]:
    """Median seconds of a batch's data and of its training step."""
    for _ in range(2):
        step(next(stream))
    pairs = []
    for _ in range(rounds):
        held: list[Batch] = []
        data = seconds(lambda: held.append(next(stream))).cpu  # noqa: B023  (called here)
        pairs.append((data, seconds(lambda: step(held[0])).cpu))  # noqa: B023
    return [statistics.median(column) for column in zip(*pairs, strict=True)]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=["coat-lite-micro", "coatnet-micro"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| augmentation | batch | data, images/s | alone, images/s | network | its step, images/s |"
        " data's share | at 1,000 images/s |\n|---|---:|---:|---:|---|---:|---:|---:|"
    )
    with TemporaryDirectory() as folder:
        pixels = mapped(folder, options.image_size)
        for recipe, fields in RECIPES.items():
            for size in options.batch_sizes:
                train = TrainConfig(batch_size=size, **fields)
                stream = batches(pixels, train)
                alone = statistics.median(seconds(stream.__next__).cpu for _ in range(100))
                for model in options.models:
                    step = training_step(model, options.image_size)
                    data, work = compare(stream, step, options.rounds)
                    print(
                        f"| {recipe} | {size} | {size / data:,.0f} | {size / alone:,.0f} | {model} "
                        f"| {size / work:,.0f} | {data / (data + work):.1%} "
                        f"| {1000 * data / (size + 1000 * data):.1%} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
