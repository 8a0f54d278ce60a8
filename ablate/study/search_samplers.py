"""Optuna's samplers, pruners and distributions for a search."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from ablate.study.search_parse import Search
from ablate.study.search_space import Dimension


def suggest(trial: Trial, dimension: Dimension) -> Any:
    """The value of a dimension in a proposal."""
    found = distribution(dimension)
    name = dimension.name
    if isinstance(found, CategoricalDistribution):
        return trial.suggest_categorical(name, found.choices)
    if isinstance(found, IntDistribution):
        return trial.suggest_int(name, found.low, found.high, step=found.step, log=found.log)
    return trial.suggest_float(name, found.low, found.high, log=found.log)


def distribution(
    dimension: Dimension,
) -> CategoricalDistribution | IntDistribution | FloatDistribution:
    """The values of a dimension, as Optuna knows them."""
    if dimension.values:
        return CategoricalDistribution(dimension.values)
    assert dimension.low is not None
    assert dimension.high is not None
    if not dimension.is_whole:
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    low, step = int(dimension.low), dimension.step
    high = low + (int(dimension.high) - low) // step * step  # Optuna warns where it is off the grid
    return IntDistribution(low, high, step=step, log=dimension.log)


def sampler(search: Search, what: str) -> optuna.samplers.BaseSampler:
    """What asks for one thing; two things share no randomness."""
    text = f"{search.seed} {what}"
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
    if search.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=search.batch > 1
            )
    if search.sampler == "nsga2":
        population = min(50, max(4, search.trials // 5))
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
    return optuna.samplers.RandomSampler(seed=seed)


def pruner(name: str, epochs: int | None) -> optuna.pruners.BasePruner:
    """What stops bad trials.

    Args:
        epochs: of a trial.
    """
    if name == "median":
        warmup = max(1, (epochs or 0) // 4)
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warmup)
    if name == "hyperband":
        assert epochs is not None
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    return optuna.pruners.NopPruner()
