"""Where the Optuna study of a search lies, and how it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from ablate.errors import ResultsError
from ablate.study.search_parse import FOLDER, Search


def storage_url(search: Search, full_name: str, runs: Path) -> str:
    """The study's own URL, or that of a SQLite file beside the runs."""
    return search.storage or f"sqlite:///{(runs / FOLDER / full_name).absolute()}.db"


class NotSearchedYet(Exception):  # noqa: N818  (a state, not an error)
    """The storage holds no such search."""


def opened(
    url: str, name: str, directions: Sequence[Any], pruner: optuna.pruners.BasePruner, create: bool
) -> tuple[optuna.storages.RDBStorage, optuna.Study]:
    """A storage and the study of this name in it.

    Args:
        create: whether a study that is not there is begun.

    Raises:
        ResultsError: the storage does not answer.
        NotSearchedYet: there is no such study, and none is to be begun.
    """
    try:
        rdb = optuna.storages.RDBStorage(url)
        names = optuna.get_all_study_names(rdb)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        told = f"search.storage {without_password(url)} does not answer: {lines[0]}"
        raise ResultsError(told) from error
    if name not in names and not create:
        rdb.engine.dispose()
        raise NotSearchedYet
    study = optuna.create_study(
        storage=rdb, study_name=name, load_if_exists=True, directions=directions, pruner=pruner
    )
    return rdb, study


def without_password(url: str) -> str:
    """A URL for messages."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
