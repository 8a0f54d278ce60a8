"""Parquet files with the bytes of images, as Hugging Face datasets are distributed.

    ROOT/**/train-*.parquet      ROOT/**/test-*.parquet  (or validation-*)

A column of image bytes (binary, or a struct with `bytes`) and a column of labels (integers, or
names). Where `test` has no labels (all of them -1), `validation` is read. Each split is copied once
into an Arrow file in the cache, from which any image is read without reading the others.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ablate.config import DataConfig
from ablate.data.cache import built_once, cache_folder
from ablate.data.decode import decode
from ablate.data.files import (
    FileFact,
    content_fingerprint,
    existing_folder,
    list_files,
    remembered_facts,
)
from ablate.data.sources import SOURCES, Image, Source
from ablate.errors import DataError

_LAYOUT = "train-*.parquet and test-*.parquet or validation-*.parquet"
_SPLIT = re.compile(r"(?:^|[-_./])(train|test|validation|valid|val)(?=[-_./])")
_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class ParquetImages:
    """The images of one split, in an Arrow file that each process maps by itself."""

    path: Path
    labels: NDArray[np.int64]

    def read(self, index: int) -> Image:
        """Decode one image; an error names its file and row."""
        table = _mapped(self.path)
        content, where = (table.column(name)[index].as_py() for name in ("bytes", "where"))
        if content is None:
            raise DataError(f"the image {where} has no bytes in the file, only a path")
        return decode(io.BytesIO(content), where)


@dataclass(frozen=True)
class _Columns:
    """Where a set of parquet files keeps images and labels."""

    image: str
    label: str
    names: tuple[str, ...] | None


def parquet(config: DataConfig) -> Source:
    """Parquet files with image bytes; its own name is the root folder's, in lower case.

    Raises:
        DataError: pyarrow is missing, or files, columns or labels are not as described above.
    """
    _pyarrow()
    root = existing_folder(config.root, _LAYOUT)
    splits = _splits(root)
    test = _labelled(root, splits)
    files = [*splits["train"], *splits[test]]
    cache = cache_folder(config)
    facts = remembered_facts(
        cache, root, files, lambda: {"fingerprint": content_fingerprint(root, files)}
    )
    columns = _columns(root / files[0].path)
    names = columns.names or _found_names(root, splits["train"], columns)
    parts = [
        _images(
            cache / "arrow" / f"{facts['fingerprint'][:16]}-{part}.arrow",
            root,
            splits[part],
            columns,
            names,
        )
        for part in ("train", test)
    ]
    name = root.resolve().name.lower()
    return Source(
        name=f"{name}-parquet" if name in SOURCES else name,
        class_names=names,
        train=parts[0],
        test=parts[1],
        fingerprint=facts["fingerprint"],
    )


def _pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DataError(
            "parquet files need pyarrow: pip install 'ablate-vision[parquet]'"
        ) from error


def _splits(root: Path) -> dict[str, list[FileFact]]:
    """The parquet files of each split, by the last split's name in their path."""
    splits: dict[str, list[FileFact]] = {}
    for fact in list_files(root, [".parquet"]):
        found = _SPLIT.findall(fact.path)
        if found:
            name = "validation" if found[-1] in {"valid", "val"} else found[-1]
            splits.setdefault(name, []).append(fact)
    if "train" not in splits or len(splits) == 1:
        raise DataError(
            f"data.root={root} must hold {_LAYOUT}, but it holds parquet files of "
            f"{', '.join(sorted(splits)) or 'no split'}"
        )
    return splits


def _labelled(root: Path, splits: dict[str, list[FileFact]]) -> str:
    """Which split the final number is measured on."""
    for name in ("test", "validation"):
        if name in splits:
            first = root / splits[name][0].path
            if set(_read_labels(first, _columns(first).label)) != {-1}:
                return name
    raise DataError(f"data.root={root}: neither test nor validation has labels (all are -1)")


