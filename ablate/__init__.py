"""Ablation studies of hybrid convolution/attention vision networks.

Importing this package loads no torch: what needs it is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AblateError": "ablate.errors",
    "DataConfig": "ablate.config",
    "TrainConfig": "ablate.config",
    "TrialConfig": "ablate.config",
    "TrialResult": "ablate.config",
    "parse": "ablate.grammar",
    "create_model": "ablate.models",
    "load_weights": "ablate.models",
    "export_weights": "ablate.models",
    "profile": "ablate.cost",
    "create_module": "ablate.training",
    "fit": "ablate.training",
    "load_study": "ablate.study",
    "load_results": "ablate.study",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ablate' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
