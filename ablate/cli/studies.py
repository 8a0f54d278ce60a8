"""Verbs that train or plan: run, plan, status, retry, init."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ablate.cli.common import (
    as_json,
    console,
    example,
    folders,
    print_json,
    print_table,
    study_arguments,
    tuning_of,
)


def _execution(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of `run` and `retry` that change no number."""
    for option in (
        click.option("--fail-fast", is_flag=True, help="The first failure stops the others."),
        click.option("--retries", type=click.IntRange(0), default=1, show_default=True,
                     help="How often a trial is tried again whose process died."),
        click.option("--device", default="auto", show_default=True,
                     help="auto, cpu, cuda, cuda:1, mps."),
        click.option("--threads", type=click.IntRange(1),
                     help="CPU threads a trial (default: cores divided between workers)."),
        click.option("--per-gpu", type=click.IntRange(1), default=1, show_default=True,
                     help="Trials that share one GPU."),
        click.option("--workers", "-w", type=click.IntRange(1),
                     help="Trials at once (default: one a GPU, or one a CPU core)."),
        click.option("--cluster", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
                     help="YAML with the executors' options, laid over the study's `cluster:`."),
        click.option("--address", metavar="HOST:PORT",
                     help="Of a Ray cluster (default: a Ray of its own on this machine)."),
        click.option("--executor", "-e", default="local", show_default=True,
                     help="serial (this process), local (worker processes), slurm or ray."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(
    "run",
    epilog=example(
        "ablate run studies/position_encoding.yaml",
        "ablate run studies/position_encoding.yaml --profile cifar10 --set data.root=DIR",
        "ablate run layout --set seeds=5 --set train.epochs=40 --workers 2",
    ),
)
@study_arguments
@folders
@_execution
@click.option("--fresh", is_flag=True, help="Train again what is done; old runs are put aside.")
@as_json
def run_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    fresh: bool,
    as_json: bool,
    **execution: Any,
) -> None:
    """Train what STUDY misses; write and print its table.

    STUDY is a YAML file, or the name of a study in ./studies or shipped with ablate. Trials that
    have a result already are not trained again, an interrupted one goes on from its last epoch.
    Ctrl-C finishes the current epochs and stops; a second one stops at once; nothing is lost.
    """
    from ablate.study.spec import load_study

    loaded = load_study(study, profile, overrides)
    from ablate.study.engine import run  # a mistake in the study is told before this

    settings = _settings(loaded, runs, results, fresh="all" if fresh else "no", **execution)
    _train(loaded, settings, run, as_json=as_json)


@click.command(
    "retry",
    epilog=example(
        "ablate retry studies/layout.yaml",
        "ablate retry studies/layout.yaml --kind out_of_memory --workers 1",
        "ablate retry studies/layout.yaml --kind stale",
    ),
)
@study_arguments
@folders
@_execution
@click.option(
    "--kind",
    help="Only failures of this kind: diverged, out_of_memory, timeout, killed, invalid, error; "
    "or stale: results of changed code or data.",
)
@as_json
def retry_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    kind: str | None,
    as_json: bool,
    **execution: Any,
) -> None:
    """Run the failed trials of STUDY again, and what is missing."""
    from ablate.study.spec import load_study

    loaded = load_study(study, profile, overrides)
    from ablate.study.engine import retry  # a mistake in the study is told before this

    settings = _settings(loaded, runs, results, **execution)
    _train(loaded, settings, functools.partial(retry, kind=kind), as_json=as_json)


def _settings(
    study: Any, runs: Path, results: Path, *, cluster: Path | None, address: str | None, **more: Any
) -> Any:
    """Settings; the executor's options are the study's, the file's over them, then `--address`."""
    from ablate.study.cluster import options_for, read_cluster
    from ablate.study.settings import Settings

    file = read_cluster(cluster) if cluster else {}
    options = options_for(more["executor"], study.cluster, file, address=address)
    return Settings(runs=runs, results=results, options=options, **more)


def _train(study: Any, settings: Any, train: Callable[..., Any], *, as_json: bool) -> None:
    """Train, publish what changed, print; the exit code says how it ended."""
    from ablate.report.publish import evidence_table, publish
    from ablate.study.progress import progress_sink, silent
    from ablate.study.store import load_curves, load_results

    summary = train(study, settings, sink=silent if as_json else progress_sink())
    where = {"results": settings.results, "runs": settings.runs}
    rows = load_results(study, **where)
    files: list[Path] = []
    if summary.changed or not (summary.folder / "table.md").exists():
        curves, tuning = load_curves(study, **where), tuning_of(study, **where)
        files = publish(study, rows, curves, summary.folder, tuning)
    if as_json:
        facts = {**dataclasses.asdict(summary), "files": files}
        print_json({**facts, "table": evidence_table(study, rows).to_json()})
    else:
        click.echo()
        click.echo(evidence_table(study, rows).render("terminal", width=console().width))
        _print_end(study, summary, files)
    raise SystemExit(summary.exit_code)


