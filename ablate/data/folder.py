"""A tree of image files, one folder a class: ImageNet, and any set of one's own.

    ROOT/train/<class>/**/*.jpg      ROOT/test/<class>/**/*.jpg  (or ROOT/val)

Labels are the classes in sorted order, as torchvision's ImageFolder counts them. Where both
`test/` and `val/` hold classes, `test/` is read and `val/` is not: `val` is held out of train in
every dataset alike.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablate.config import DataConfig
from ablate.data.cache import cache_folder
from ablate.data.decode import decode
from ablate.data.files import (
    FileFact,
    content_fingerprint,
    existing_folder,
    list_files,
    not_found,
    remembered_facts,
)
from ablate.data.sources import SOURCES, Image, Source
from ablate.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_LAYOUT = "train/<class>/ and test/<class>/ or val/<class>/ with image files"


@dataclass(frozen=True)
class FileImages:
    """Image files below a root; paths are kept as bytes in one array, so workers share it."""

    root: Path
    paths: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def read(self, index: int) -> Image:
        """Decode one file; an error names it."""
        path = self.root / os.fsdecode(bytes(self.paths[index]))
        return decode(path, str(path))


@dataclass(frozen=True)
class _Tree:
    """One split on disk: its classes in order, and for each file its class."""

    classes: tuple[str, ...]
    files: list[FileFact]

    def images(self, root: Path) -> FileImages:
        label_of = {name: label for label, name in enumerate(self.classes)}
        labels = [label_of[fact.path.split("/", 2)[1]] for fact in self.files]
        paths = np.array([os.fsencode(fact.path) for fact in self.files])
        return FileImages(root, paths, np.array(labels, dtype=np.int64))


def image_folder(config: DataConfig) -> Source:
    """Any tree of image files; its own name is the root folder's, in lower case.

    A root called like one of our datasets gets the format of its files added: a folder `cifar10`
    of JPEG files is `cifar10-jpeg`.
    """
    source, file_format = read_tree(config)
    taken = source.name in SOURCES
    return replace(source, name=f"{source.name}-{file_format}") if taken else source


def tree_of(config: DataConfig, name: str, num_classes: int) -> Source:
    """A tree of image files that stands in for a published dataset: `NAME-FORMAT`.

    Raises:
        DataError: as `image_folder`, and where the number of classes is not the dataset's.
    """
    source, file_format = read_tree(config)
    if len(source.class_names) != num_classes:
        raise DataError(
            f"data.root={config.root} has {len(source.class_names)} classes, but {name} has "
            f"{num_classes}; for images of your own set data.name to image_folder"
        )
    return replace(source, name=f"{name}-{file_format}")


def read_tree(config: DataConfig) -> tuple[Source, str]:
    """A tree as a source named by its folder, and the format that most of its files have."""
    root = existing_folder(config.root, _LAYOUT)
    train_folder, test_folder = _split_folders(root)
    train, test = _scan(train_folder), _scan(test_folder)
    _check_same_classes(train_folder, train, test_folder, test)
    files = [*train.files, *test.files]
    facts = remembered_facts(
        cache_folder(config),
        root,
        files,
        lambda: {"fingerprint": content_fingerprint(root, files)},
    )
    source = Source(
        name=root.resolve().name.lower() or "image_folder",
        class_names=train.classes,
        train=train.images(root),
        test=test.images(root),
        fingerprint=facts["fingerprint"],
    )
    return source, _format(train.files)


def _split_folders(root: Path) -> tuple[Path, Path]:
    if not (root / "train").is_dir():
        raise not_found(root, ["train/<class>/"])
    for name in ("test", "val"):
        if _class_names(root / name):
            return root / "train", root / name
    raise not_found(root, ["test/<class>/", "val/<class>/"])


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        names = (e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        return tuple(sorted(names))


def _scan(folder: Path) -> _Tree:
    """List a split; every class must have an image."""
    classes = _class_names(folder)
    if not classes:
        raise DataError(f"the split {folder} has no images: it holds no class folders")
    files: list[FileFact] = []
    for name in classes:
        found = list_files(folder / name, SUFFIXES, f"{folder.name}/{name}/")
        if not found:
            raise DataError(
                f"the class folder {folder / name} has no images "
                f"(files that end in {', '.join(SUFFIXES)})"
            )
        files += found
    return _Tree(classes, files)


def _check_same_classes(train_folder: Path, train: _Tree, test_folder: Path, test: _Tree) -> None:
    only_train = sorted(set(train.classes) - set(test.classes))
    only_test = sorted(set(test.classes) - set(train.classes))
    if only_train or only_test:
        parts = [
            f"{len(names)} only in {folder} ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"
            for folder, names in ((train_folder, only_train), (test_folder, only_test))
            if names
        ]
        raise DataError(f"the classes of the splits differ: {'; '.join(parts)}")
    if len(train.classes) < 2:
        raise DataError(f"{train_folder} has one class ({train.classes[0]}); two are the least")


def _format(files: list[FileFact]) -> str:
    counts = Counter(fact.path.rpartition(".")[2].lower() for fact in files)
    suffix = counts.most_common(1)[0][0]
    return {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
