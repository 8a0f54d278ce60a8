"""Named splits: `train`, `val` (held out of train), and the fixed subset that train is measured on.

One stratified order of the training images, fixed by `split_seed`, is cut once:

    | val | train_fraction 0.1 | ... 0.3 | ... 1.0 |

so a smaller fraction is contained in every larger one, and `val` is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablate.config import DataConfig
from ablate.data.ordering import stratified_order
from ablate.errors import DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Indices into the training images of a source.

    Args:
        train: what the network learns from.
        val: held out of the training images; never seen in training, whatever the fraction.
        train_eval: the part of `train` on which train loss and accuracy are measured.
    """

    train: Indices
    val: Indices
    train_eval: Indices


def split(labels: NDArray[np.int64], config: DataConfig, class_names: Sequence[str]) -> Splits:
    """Cut the training images into val, train and the subset that train is measured on.

    Args:
        labels: class of each training image, (N,).
        config: its `val_fraction`, `train_fraction`, `split_seed` and `eval_subset` are read.
        class_names: for messages.

    Returns:
        The splits, each sorted by index: the order on disk, which is read fastest.

    Raises:
        DataError: a split would have no image, or a class no training image.
    """
    order = stratified_order(labels, config.split_seed)
    held_out = round(config.val_fraction * len(order))
    if config.val_fraction > 0 and held_out == 0:
        raise DataError(
            f"data.val_fraction={config.val_fraction} of {len(order)} training images leaves the "
            f"split `val` with no images; set it to 0, or to at least {1 / len(order):.2g}"
        )
    pool = order[held_out:]
    train = pool[: round(config.train_fraction * len(pool))]
    _check_classes(labels, train, config, class_names)
    return Splits(
        train=np.sort(train),
        val=np.sort(order[:held_out]),
        train_eval=np.sort(train[: config.eval_subset]),
    )


def _check_classes(
    labels: NDArray[np.int64], train: Indices, config: DataConfig, class_names: Sequence[str]
) -> None:
    counts = np.bincount(labels[train], minlength=len(class_names))
    empty = [class_names[label] for label in np.flatnonzero(counts == 0).tolist()]
    if empty:
        raise DataError(
            f"data.train_fraction={config.train_fraction} with data.val_fraction="
            f"{config.val_fraction} leaves {len(empty)} of {len(class_names)} classes without a "
            f"training image (the first is {empty[0]!r}); {len(labels)} images are in train"
        )