_EVIDENCE = (".md", ".tex", ".png")


def _print_end(study: Any, summary: Any, files: list[Path]) -> None:
    """Failures, what is missing, and the files that were written."""
    from ablate.study.progress import duration

    for failure in summary.failed:
        click.echo(f"failed: {failure['label']}: {failure['kind']}: {failure['message']}", err=True)
    for complaint in summary.complaints:
        click.echo(f"note: {complaint}", err=True)
    pruned = f", {summary.pruned} pruned" if summary.pruned else ""
    if summary.missing:
        click.echo(f"{len(summary.missing)} trials are not finished; run the same command again")
    click.echo(
        f"\n{summary.done} of {summary.total} trials done{pruned}, {summary.trained} trained now "
        f"in {duration(summary.seconds)}; {'written' if files else 'as written before'}:"
    )
    files = files or sorted(p for p in summary.folder.glob("*.*") if p.suffix in _EVIDENCE)
    rows = [summary.folder / name for name in ("trials.csv", "curves.csv", "meta.json")]
    for path in (*(path for path in rows if path.exists()), *files):
        click.echo(f"  {path}")


@click.command(
    "plan",
    epilog=example(
        "ablate plan studies/position_encoding.yaml",
        "ablate plan layout --profile cifar10 --probe all",
        "ablate plan layout --probe none --json",
    ),
)
@study_arguments
@folders
@click.option(
    "--probe",
    type=click.Choice(["some", "all", "none"]),
    default="some",
    show_default=True,
    help="Time short probes of the real step: at most five, one for each variant, or none.",
)
@click.option("--workers", "-w", type=click.IntRange(1), default=1, show_default=True,
              help="Trials at once, for the expected time.")  # fmt: skip
@as_json
def plan_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    probe: str,
    workers: int,
    as_json: bool,
) -> None:
    """What STUDY will cost and what it can detect; trains nothing.

    Every variant is built without weights: canonical arch, params, MACs, memory, expected time,
    what else differs from the baseline, and the smallest difference that the seeds can detect.
    """
    from ablate.study.spec import load_study

    loaded = load_study(study, profile, overrides)
    from ablate.study.plan import plan  # a mistake in the study is told before this

    planned = plan(loaded, probe=probe, runs=runs, results=results, workers=workers)
    if as_json:
        print_json(planned.to_json())
        return
    if loaded.question:
        click.echo(loaded.question)
    print_table(*planned.table())
    for line in planned.notes():
        click.echo(line)


@click.command(
    "status",
    epilog=example("ablate status studies/layout.yaml", "ablate status layout --json"),
)
@study_arguments
@folders
@as_json
def status_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    as_json: bool,
) -> None:
    """What is done, running, failed and missing in STUDY, and what has changed under it."""
    from ablate.study.spec import load_study
    from ablate.study.status import status

    loaded = load_study(study, profile, overrides)
    found = status(loaded, runs=runs, results=results)
    if as_json:
        print_json({"study": loaded.full_name, **dataclasses.asdict(found)})
        return
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    click.echo(f"{loaded.full_name}: {len(found.trials)} trials: {counts}")
    open_trials = [t for t in found.trials if t.status not in ("done", "missing") or t.stale]
    if open_trials:
        columns = ("variant", "seed", "status", "epoch", "what", "key")
        print_table(columns, [_status_row(trial) for trial in open_trials])
    if found.queued:
        click.echo(f"{found.queued} of the missing trials were submitted to Slurm; see squeue --me")
    for complaint in found.complaints:
        click.echo(f"note: {complaint}")


def _status_row(trial: Any) -> tuple[object, ...]:
    what = trial.message or "; ".join(trial.stale)
    if trial.owner:
        job, process = trial.owner.get("job"), trial.owner.get("pid")
        what = f"{trial.owner.get('host')}, " + (f"job {job}" if job else f"process {process}")
    state = trial.failure or ("stale" if trial.stale else trial.status)
    return trial.variant_name, trial.seed, state, trial.epoch, what or None, trial.key[:12]


@click.command("init", epilog=example("ablate init", "ablate init my-studies"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("studies"))
def init_command(folder: Path) -> None:
    """Write the shipped studies to FOLDER (default: studies/); existing files are kept."""
    import shutil

    from ablate.study.find import shipped_studies

    folder.mkdir(parents=True, exist_ok=True)
    for path in shipped_studies().values():
        target = folder / path.name
        if target.exists():
            click.echo(f"kept {target}")
        else:
            shutil.copyfile(path, target)
            click.echo(f"wrote {target}")
