"""A study is run: what is done is skipped, what is missing is trained, results are written."""

from __future__ import annotations

from dataclasses import replace

from ablate.errors import ConfigError, unknown
from ablate.study.cells import StudyLike
from ablate.study.driver import Driver
from ablate.study.executors import check_executor
from ablate.study.ledger import KINDS
from ablate.study.progress import Sink, silent
from ablate.study.resolution import look_up
from ablate.study.settings import Settings, Summary
from ablate.study.tuning_run import TuningDriver


def run(study: StudyLike, settings: Settings | None = None, *, sink: Sink = silent) -> Summary:
    """Train what a study misses, and write its results.

    A trial is done when its run folder holds a result or a committed row has its key; a trial
    that failed on this machine stays failed until `retry` names its kind. A study with `tune:`
    first chooses each variant's recipe; one with `design: search` asks Optuna what to train.

    Args:
        sink: is told what happens, see `ablate.study.progress`.

    Raises:
        AblateError: data, weights or settings are wrong; nothing was started.
    """
    settings = settings or Settings()
    check_executor(settings.executor)
    return _driver(study)(study, settings, look_up(study, settings.runs), sink).run()


def _driver(study: StudyLike) -> type[Driver]:
    if study.search is not None:
        from ablate.study.search_run import SearchDriver  # Optuna: only where it is asked

        return SearchDriver
    return Driver if study.tune is None else TuningDriver


def retry(
    study: StudyLike,
    settings: Settings | None = None,
    *,
    kind: str | None = None,
    sink: Sink = silent,
) -> Summary:
    """Train again what failed (of one kind only, if given), and what is missing.

    Args:
        kind: one of `ablate.study.ledger.KINDS`, or "stale" for results of changed code or data.

    Raises:
        ConfigError: there is no such kind.
    """
    settings = settings or Settings()
    if kind == "stale":
        return run(study, replace(settings, fresh="stale"), sink=sink)
    if kind is not None and kind not in KINDS:
        raise ConfigError(unknown("kind of failure", kind, [*KINDS, "stale"]))
    return run(study, replace(settings, retry=(kind,) if kind else KINDS), sink=sink)
