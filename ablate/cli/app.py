"""The `ablate` command: loads a verb when it is called, and turns mistakes into exit code 2."""

from __future__ import annotations

import importlib
import sys

import click

from ablate import __version__
from ablate.errors import AblateError, unknown

_VERBS = {
    "run": ("studies", "Plan a study, train what is missing, write the results."),
    "plan": ("studies", "What a study will cost and can detect; trains nothing."),
    "status": ("studies", "What is done, running, failed and missing."),
    "retry": ("studies", "Run failed trials again."),
    "results": ("evidence", "The rows of a study, one a trial."),
    "table": ("evidence", "A study's table, or a paper's table beside what was measured."),
    "plot": ("evidence", "One figure of a study."),
    "report": ("evidence", "The whole evidence as one HTML page."),
    "compare": ("evidence", "Two studies on one HTML page."),
    "dashboard": ("dashboard", "The trials of a study in a browser, while it runs."),
    "models": ("models", "Presets: the published networks and small ones of our own."),
    "show": ("models", "A stage table of any network."),
    "profile": ("models", "Params and MACs of a network; measured speed and memory."),
    "init": ("studies", "Write the shipped studies to a folder."),
}

_GROUPS = {
    "Studies": ("run", "plan", "status", "retry", "init"),
    "Evidence": ("results", "table", "plot", "report", "compare", "dashboard"),
    "Networks": ("models", "show", "profile"),
}

_EPILOG = """\
\b
Examples:
  ablate run studies/position_encoding.yaml
  ablate run studies/position_encoding.yaml --profile cifar10 --set data.root=DIR
  ablate plan studies/layout.yaml
  ablate table coat.table6
  ablate show "S2x64:C2x96-C3x192-T5x384-T2x768"

\b
Exit codes: 0 done; 1 some trials failed (the rest are complete);
2 the input was wrong, nothing started; 130 interrupted.
"""


class _Verbs(click.Group):
    """Verbs that are imported when they are called, so that help answers at once."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _VERBS:
            return None
        module = importlib.import_module(f"ablate.cli.{_VERBS[name][0]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _VERBS:
            raise click.UsageError(unknown("verb", args[0], _VERBS), context)
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, _VERBS[name][1]) for name in names])


@click.group(
    cls=_Verbs,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, package_name="ablate-vision", prog_name="ablate")
def cli() -> None:
    """Ablation studies of hybrid convolution/attention vision networks.

    One YAML file holds a study; `ablate run` trains its variants with several seeds and prints
    the paper's table with the published value beside the measured one.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 trials failed, 2 wrong input, 130 interrupted."""
    try:
        code = cli.main(args=arguments, prog_name="ablate", standalone_mode=False)
    except AblateError as error:
        _complain(str(error))
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