def _columns(path: Path) -> _Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _opened(path, pq.read_schema)
    images = [
        field.name
        for field in schema
        if pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    labels = [
        field.name
        for field in schema
        if pa.types.is_integer(field.type) or pa.types.is_string(field.type)
    ]
    image = _one_of(images, _IMAGE_NAMES, "image bytes", path, schema.names)
    label = _one_of(labels, _LABEL_NAMES, "labels", path, schema.names)
    return _Columns(image, label, _class_names(schema.metadata or {}, label))


def _one_of(
    found: Sequence[str], known: Sequence[str], what: str, path: Path, columns: Sequence[str]
) -> str:
    """The only column of a type, else the one with a known name."""
    named = [name for name in known if name in found]
    if named or len(found) == 1:
        return named[0] if named else found[0]
    raise DataError(
        f"{path} has {len(found)} columns that could hold {what}; name one of them "
        f"{' or '.join(known)} (its columns: {', '.join(columns)})"
    )


def _class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """Names that Hugging Face's metadata gives to a column of labels."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(features[label]["names"])
    except (ValueError, KeyError, TypeError):
        return None


def _found_names(root: Path, files: list[FileFact], columns: _Columns) -> tuple[str, ...]:
    """Without metadata: the names in the column, or the numbers up to the largest label."""
    values = {value for f in files for value in _read_labels(root / f.path, columns.label)}
    if any(isinstance(value, str) for value in values):
        return tuple(sorted(str(value) for value in values))
    return tuple(str(number) for number in range(max(values, default=0) + 1))


def _opened(path: Path, reader: Any, **options: Any) -> Any:
    try:
        return reader(path, **options)
    except Exception as error:  # Arrow raises OSError, ArrowInvalid, ... on damaged files
        raise DataError(f"cannot read {path}: {error}") from error


def _read_labels(path: Path, column: str) -> list[Any]:
    import pyarrow.parquet as pq

    values: list[Any] = _opened(path, pq.read_table, columns=[column]).column(0).to_pylist()
    return values


def _images(
    path: Path,
    root: Path,
    files: list[FileFact],
    columns: _Columns,
    names: tuple[str, ...],
) -> ParquetImages:
    built_once(path, lambda file: _copy(file, root, files, columns))
    raw = _mapped(path).column("label").to_pylist()
    label_of: dict[Any, int] = {name: label for label, name in enumerate(names)}
    label_of |= {label: label for label in range(len(names))}
    for row, value in enumerate(raw):
        if value not in label_of:
            where = _mapped(path).column("where")[row].as_py()
            raise DataError(
                f"the image {where} has the label {value!r}, but the labels are 0 to "
                f"{len(names) - 1} ({names[0]}, ..., {names[-1]})"
            )
    return ParquetImages(path, np.array([label_of[value] for value in raw], dtype=np.int64))


def _copy(file: BinaryIO, root: Path, files: list[FileFact], columns: _Columns) -> None:
    """Write the split as an Arrow file with the columns bytes, label and where."""
    import pyarrow as pa

    writer = None
    for batch in _batches(root, files, columns):
        writer = writer or pa.ipc.new_file(file, batch.schema)
        writer.write_batch(batch)
    if writer is None:
        raise DataError(f"the split in {root / files[0].path} has no images")
    writer.close()


def _batches(root: Path, files: list[FileFact], columns: _Columns) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for fact in files:
        row = 0
        reader = _opened(root / fact.path, pq.ParquetFile)
        for batch in reader.iter_batches(1024, columns=[columns.image, columns.label]):
            image = batch.column(columns.image)
            content = image.field("bytes") if pa.types.is_struct(image.type) else image
            label = batch.column(columns.label)
            where = [f"{root / fact.path} row {row + offset}" for offset in range(len(batch))]
            row += len(batch)
            if len(batch):
                yield pa.record_batch(
                    [
                        content.cast(pa.large_binary()),
                        label.cast(pa.string() if pa.types.is_string(label.type) else pa.int64()),
                        pa.array(where),
                    ],
                    names=["bytes", "label", "where"],
                )


@lru_cache(maxsize=8)
def _mapped(path: Path) -> Any:
    """The table of an Arrow file: a memory map, one in each process."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
