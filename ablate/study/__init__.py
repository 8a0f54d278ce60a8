"""Studies: YAML to variants to trials, trained by an engine, recorded as rows.

Names are imported when they are first used: reading a study needs neither pandas nor torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Study": "ablate.study.spec",
    "load_study": "ablate.study.spec",
    "load_curves": "ablate.study.store",
    "load_predictions": "ablate.study.store",
    "load_results": "ablate.study.store",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ablate.study' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
