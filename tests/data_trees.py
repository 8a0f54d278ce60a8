"""Small datasets on disk for the tests: image trees, CIFAR's batches, parquet files."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ablate.config import DataConfig


def config(tmp_path: Path, name: str = "image_folder", **fields: Any) -> DataConfig:
    """A config whose cache lies in the test's own folder."""
    return DataConfig(name=name, cache=str(tmp_path / "cache"), **fields)


def random_image(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> PIL.Image.Image:
    """Noise; `size` is (width, height)."""
    rng = np.random.default_rng(seed)
    bands = len(PIL.Image.new(mode, (1, 1)).getbands())
    pixels = rng.integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return PIL.Image.fromarray(pixels.squeeze(2) if bands == 1 else pixels, mode=None)


def write_tree(
    root: Path,
    *,
    classes: Sequence[str] = ("cat", "dog"),
    train: int = 6,
    test: int = 3,
    test_folder: str = "test",
    suffix: str = ".png",
    size: tuple[int, int] = (8, 8),
) -> Path:
    """ROOT/train/<class>/ and ROOT/test/<class>/ with `train` and `test` images each."""
    seed = 0
    for folder, count in (("train", train), (test_folder, test)):
        for name in classes:
            (root / folder / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                random_image(seed, size).save(root / folder / name / f"{number}{suffix}")
    return root


def write_cifar10(root: Path, *, per_batch: int = 20, largest_label: int = 9) -> Path:
    """ROOT/cifar-10-batches-py as torchvision unpacks it, with few random images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        labels = [index % 10 for index in range(per_batch)]
        labels[-1] = largest_label
        data = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=2))
    meta = {"label_names": [f"class{number}" for number in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return root


def write_parquet(
    path: Path,
    count: int,
    label: Callable[[int], Any],
    names: Sequence[str] | None = ("cat", "dog"),
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    """One parquet file of `count` images in the layout of Hugging Face datasets."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": png(seed), "path": None} for seed in range(count)]
    table = pa.table({columns[0]: images, columns[1]: [label(i) for i in range(count)]})
    if names is not None:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def png(seed: int) -> bytes:
    """The bytes of a PNG file of noise."""
    buffer = io.BytesIO()
    random_image(seed).save(buffer, "PNG")
    return buffer.getvalue()
