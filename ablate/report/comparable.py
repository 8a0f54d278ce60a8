"""Whether a measured number may be set against a reported one, and if not, why."""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from ablate.errors import AblateError
from ablate.grammar import canonical, override
from ablate.papers import PaperTable, Row
from ablate.presets import expand

_ALL = 0.9
"""Share of the paper's training images that counts as all: some are held out for validation."""


def not_comparable(paper: PaperTable, done: pd.DataFrame, row: Row | None = None) -> str:
    """`not comparable: <dataset>, <epochs> epochs`, with what else differs; empty where nothing.

    Args:
        paper: the published table.
        done: the finished rows that are to stand beside its rows.
        row: the one row they stand beside; its network is compared too.
    """
    if done.empty:
        return ""
    wanted = paper.recipe_of(row) if row else paper.recipe
    datasets = sorted(set(done["dataset"]))
    epochs = sorted({int(value) for value in done["epochs"]})
    sizes = sorted({int(value) for value in done["image_size"]})
    same_data = set(datasets) <= {wanted.data, *wanted.aliases}
    same_epochs = wanted.epochs is None or epochs == [wanted.epochs]
    others = []
    if sizes != [wanted.image_size]:
        others.append(f"{_listed(sizes)} pixels")
    fewest = int(done["train_images"].min())
    if same_data and wanted.train_images and fewest < _ALL * wanted.train_images:
        others.append(f"{fewest:,} training images")
    if row is not None and not all(same_network(row, arch) for arch in set(done["arch"])):
        others.append("another network")
    if same_data and same_epochs and not others:
        return ""
    reason = f"not comparable: {_listed(datasets)}, {_listed(epochs)} epochs"
    return ", ".join([reason, *others])


def same_network(row: Row, arch: str) -> bool:
    """Whether an arch string is the row's network, stochastic depth aside (it is the recipe's)."""
    return row.arch is not None and _network(row.arch) == _network(arch)


@lru_cache(maxsize=1024)
def _network(arch: str) -> str:
    try:
        return canonical(override(expand(arch), drop_path_rate="0"))
    except AblateError:  # torchvision:NAME and timm:NAME are no arch strings
        return arch


def _listed(items: list[str] | list[int]) -> str:
    return " and ".join(map(str, items))
