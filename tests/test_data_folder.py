"""Image trees: found, checked, named by themselves, and known by their content."""

import os
import shutil
import time

import numpy as np
import PIL.Image
import pytest
from data_trees import config, random_image, write_tree

from ablate.data import folder as folder_room
from ablate.data import prepare, resolve
from ablate.data.sources import open_source
from ablate.errors import DataError


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_a_tree_resolves_to_its_own_name_and_fingerprint(tmp_path, test_folder):
    root = write_tree(tmp_path / "My-Pets", test_folder=test_folder)
    resolved, info = resolve(config(tmp_path, root=str(root), val_fraction=0.25))
    assert resolved.name == info.name == "my-pets"
    assert resolved.fingerprint == info.fingerprint
    assert len(info.fingerprint) == 64
    assert info.class_names == ("cat", "dog")
    assert (info.train_images, info.val_images, info.test_images) == (9, 3, 6)


def test_a_resolved_config_resolves_to_itself(tmp_path):
    root = write_tree(tmp_path / "pets")
    resolved, info = resolve(config(tmp_path, root=str(root)))
    assert resolve(resolved) == (resolved, info)


def test_test_is_read_before_val_where_both_are_there(tmp_path):
    root = write_tree(tmp_path / "pets", test=3)
    shutil.copytree(root / "train", root / "val")
    assert resolve(config(tmp_path, root=str(root)))[1].test_images == 6


def test_val_is_read_where_test_holds_no_classes(tmp_path):
    """As ImageNet comes: test/ holds images without labels."""
    root = write_tree(tmp_path / "pets", test_folder="val")
    (root / "test").mkdir()
    random_image(0).save(root / "test" / "unlabelled.png")
    assert resolve(config(tmp_path, root=str(root)))[1].test_images == 6


def test_files_that_are_no_images_and_hidden_ones_do_not_count(tmp_path):
    root = write_tree(tmp_path / "pets")
    before = resolve(config(tmp_path, root=str(root)))
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / "._0.png").write_text("what macOS leaves behind")
    assert resolve(config(tmp_path, root=str(root))) == before


def test_nested_folders_belong_to_their_class(tmp_path):
    """As Tiny-ImageNet comes: train/<class>/images/*.JPEG."""
    root = write_tree(tmp_path / "pets")
    (root / "train" / "cat" / "images").mkdir()
    random_image(0).save(root / "train" / "cat" / "images" / "x.JPEG")
    labels = open_source(config(tmp_path, root=str(root))).train.labels
    assert np.bincount(labels).tolist() == [7, 6]


def fingerprint(tmp_path, root):
    return resolve(config(tmp_path, root=str(root)))[1].fingerprint


def test_the_fingerprint_is_that_of_the_content_wherever_it_lies(tmp_path):
    root = write_tree(tmp_path / "here" / "pets")
    other = shutil.copytree(root, tmp_path / "there" / "other")
    assert fingerprint(tmp_path, root) == fingerprint(tmp_path, other)


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed"])
def test_the_fingerprint_changes_with_the_content_though_it_was_remembered(tmp_path, change):
    root = write_tree(tmp_path / "pets")
    before = fingerprint(tmp_path, root)
    image = root / "train" / "cat" / "0.png"
    if change == "content":
        time.sleep(0.01)  # file times are exact to a few milliseconds
        content = bytearray(image.read_bytes())
        content[-1] ^= 1
        image.write_bytes(content)
    elif change == "added":
        shutil.copy(image, image.with_name("new.png"))
    elif change == "removed":
        image.unlink()
    else:
        image.rename(image.with_name("other.png"))
    assert fingerprint(tmp_path, root) != before


def test_asking_again_reads_no_image(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "pets")
    first = fingerprint(tmp_path, root)
    monkeypatch.setattr(folder_room, "content_fingerprint", lambda *_: pytest.fail("read again"))
    assert fingerprint(tmp_path, root) == first
    os.utime(root / "train" / "cat" / "0.png", ns=(1, 1))
    with pytest.raises(pytest.fail.Exception, match="read again"):
        fingerprint(tmp_path, root)


def test_a_large_tree_is_sampled_but_every_size_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("ablate.data.files.WHOLE_BYTES", 10)
    monkeypatch.setattr("ablate.data.files.SAMPLED_FILES", 4)
    root = write_tree(tmp_path / "pets")
    before = fingerprint(tmp_path, root)
    for image in sorted((root / "train" / "cat").iterdir()):
        image.write_bytes(image.read_bytes() + b"x")
    assert fingerprint(tmp_path, root) != before


def test_other_images_than_the_trial_s_are_an_error(tmp_path):
    root = write_tree(tmp_path / "pets")
    resolved, _ = resolve(config(tmp_path, root=str(root)))
    shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / "new.png")
    with pytest.raises(DataError, match=r"does not hold the images of this trial \(pets\)"):
        resolve(resolved)


