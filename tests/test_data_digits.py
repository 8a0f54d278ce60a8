"""The embedded images: the same on every machine, without file or network."""

import subprocess
import sys

import numpy as np
import pytest
from data_trees import config
from sklearn.datasets import load_digits

from ablate.data import names, resolve
from ablate.data.sources import open_source
from ablate.errors import DataError


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("digits", "ba634f9e7dbd8c847f1e0422223c1a24144772642f705edf00db0ea1b4345688"),
        ("digits-canvas", "96cce3e5f71846c176876052c3328413c5d2750adc8ff6d769d7d47d8fdab39e"),
    ],
)
def test_embedded_pixels_never_change(tmp_path, name, fingerprint):
    """A change here makes every result on the set another trial: it needs another name."""
    resolved, info = resolve(config(tmp_path, name))
    assert info.fingerprint == fingerprint
    assert resolved.fingerprint is None, "the name tells the pixels, so the key needs no hash"
    assert resolved.name == name


@pytest.mark.parametrize("name", ["digits", "digits-canvas"])
def test_few_training_images_and_enough_to_test_on(tmp_path, name):
    _, info = resolve(config(tmp_path, name))
    assert (info.train_images, info.val_images, info.test_images) == (720, 80, 997)
    assert info.num_classes == 10
    assert info.image_shape == (3, 32, 32)


def test_each_digit_lies_whole_on_the_canvas_at_many_places(tmp_path):
    plain = open_source(config(tmp_path, "digits"))
    canvas = open_source(config(tmp_path, "digits-canvas"))
    corners = set()
    for index in range(len(plain.train.labels)):
        small, large = plain.train.read(index)[..., 0], canvas.train.read(index)[..., 0]
        # The middle pixel of each 3x3 group of the enlarged digit is the source's pixel.
        found = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.abs(large[top + 1 : top + 24 : 3, left + 1 : left + 24 : 3] - small * 1.0).max()
            <= 1
        ]
        assert found, f"digit {index} is not on its canvas"
        corners.update(found[:1])
    assert len(corners) == 81


def test_labels_are_those_of_scikit_learn(tmp_path):
    source = open_source(config(tmp_path, "digits"))
    both = np.concatenate([source.train.labels, source.test.labels])
    np.testing.assert_array_equal(np.bincount(both), np.bincount(load_digits().target))


def test_an_unknown_dataset_lists_the_choices_and_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"unknown dataset 'cifar1' \(did you mean 'cifar10'\?\)"):
        resolve(config(tmp_path, "cifar1"))
    for name in names():
        with pytest.raises(DataError, match=name):
            resolve(config(tmp_path, "unheard-of"))


def test_resolving_needs_no_torch():
    """`ablate plan` and `ablate status` resolve data; they should answer at once."""
    code = (
        "import sys; from ablate.config import DataConfig; from ablate.data import resolve;"
        "resolve(DataConfig()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
