"""How much of the difference between runs each factor explains, with seeds as the yardstick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.errors import ResultsError
from ablate.report import style
from ablate.study.mirror import accuracy_column, mirror, quiet_optuna

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study as OptunaStudy
    from optuna.distributions import BaseDistribution

    from ablate.study.spec import Study

SEED = "seed"
_MOST_SEEDS, _MOST = 10, 500
"""Seeds and trials that are looked at: forests on hundreds of seeds take minutes, and the more
values the seed has, the more it gets by chance."""

_GREY = "#999999"


def importances(study: Study, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Share of the variance between runs that each factor explains alone, by Optuna's fANOVA."""
    shares, used = factor_shares(study, rows)
    names = list(shares)
    figure, axes = style.new_figure(1, 1, width=5.6, height=1.5 + 0.3 * len(names))
    axes[0].barh(
        range(len(names)),
        [100 * share for share in shares.values()],
        color=[_GREY if name == SEED else style.colour(0) for name in names],
        height=0.6,
    )
    for place, share in enumerate(shares.values()):
        axes[0].annotate(f"{100 * share:.1f}", (100 * share, place), xytext=(3, 0),
                         textcoords="offset points", va="center", fontsize=7)  # fmt: skip
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[0].margins(x=0.12)
    axes[0].set_xlim(left=0)
    split = "validation" if accuracy_column(rows) == "val_top1" else "test"
    axes[0].set(xlabel=f"Share of the variance of {split} top-1 (%)")
    done = int((rows["status"] == "done").sum())
    style.legend_below(figure, axes[0], _note(SEED in shares, used, done))
    figure.suptitle(f"{study.name}: importance of factors", fontsize=10)
    return figure


def _note(has_seed: bool, used: int, done: int) -> str:
    told = (
        "Grey: what the seed explains; a factor that explains no more is not told from chance.\n"
        "The rest up to 100% is interactions and noise."
        if has_seed
        else "One seed: the noise between runs is part of every share.\n"
        "The rest up to 100% is interactions."
    )
    return told if used == done else f"{told} Of {used:,} of {done:,} finished trials."


def factor_shares(study: Study, rows: pd.DataFrame) -> tuple[dict[str, float], int]:
    """The share of the variance of accuracy that each varied factor explains by itself.

    Functional ANOVA of a random forest (Hutter, Hoos and Leyton-Brown, ICML 2014), Optuna's. Where
    runs were repeated the seed is one more factor. It has no effect of its own to speak of, so its
    share says how much chance alone gets; without it the forest would lend the noise to the rest.

    Args:
        study: gives the factors.
        rows: one row a trial; finished ones that have all factors are used.

    Returns:
        The shares, largest first, of 1; and how many trials they are from.

    Raises:
        ResultsError: fewer than two factors, or no accuracies, differ between finished trials.
    """
    from optuna.importance import FanovaImportanceEvaluator

    names = varied_factors(rows)
    done = _usable(rows)
    if len(names) < 2:
        raise ResultsError(
            f"{study.name}: importances compare two or more factors, but the finished trials vary "
            f"{', '.join(names) or 'none'}"
        )
    if done[accuracy_column(done)].nunique() < 2:
        raise ResultsError(f"{study.name}: importances share out what differs, but all finished "
                           "trials have the same accuracy")  # fmt: skip
    if done["seed"].nunique() > 1:
        names = [*names, SEED]
    trials = _coded(study, done)
    shares = FanovaImportanceEvaluator(seed=0).evaluate(trials, params=sorted(names))
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return {name: float(share) for name, share in ordered}, len(done)


def has_importances(rows: pd.DataFrame) -> bool:
    """Whether finished trials differ in two factors or more, and in accuracy."""
    done = _usable(rows)
    return len(varied_factors(rows)) > 1 and bool(done[accuracy_column(done)].nunique() > 1)


def varied_factors(rows: pd.DataFrame) -> list[str]:
    """Factors with two levels or more in the finished trials, that more than half of these have."""
    done = rows.loc[rows["status"] == "done", "variant"]
    levels: dict[str, list[str]] = {}
    for variant in done:
        for name, level in variant.items():
            levels.setdefault(name, []).append(repr(level))
    return [name for name, own in levels.items() if 2 * len(own) > len(done) and len(set(own)) > 1]


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    """The finished trials that have all factors, with the first seeds; of many always one sample.

    They are in the order of their keys.
    """
    names = set(varied_factors(rows))
    complete = rows["variant"].map(lambda levels: names <= levels.keys()).astype(bool)
    done = rows[(rows["status"] == "done") & complete]
    first = sorted(done["seed"].unique())[:_MOST_SEEDS]
    kept = done[done["seed"].isin(first)].sort_values("key")
    return kept if len(kept) <= _MOST else kept.sample(_MOST, random_state=0)


def _coded(study: Study, done: pd.DataFrame) -> OptunaStudy:
    """The mirror of the finished trials, with seeds, and choices as their number in the list.

    Optuna's fANOVA takes time exponential in the number of choices; numbers have no such cost, and
    a tree can part them as well.
    """
    import optuna

    seeded = done.assign(settings=done["seed"].map(lambda seed: {SEED: int(seed)}))
    no_curves = pd.DataFrame({"key": [], "variant_name": []})
    found = mirror(study, seeded, no_curves, objectives=(accuracy_column(done),))
    with quiet_optuna():
        coded = optuna.study.create_study(study_name=found.study_name)
    for trial in found.trials:
        if trial.state == optuna.trial.TrialState.COMPLETE:
            coded.add_trial(
                optuna.trial.create_trial(
                    values=trial.values,
                    params=_numbers(trial.params, trial.distributions),
                    distributions=_number_ranges(trial.distributions),
                )
            )
    return coded


def _numbers(
    params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> dict[str, float]:
    return {name: distributions[name].to_internal_repr(value) for name, value in params.items()}


def _number_ranges(distributions: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    from optuna.distributions import FloatDistribution

    return {
        name: FloatDistribution(0, len(found.choices) - 1)
        if hasattr(found, "choices")
        else FloatDistribution(found.low, found.high, log=found.log)
        for name, found in distributions.items()
    }
