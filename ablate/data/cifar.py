"""CIFAR-10 and CIFAR-100, as torchvision's datasets write them, or as a tree of image files.

Pixels whose checksums are the published ones are `cifar10`; anything else gets a name of its own
(`cifar10-jpeg` for a tree of JPEG files, `cifar10-modified` for batches with other content) and is
known by its fingerprint.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ablate.config import DataConfig
from ablate.data.cache import JsonFacts, cache_folder
from ablate.data.files import (
    FileFact,
    content_fingerprint,
    existing_folder,
    not_found,
    remembered_facts,
)
from ablate.data.folder import tree_of
from ablate.data.sources import ArrayImages, Source
from ablate.errors import DataError


@dataclass(frozen=True)
class _Layout:
    """What torchvision writes for one dataset.

    Args:
        dataset: name of the class in `torchvision.datasets`.
        folder: that its files lie in.
        label_key, names_key: keys of the pickled labels and class names.
    """

    name: str
    dataset: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    label_key: str
    names_key: str
    num_classes: int


_CIFAR10 = _Layout(
    name="cifar10",
    dataset="CIFAR10",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    label_key="labels",
    names_key="label_names",
    num_classes=10,
)
_CIFAR100 = _Layout(
    name="cifar100",
    dataset="CIFAR100",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    label_key="fine_labels",
    names_key="fine_label_names",
    num_classes=100,
)


def cifar10(config: DataConfig) -> Source:
    """CIFAR-10: 50,000 images for train and val, 10,000 for test, 32x32, 10 classes."""
    return _cifar(config, _CIFAR10)


def cifar100(config: DataConfig) -> Source:
    """CIFAR-100 with its fine labels: 50,000 and 10,000 images, 32x32, 100 classes."""
    return _cifar(config, _CIFAR100)


def _cifar(config: DataConfig, layout: _Layout) -> Source:
    looked_for = f"{layout.folder}/ (data.download=true fetches it) or train/ and test/ or val/"
    if config.download:
        config = _downloaded(config, layout)
    root = existing_folder(config.root, looked_for)
    if (root / layout.folder).is_dir():
        return _from_batches(config, root, layout)
    if (root / "train").is_dir():
        return tree_of(config, layout.name, layout.num_classes)
    raise not_found(root, [f"{layout.folder}/", "train/<class>/"])


def _downloaded(config: DataConfig, layout: _Layout) -> DataConfig:
    """Fetch the dataset where it is not there; one process does, the others wait."""
    root = Path(config.root).expanduser() if config.root else cache_folder(config) / "downloads"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{layout.name}.lock"):
            if not (root / layout.folder).is_dir() and not (root / "train").is_dir():
                _torchvision(layout)(root=root, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a bad checksum RuntimeError
        raise DataError(
            f"cannot download {layout.name} to {root}: {error}; without a network set data.root "
            f"to a folder that holds {layout.folder}/ and data.download to false"
        ) from error
    return config.model_copy(update={"root": str(root)})


def _torchvision(layout: _Layout) -> Any:
    from torchvision import datasets  # brings torch: only to download and for the checksums

    return getattr(datasets, layout.dataset)


def _from_batches(config: DataConfig, root: Path, layout: _Layout) -> Source:
    files = _files(root, layout)
    facts = remembered_facts(
        cache_folder(config), root, files, lambda: _content(root, files, layout)
    )
    names = tuple(_unpickled(root / layout.folder / layout.meta)[layout.names_key])
    parts = [_batch(root / layout.folder / name, layout, len(names)) for name in layout.train]
    return Source(
        name=layout.name if facts["genuine"] else f"{layout.name}-modified",
        class_names=names,
        train=ArrayImages(
            np.concatenate([part.array for part in parts]),
            np.concatenate([part.labels for part in parts]),
        ),
        test=_batch(root / layout.folder / layout.test, layout, len(names)),
        fingerprint=facts["fingerprint"],
        named=facts["genuine"],
    )


def _files(root: Path, layout: _Layout) -> list[FileFact]:
    files = []
    for name in (*layout.train, layout.test, layout.meta):
        path = root / layout.folder / name
        if not path.is_file():
            raise DataError(f"{layout.name} is incomplete: {path} is missing; download it again")
        stat = path.stat()
        files.append(FileFact(f"{layout.folder}/{name}", stat.st_size, stat.st_mtime_ns))
    return files


def _content(root: Path, files: list[FileFact], layout: _Layout) -> JsonFacts:
    published = _torchvision(layout)
    checksums = {
        **dict(published.train_list),
        **dict(published.test_list),
        published.meta["filename"]: published.meta["md5"],
    }
    genuine = all(
        hashlib.md5((root / fact.path).read_bytes()).hexdigest()
        == checksums[fact.path.rpartition("/")[2]]
        for fact in files
    )
    return {"fingerprint": content_fingerprint(root, files), "genuine": genuine}


def _batch(path: Path, layout: _Layout, num_classes: int) -> ArrayImages:
    content = _unpickled(path)
    try:
        flat = np.asarray(content["data"], dtype=np.uint8)
        labels = np.asarray(content[layout.label_key], dtype=np.int64)
        images = flat.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} is not a batch of {layout.name}: it needs `data` of N x 3072 bytes and "
            f"`{layout.label_key}`, but: {error}"
        ) from error
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise DataError(f"{path} has the label {wrong}, but labels are 0 to {num_classes - 1}")
    return ArrayImages(images, labels)


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays and plain containers; a pickle that names anything else is not run."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _unpickled(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"cannot read {path}: it holds {type(content).__name__}, not a dict")
    return content
