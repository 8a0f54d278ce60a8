"""Parquet files with image bytes, as Hugging Face datasets are distributed."""

import sys

import numpy as np
import pytest
from data_trees import config, png, write_parquet

from ablate.config import TrainConfig
from ablate.data import DataModule, prepare, resolve
from ablate.data.sources import open_source
from ablate.errors import DataError

pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "Pets"
    write_parquet(folder / "data" / "train-00000-of-00002.parquet", 12, lambda i: i % 2)
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", 8, lambda i: i % 2)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", 6, lambda i: i % 2)
    return folder


def test_parquet_resolves_to_its_own_name_and_fingerprint(tmp_path, root):
    resolved, info = resolve(config(tmp_path, "parquet", root=str(root)))
    assert resolved.name == "pets"
    assert resolved.fingerprint == info.fingerprint
    assert info.class_names == ("cat", "dog")
    assert (info.train_images, info.val_images, info.test_images) == (18, 2, 6)
    assert resolve(resolved) == (resolved, info)


def test_images_are_read_from_any_row_of_any_file(tmp_path, root):
    images = open_source(config(tmp_path, "parquet", root=str(root))).train
    np.testing.assert_array_equal(images.read(13), images.read(1))  # the same seed of noise
    assert images.read(13).shape == (8, 8, 3)
    assert images.labels.tolist() == [0, 1] * 10


@pytest.mark.parametrize("image_size", [8, 128])
def test_small_and_large_images_load(tmp_path, root, image_size):
    data = config(tmp_path, "parquet", root=str(root), image_size=image_size, workers=0)
    images, labels = next(iter(DataModule(data, TrainConfig(), seed=0).test_dataloader()))
    assert images.shape == (6, 3, image_size, image_size)
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_validation_is_read_where_test_has_no_labels(tmp_path, root):
    """As ImageNet comes: every label of test is -1."""
    write_parquet(root / "data" / "test-00000-of-00001.parquet", 6, lambda i: -1)
    write_parquet(root / "data" / "validation-00000-of-00001.parquet", 4, lambda i: i % 2)
    assert resolve(config(tmp_path, "parquet", root=str(root)))[1].test_images == 4


def test_folders_may_name_the_splits_and_labels_may_be_text(tmp_path):
    root = tmp_path / "pets"
    for part in ("train", "valid"):
        write_parquet(
            root / part / "0000.parquet",
            10,
            lambda i: "dog" if i % 2 else "cat",
            names=None,
            columns=("img", "fine_label"),
        )
    _, info = resolve(config(tmp_path, "parquet", root=str(root)))
    assert info.class_names == ("cat", "dog")
    assert info.test_images == 10


def test_a_label_out_of_range_names_file_and_row(tmp_path, root):
    write_parquet(root / "data" / "test-00000-of-00001.parquet", 6, lambda i: i)
    with pytest.raises(
        DataError, match=r"test-.*parquet row 2 has the label 2, but the labels are 0 to 1"
    ):
        resolve(config(tmp_path, "parquet", root=str(root)))


@pytest.mark.parametrize("part", ["train-00000-of-00002", "test-00000-of-00001"])
def test_a_class_without_images_is_named(tmp_path, root, part):
    (root / "data" / "train-00001-of-00002.parquet").unlink()
    write_parquet(root / "data" / f"{part}.parquet", 6, lambda i: 0)
    message = rf"pets: 1 of 2 classes have no image in {part.split('-')[0]}, for example 'dog'"
    with pytest.raises(DataError, match=message):
        resolve(config(tmp_path, "parquet", root=str(root)))


def test_an_image_that_does_not_decode_names_file_and_row(tmp_path, root, monkeypatch):
    path = root / "data" / "train-00001-of-00002.parquet"
    monkeypatch.setattr("data_trees.png", lambda seed: b"hello" if seed == 3 else png(seed))
    write_parquet(path, 8, lambda i: i % 2)
    with pytest.raises(DataError, match=r"decode the image .*train-00001.*parquet row 3"):
        prepare(config(tmp_path, "parquet", root=str(root), image_size=8))


def test_a_missing_split_is_an_error(tmp_path, root):
    (root / "data" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"must hold train-\*.parquet .*but it holds .* of train$"):
        resolve(config(tmp_path, "parquet", root=str(root)))


def test_no_parquet_at_all_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it holds parquet files of no split"):
        resolve(config(tmp_path, "parquet", root=str(tmp_path / "empty")))


def test_a_damaged_file_is_named(tmp_path, root):
    (root / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"cannot read .*test-00000-of-00001.parquet"):
        resolve(config(tmp_path, "parquet", root=str(root)))


def test_columns_that_are_not_known_are_listed(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"a": [b"x"], "b": [b"y"], "label": [0]})
    for part in ("train", "test"):
        (tmp_path / "pets").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "pets" / f"{part}.parquet")
    with pytest.raises(DataError, match=r"2 columns that could hold image bytes; .*: a, b, label"):
        resolve(config(tmp_path, "parquet", root=str(tmp_path / "pets")))


def test_without_pyarrow_the_message_says_what_to_install(tmp_path, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'ablate-vision\[parquet\]'"):
        resolve(config(tmp_path, "parquet", root=str(root)))
