"""Training: the LightningModule, the recipe, and `fit`, which trains one trial in its folder."""

from __future__ import annotations

from ablate.training.fit import fit
from ablate.training.initial import resolve_init
from ablate.training.module import ImageClassifier, create_module
from ablate.training.outcomes import Diverged, Interrupted, TimedOut

__all__ = [
    "Diverged",
    "ImageClassifier",
    "Interrupted",
    "TimedOut",
    "create_module",
    "fit",
    "resolve_init",
]
