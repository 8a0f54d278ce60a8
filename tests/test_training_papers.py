"""The papers' recipes, as the shipped studies hold them, through one step on generated trees."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablate.data import resolve
from ablate.study import load_study
from ablate.training import fit

pytestmark = pytest.mark.slow

STUDIES = Path(__file__).parent.parent / "studies"


def tree(root, classes, size):
    """A folder of images, as ImageNet's: `train` and `val`, a folder a class, a few files each."""
    noise = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 1)):
        for label in range(classes):
            folder = root / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (size, size + 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpeg")


@pytest.mark.parametrize(
    ("study", "profile", "image_size"),
    [
        pytest.param("position_encoding", "imagenet", 240, id="CoaT: DeiT's, 300 epochs"),
        pytest.param("stride_place", "imagenet", 240, id="CoAtNet: Table 10"),
        pytest.param("atc_depth", "cifar100", 32, id="ATC: CIFAR-100"),
    ],
)
def test_a_paper_s_recipe_takes_a_step(tmp_path, study, profile, image_size):
    tree(tmp_path / "images", 3, image_size)
    small = ["train.epochs=null", "train.max_steps=1", "train.batch_size=6", "data.workers=0"]
    images = ["data.name=image_folder", f"data.root={tmp_path / 'images'}"]
    loaded = load_study(STUDIES / f"{study}.yaml", profile, [*small, *images])
    trial = loaded.trials[0]
    trial = trial.model_copy(update={"data": resolve(trial.data)[0]})
    result = fit(trial, tmp_path / "run", device="cpu")
    assert result.steps == 1
    assert result.image_size == {"imagenet": 224, "cifar100": 32}[profile]
    assert math.isfinite(result.train_loss)
    assert math.isfinite(result.test_loss)
