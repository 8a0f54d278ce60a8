"""The fast path: decoded once, whoever comes first, whatever happens to the builder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from data_trees import config, random_image, write_tree

from ablate.config import DataConfig
from ablate.data.arrays import fits, pixels
from ablate.data.cache import built_once, cache_folder
from ablate.data.decode import square
from ablate.data.sources import ArrayImages, Source, open_source
from ablate.errors import DataError


class CountingImages:
    """Noise images that count how often they are decoded."""

    def __init__(self, count: int, size: int = 8) -> None:
        self.labels = np.arange(count) % 2
        self.size = size
        self.reads = 0

    def read(self, index: int) -> np.ndarray:
        self.reads += 1
        return np.asarray(random_image(index, (self.size, self.size)))


def source_of(images, name: str = "noise") -> Source:
    return Source(
        name=name, class_names=("a", "b"), train=images, test=images, fingerprint="f" * 64
    )


@pytest.mark.parametrize("large_side", [192, 4], ids=["one thread", "several"])
def test_the_array_holds_every_image_in_order(large_side, tmp_path, monkeypatch):
    monkeypatch.setattr("ablate.data.arrays.LARGE_SIDE", large_side)
    images = CountingImages(600)  # more than one chunk of decoding
    array = pixels(source_of(images), "train", 8, tmp_path)
    assert array.shape == (600, 3, 8, 8)
    for index in (0, 1, 255, 256, 257, 599):
        np.testing.assert_array_equal(array[index].transpose(1, 2, 0), images.read(index))


def test_images_are_decoded_once(tmp_path):
    images = CountingImages(20)
    for _ in range(2):
        pixels(source_of(images), "train", 8, tmp_path)
    assert images.reads == 20


def test_every_size_split_and_content_has_its_own_array(tmp_path):
    pixels(source_of(CountingImages(20)), "train", 8, tmp_path)
    for other in ({"split": "test", "size": 8}, {"split": "train", "size": 4}):
        images = CountingImages(20)
        pixels(source_of(images), other["split"], other["size"], tmp_path)
        assert images.reads == 20


def test_the_array_is_shared_and_cannot_be_written(tmp_path):
    array = pixels(source_of(CountingImages(4)), "train", 8, tmp_path)
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_an_array_that_was_cut_short_is_built_again(tmp_path):
    images = CountingImages(20)
    pixels(source_of(images), "train", 8, tmp_path)
    (path,) = (tmp_path / "arrays").glob("*.npy")
    path.write_bytes(path.read_bytes()[:-10])
    assert pixels(source_of(images), "train", 8, tmp_path)[19].any()
    assert images.reads == 40


BUILDER = """
import sys, time
from pathlib import Path
from ablate.data.cache import built_once
def write(file):
    with open(sys.argv[2], "a") as log: log.write("x")
    file.write(b"half"); file.flush(); time.sleep(float(sys.argv[3])); file.write(b"whole")
print(built_once(Path(sys.argv[1]), write).read_bytes().decode())
"""


def builder(path: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(path), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_two_builders_at_once_one_builds_and_both_get_the_whole_file(tmp_path):
    path, log = tmp_path / "file", tmp_path / "log"
    both = [builder(path, log, 1.0) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["halfwhole\n"] * 2
    assert log.read_text() == "x"


def test_a_builder_that_is_killed_leaves_nothing_that_looks_finished(tmp_path):
    path, log = tmp_path / "file", tmp_path / "log"
    victim = builder(path, log, 60)
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert not path.exists()
    assert builder(path, log, 0).communicate(timeout=60)[0] == "halfwhole\n"
    assert log.read_text() == "xx"


def test_a_builder_that_fails_leaves_nothing(tmp_path):
    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot write .*file: .*No space left"):
        built_once(tmp_path / "file", write)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_the_cache_folder_is_the_config_s_then_the_environment_s(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "environment"))
    assert cache_folder(DataConfig(cache=str(tmp_path / "config"))) == tmp_path / "config"
    assert cache_folder(DataConfig()) == tmp_path / "environment"
    monkeypatch.delenv("ABLATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder(DataConfig()) == tmp_path / "user" / "ablate"


def test_a_cache_folder_that_cannot_be_made_is_an_error_naming_the_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the cache folder .*data.cache .*CACHE"):
        cache_folder(DataConfig(cache=str(tmp_path / "file" / "cache")))


def test_other_sizes_are_resized_with_antialias_and_cropped_to_the_centre():
    wide = np.asarray(random_image(0, (40, 20)))
    resized = PIL.Image.fromarray(wide).resize((16, 8), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(square(wide, 8), np.asarray(resized)[:, 4:12])
    checkers = np.zeros((16, 16, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 255
    assert np.ptp(square(checkers, 4)[1:-1, 1:-1].astype(int)) < 20, "no aliasing"


def test_an_image_of_the_size_is_not_touched():
    image = np.asarray(random_image(0, (8, 8)))
    assert square(image, 8) is image


def test_the_fast_path_is_for_small_images_of_sets_that_fit():
    def of(count: int) -> Source:
        labels = np.broadcast_to(np.int64(0), count)
        return source_of(ArrayImages(np.zeros((1, 1, 1), np.uint8), labels))

    assert fits(of(60_000), 32)
    assert fits(of(50_000), 96)
    assert not fits(of(50_000), 97)
    assert not fits(of(1_300_000), 64)


def test_a_tree_of_files_becomes_the_same_array_as_reading_it(tmp_path):
    data = config(tmp_path, root=str(write_tree(tmp_path / "pets", size=(12, 8))))
    source = open_source(data)
    array = pixels(source, "test", 8, cache_folder(data))
    np.testing.assert_array_equal(array[5].transpose(1, 2, 0), square(source.test.read(5), 8))
