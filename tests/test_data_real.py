"""Real images, where the environment variable ABLATE_TEST_DATA names a folder that holds them.

The folder holds image trees: cifar10/ and, if there, tinyimagenet32/ and tinyimagenet64/.
"""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from data_trees import config

from ablate.config import TrainConfig
from ablate.data import DataModule, prepare, resolve


def real(name: str) -> str:
    folder = os.environ.get("ABLATE_TEST_DATA")
    if not folder:
        pytest.skip("ABLATE_TEST_DATA is not set: no real images to test on")
    if not (Path(folder) / name).is_dir():
        pytest.skip(f"ABLATE_TEST_DATA={folder} holds no {name}/")
    return str(Path(folder) / name)


def part_of(tree: str, root: Path, *, train: int, test: int) -> Path:
    """A copy of the first images of every class: decoding all of them takes minutes."""
    for split, count in (("train", train), ("test", test)):
        for folder in sorted(Path(tree, split).iterdir()):
            copies = root / split / folder.name
            copies.mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, copies)
    return root


@pytest.mark.slow
def test_cifar10_as_jpeg_files_has_its_own_name_and_all_images(tmp_path):
    data = config(tmp_path, "cifar10", root=real("cifar10"))
    resolved, info = resolve(data)
    assert resolved.name == "cifar10-jpeg"
    assert (info.train_images, info.val_images, info.test_images) == (45_000, 5_000, 10_000)
    assert info.class_names[0] == "airplane"
    start = time.process_time()
    assert resolve(data) == (resolved, info)
    assert time.process_time() - start < 1, "60,000 files are compared, none is read"


@pytest.mark.slow
def test_cifar10_as_jpeg_files_takes_the_fast_path(tmp_path):
    tree = part_of(real("cifar10"), tmp_path / "cifar10", train=20, test=200)
    data, info = prepare(config(tmp_path, "cifar10", root=str(tree)))
    assert data.name == "cifar10-jpeg"
    assert info.test_images == 2_000

    module = DataModule(data, TrainConfig(batch_size=250, crop="pad", hflip=True), seed=0)
    total, squares, count = torch.zeros(3), torch.zeros(3), 0
    for batch in module.test_dataloader():
        images, _ = module.transform(batch, train=False)
        total += images.sum((0, 2, 3))
        squares += images.square().sum((0, 2, 3))
        count += images[:, 0].numel()
    mean = total / count
    deviation = (squares / count - mean.square()).sqrt()
    # CIFAR-10's own mean is (0.49, 0.48, 0.45), its deviation (0.25, 0.24, 0.26) of [0, 1].
    torch.testing.assert_close(mean, torch.tensor([0.04, 0.13, 0.2]), atol=0.04, rtol=0)
    torch.testing.assert_close(deviation, torch.tensor([1.08, 1.08, 1.16]), atol=0.04, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images"), [("tinyimagenet32", 90_000), ("tinyimagenet64", 18_000)]
)
def test_trees_of_200_classes_resolve_to_their_own_names(tmp_path, name, images):
    _, info = resolve(config(tmp_path, root=real(name)))
    assert (info.name, info.num_classes, info.train_images) == (name, 200, images)


@pytest.mark.slow
def test_real_images_of_imagenet_s_size_come_from_workers(tmp_path):
    data = config(tmp_path, root=real("tinyimagenet64"), image_size=160, workers=2)
    train = TrainConfig(batch_size=32, crop="resized", hflip=True, randaugment_ops=2)
    module = DataModule(data, train, seed=0)
    images, labels = module.transform(next(iter(module.train_dataloader())), train=True)
    assert images.shape == (32, 3, 160, 160)
    assert len(labels.unique()) > 20
