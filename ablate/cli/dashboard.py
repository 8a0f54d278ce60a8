"""The verb that serves a study to a browser: dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ablate.cli.common import example, folders, study_arguments, tuning_of


@click.command(
    "dashboard",
    epilog=example(
        "ablate dashboard layout",
        "ablate dashboard layout --objective val_top1 --objective macs",
        "ablate dashboard layout --port 0 --refresh 5",
    ),
)
@study_arguments
@folders
@click.option("--objective", "objectives", multiple=True, metavar="NAME",
              help="val_top1, val_loss, top1, params or macs; two make a Pareto front (default: a "
              "search's own, else val_top1, or top1 where nothing is held out).")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Interface to listen on; others than this machine reach 0.0.0.0.")  # fmt: skip
@click.option("--port", type=int, default=8080, show_default=True, help="0 takes a free one.")
@click.option("--refresh", type=click.FloatRange(0), default=10.0, show_default=True,
              metavar="SECONDS", help="Between looks for new trials; 0 never looks.")  # fmt: skip
def dashboard_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    objectives: tuple[str, ...],
    host: str,
    port: int,
    refresh: float,
) -> None:
    """Show the trials of STUDY in a browser, with optuna-dashboard, until Ctrl-C.

    Trials of every design are shown, from run folders and committed results, and new ones while a
    sweep runs. It only reads: notes and names that are changed on the page are not kept.

    \b
    Needs: pip install 'ablate-vision[dashboard]'
    """
    from ablate.report.dashboard import Dashboard
    from ablate.study.mirror import with_tuning
    from ablate.study.spec import load_study
    from ablate.study.store import load_curves, load_results

    loaded = load_study(study, profile, overrides)
    where = {"results": results, "runs": runs}

    def load() -> tuple[Any, Any]:
        rows = with_tuning(load_results(loaded, **where), tuning_of(loaded, **where))
        return rows, load_curves(loaded, **where)

    shown = Dashboard(
        loaded,
        load,
        host=host,
        port=port,
        objectives=objectives,
    )
    click.echo(
        f"{loaded.full_name}: {shown.trials} trials; objective: {', '.join(shown.objectives)}"
    )
    click.echo(f"{shown.url}  (Ctrl-C ends it)")
    try:
        shown.serve(refresh)
    except KeyboardInterrupt:
        click.echo("stopped")