def test_a_tree_for_cifar_gets_a_name_of_its_own(tmp_path):
    root = write_tree(tmp_path / "x", classes=[str(n) for n in range(10)], suffix=".jpg")
    resolved, _ = resolve(config(tmp_path, "cifar10", root=str(root)))
    assert resolved.name == "cifar10-jpeg"
    assert resolved.fingerprint is not None
    assert resolve(resolved)[0] == resolved


def test_a_folder_called_like_a_dataset_is_not_that_dataset(tmp_path):
    root = write_tree(tmp_path / "CIFAR10")
    assert resolve(config(tmp_path, root=str(root)))[0].name == "cifar10-png"


def test_a_tree_for_cifar_with_other_classes_is_an_error(tmp_path):
    root = write_tree(tmp_path / "pets")
    with pytest.raises(DataError, match=r"has 2 classes, but cifar10 has 10; .* image_folder"):
        resolve(config(tmp_path, "cifar10", root=str(root)))


def test_no_root_is_an_error_that_says_what_it_holds(tmp_path):
    with pytest.raises(DataError, match=r"data.root is not set; it is the folder that holds train"):
        resolve(config(tmp_path))


def test_a_missing_root_names_the_nearest_folder(tmp_path):
    write_tree(tmp_path / "tinyimagenet")
    with pytest.raises(DataError, match=r"does not exist \(did you mean .*/tinyimagenet\?\)"):
        resolve(config(tmp_path, root=str(tmp_path / "tinyimagnet")))


def test_a_root_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="is a file, not a folder"):
        resolve(config(tmp_path, root=str(tmp_path / "data")))


def test_a_root_one_folder_too_high_names_the_right_one(tmp_path):
    write_tree(tmp_path / "data" / "pets")
    with pytest.raises(DataError, match=r"holds none of train/<class>/ \(did you mean .*/pets\?\)"):
        resolve(config(tmp_path, root=str(tmp_path / "data")))


def test_a_tree_without_test_images_is_an_error(tmp_path):
    root = write_tree(tmp_path / "pets")
    shutil.rmtree(root / "test")
    with pytest.raises(DataError, match="holds none of test/<class>/, val/<class>/"):
        resolve(config(tmp_path, root=str(root)))


def test_a_train_split_without_classes_is_an_error(tmp_path):
    root = write_tree(tmp_path / "pets")
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(DataError, match="train has no images"):
        resolve(config(tmp_path, root=str(root)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_is_an_error_naming_its_folder(tmp_path, split):
    root = write_tree(tmp_path / "pets")
    for image in (root / split / "dog").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=rf"class folder .*{split}/dog has no images"):
        resolve(config(tmp_path, root=str(root)))


def test_classes_that_differ_between_splits_are_named(tmp_path):
    root = write_tree(tmp_path / "pets", classes=["cat", "dog"])
    (root / "test" / "dog").rename(root / "test" / "hog")
    with pytest.raises(DataError, match=r"only in .*train \(dog\); 1 only in .*test \(hog\)"):
        resolve(config(tmp_path, root=str(root)))


def test_one_class_is_an_error(tmp_path):
    root = write_tree(tmp_path / "pets", classes=["cat"])
    with pytest.raises(DataError, match=r"has one class \(cat\); two are the least"):
        resolve(config(tmp_path, root=str(root)))


def test_a_link_that_leads_nowhere_is_an_error(tmp_path):
    root = write_tree(tmp_path / "pets")
    (root / "train" / "cat" / "gone.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cannot read .*gone.png: No such file"):
        resolve(config(tmp_path, root=str(root)))


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_an_image_that_does_not_decode_is_named_before_anything_starts(tmp_path, damage):
    root = write_tree(tmp_path / "pets", suffix=".jpg", size=(64, 64))
    image = root / "train" / "dog" / "3.jpg"
    content = image.read_bytes()
    image.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"hello"}[damage])
    with pytest.raises(DataError, match=r"cannot decode the image .*train/dog/3.jpg"):
        prepare(config(tmp_path, root=str(root)))


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGB"])
def test_grey_palette_and_cmyk_images_become_rgb(tmp_path, mode):
    root = write_tree(tmp_path / "pets")
    image = random_image(1).convert(mode)
    image.save(root / "train" / "cat" / "0.tif")
    read = open_source(config(tmp_path, root=str(root))).train.read(1)
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_a_wrong_number_of_channels_is_an_error_naming_the_file(tmp_path, mode):
    root = write_tree(tmp_path / "pets")
    image = root / "test" / "cat" / "1.png"
    (random_image(1, mode=mode) if mode != "I;16" else PIL.Image.new(mode, (8, 8))).save(image)
    with pytest.raises(DataError, match=rf"test/cat/1.png has \d channels of mode {mode}"):
        prepare(config(tmp_path, root=str(root)))


def test_an_opaque_alpha_channel_is_dropped(tmp_path):
    root = write_tree(tmp_path / "pets")
    image = random_image(1)
    image.convert("RGBA").save(root / "train" / "cat" / "0.png")
    read = open_source(config(tmp_path, root=str(root))).train.read(0)
    np.testing.assert_array_equal(read, np.asarray(image))
