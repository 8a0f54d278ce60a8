"""CIFAR as torchvision writes it: genuine where the checksums say so, never executed blindly."""

import hashlib
import pickle
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from data_trees import config, write_cifar10

from ablate.data import cifar, resolve
from ablate.data.sources import open_source
from ablate.errors import DataError


def test_batches_with_other_content_get_a_name_of_their_own(tmp_path):
    root = write_cifar10(tmp_path / "data")
    resolved, info = resolve(config(tmp_path, "cifar10", root=str(root)))
    assert resolved.name == "cifar10-modified"
    assert resolved.fingerprint == info.fingerprint
    assert (info.train_images, info.val_images, info.test_images) == (90, 10, 20)
    assert resolve(resolved) == (resolved, info)


def test_published_checksums_make_it_cifar10(tmp_path, monkeypatch):
    root = write_cifar10(tmp_path / "data")
    folder = root / "cifar-10-batches-py"
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    published = SimpleNamespace(
        train_list=[[name, sums[name]] for name in sums if name.startswith("data")],
        test_list=[["test_batch", sums["test_batch"]]],
        meta={"filename": "batches.meta", "md5": sums["batches.meta"]},
    )
    monkeypatch.setattr(cifar, "_torchvision", lambda layout: published)
    resolved, info = resolve(config(tmp_path, "cifar10", root=str(root)))
    assert resolved.name == "cifar10"
    assert resolved.fingerprint is None
    assert info.fingerprint


def test_torchvision_knows_the_checksum_of_every_file_we_read():
    for layout in (cifar._CIFAR10, cifar._CIFAR100):
        dataset = getattr(torchvision.datasets, layout.dataset)
        assert dataset.base_folder == layout.folder
        assert [name for name, _ in dataset.train_list] == list(layout.train)
        assert [name for name, _ in dataset.test_list] == [layout.test]
        assert dataset.meta["filename"] == layout.meta
        assert dataset.meta["key"] == layout.names_key


def test_pixels_are_those_of_torchvision(tmp_path, monkeypatch):
    root = write_cifar10(tmp_path / "data")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    reference = torchvision.datasets.CIFAR10(root, train=True)
    ours = open_source(config(tmp_path, "cifar10", root=str(root))).train
    np.testing.assert_array_equal(ours.labels, reference.targets)
    for index in (0, 50, 99):
        np.testing.assert_array_equal(ours.read(index), np.asarray(reference[index][0]))


def test_cifar100_has_its_fine_labels(tmp_path):
    folder = tmp_path / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in (("train", 300), ("test", 100)):
        content = {
            "data": np.zeros((count, 3072), np.uint8),
            "fine_labels": [index % 100 for index in range(count)],
            "coarse_labels": [0] * count,
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"fine{number}" for number in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))
    _, info = resolve(config(tmp_path, "cifar100", root=str(tmp_path / "data"), val_fraction=0))
    assert info.num_classes == 100
    assert info.class_names[99] == "fine99"


def test_a_folder_without_the_dataset_lists_what_was_looked_for(tmp_path):
    (tmp_path / "data" / "stuff").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"none of cifar-10-batches-py/, train/<class>/; it holds the folders stuff"
    ):
        resolve(config(tmp_path, "cifar10", root=str(tmp_path / "data")))


def test_the_folder_inside_is_not_the_root_and_the_message_says_so(tmp_path):
    root = write_cifar10(tmp_path / "data")
    with pytest.raises(DataError, match=r"did you mean .*/data\?"):
        resolve(config(tmp_path, "cifar10", root=str(root / "cifar-10-batches-py")))


def test_a_missing_batch_is_named(tmp_path):
    root = write_cifar10(tmp_path / "data")
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"cifar10 is incomplete: .*data_batch_3 is missing"):
        resolve(config(tmp_path, "cifar10", root=str(root)))


def test_a_damaged_batch_is_named(tmp_path):
    root = write_cifar10(tmp_path / "data")
    batch = root / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cannot read .*data_batch_3"):
        resolve(config(tmp_path, "cifar10", root=str(root)))


def test_a_label_out_of_range_is_named(tmp_path):
    root = write_cifar10(tmp_path / "data", largest_label=10)
    with pytest.raises(DataError, match=r"data_batch_1 has the label 10, but labels are 0 to 9"):
        resolve(config(tmp_path, "cifar10", root=str(root)))


def test_a_wrong_number_of_values_is_named(tmp_path):
    root = write_cifar10(tmp_path / "data")
    content = {"data": np.zeros((20, 1024), np.uint8), "labels": [0] * 20}
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"test_batch is not a batch of cifar10: .* N x 3072"):
        resolve(config(tmp_path, "cifar10", root=str(root)))


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    root = write_cifar10(tmp_path / "data")

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    (root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DataError, match=r"cannot read .*test_batch: it names __builtin__.exec"):
        resolve(config(tmp_path, "cifar10", root=str(root)))
    assert not (tmp_path / "ran").exists()


def test_downloading_without_a_network_is_one_clear_error(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(DataError, match=r"cannot download cifar10 to .*: .*not known.*data.root"):
        resolve(config(tmp_path, "cifar10", root=str(tmp_path / "new"), download=True))


def test_what_is_there_is_not_downloaded_again(tmp_path, monkeypatch):
    root = write_cifar10(tmp_path / "data")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("downloads"))
    resolve(config(tmp_path, "cifar10", root=str(root), download=True))


def test_a_download_arrives_once_and_is_found_again(tmp_path, monkeypatch):
    """Where no root is set it lies in the cache folder."""
    calls = []

    def fetch(root, download):
        calls.append(root)
        write_cifar10(root)

    genuine = torchvision.datasets.CIFAR10
    fake = SimpleNamespace(
        __call__=fetch,
        train_list=genuine.train_list,
        test_list=genuine.test_list,
        meta=genuine.meta,
    )
    dataset = type("Fake", (), {**vars(fake), "__call__": staticmethod(fetch)})()
    monkeypatch.setattr(cifar, "_torchvision", lambda layout: dataset)
    for _ in range(2):
        resolved, _ = resolve(config(tmp_path, "cifar10", download=True))
        assert resolved.name == "cifar10-modified"
    assert calls == [tmp_path / "cache" / "downloads"]
