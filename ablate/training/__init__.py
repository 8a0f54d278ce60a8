"""Training: the LightningModule, the recipe, and `fit`, which trains one trial in its folder.

The outcomes can be named without loading torch; the rest is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ablate.training.outcomes import Diverged, Interrupted, TimedOut

if TYPE_CHECKING:
    from ablate.training.initial import resolve_init
    from ablate.training.module import ImageClassifier, create_module
    from ablate.training.session import fit

__all__ = [
    "Diverged",
    "ImageClassifier",
    "Interrupted",
    "TimedOut",
    "create_module",
    "fit",
    "resolve_init",
]

_HOMES = {
    "ImageClassifier": "module",
    "create_module": "module",
    "fit": "session",
    "resolve_init": "initial",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ablate.training.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
