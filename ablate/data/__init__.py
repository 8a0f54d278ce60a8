"""Images for trials: where they come from, how they are split, how they reach the network.

`resolve` and `prepare` say what a dataset is and need no torch; `DataModule` feeds a Trainer.
To add a dataset: one file with a function `DataConfig -> Source`, one line in `sources.SOURCES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ablate.data.resolve import DatasetInfo, prepare, resolve
from ablate.data.sources import names

if TYPE_CHECKING:
    from ablate.data.module import DataModule

__all__ = ["DataModule", "DatasetInfo", "names", "prepare", "resolve"]


def __getattr__(name: str) -> Any:
    """Import `DataModule` when it is asked for: it brings torch and Lightning."""
    if name == "DataModule":
        from ablate.data.module import DataModule

        return DataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
