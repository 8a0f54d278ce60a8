"""optuna-dashboard on a study: every trial that ended, whatever the design, while others train."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pandas as pd

from ablate.errors import AblateError, ResultsError
from ablate.study.mirror import Mirror

if TYPE_CHECKING:
    from ablate.study.spec import Study

Load = Callable[[], tuple[pd.DataFrame, pd.DataFrame]]
"""Reads the rows and curves of a study as they are now."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request: the page asks for several things at once."""

    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not worth a line each."""


class Dashboard:
    """A server of optuna-dashboard on the mirror of a study, in memory.

    What a reader changes on the page (notes, names) is lost when it ends; rows are never touched.

    Args:
        study: whose trials are shown.
        load: reads them.
        host: the interface to listen on.
        port: 0 takes a free one.
        objectives: of `ablate.study.mirror.DIRECTIONS`; default: see `Mirror`.

    Raises:
        AblateError: optuna-dashboard is not installed, or nothing can listen there.
        ResultsError: no trial has ended yet.
    """

    def __init__(
        self,
        study: Study,
        load: Load,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        objectives: Sequence[str] = (),
    ) -> None:
        application = _optuna_dashboard()
        rows, curves = load()
        if (rows["status"] == "missing").all():
            raise ResultsError(
                f"{study.full_name} has no finished trial to show; `ablate run` trains them"
            )
        self._load = load
        self._mirror = Mirror(study, rows, objectives=objectives)
        self.trials = self._mirror.update(rows, curves)
        self.objectives = self._mirror.objectives
        self._ended = threading.Event()
        self._server = _listen(host, port, application.wsgi(self._mirror.optuna._storage))
        application.save_note(self._mirror.optuna, _note(study, self.objectives))

    @property
    def url(self) -> str:
        """Where a browser finds the study."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/dashboard/studies/{self._mirror.optuna._study_id}"

    def serve(self, refresh: float = 0.0) -> None:
        """Answer until `close` or an interrupt.

        Args:
            refresh: seconds between two looks for trials that ended meanwhile; 0 never looks.
        """
        with self._following(refresh):
            self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """End `serve`, from another thread."""
        self._server.shutdown()

    @contextmanager
    def _following(self, refresh: float) -> Iterator[None]:
        follower = threading.Thread(target=self._follow, args=(refresh,), daemon=True)
        if refresh:
            follower.start()
        try:
            yield
        finally:
            self._ended.set()
            self._server.server_close()

    def _follow(self, refresh: float) -> None:
        while not self._ended.wait(refresh):
            try:
                self.trials += self._mirror.update(*self._load())
            except AblateError as error:  # a file that is damaged now may be whole again later
                print(f"not refreshed: {error}", file=sys.stderr)


def _optuna_dashboard() -> Any:
    try:
        import optuna_dashboard
    except ImportError as error:
        raise AblateError(
            "the dashboard needs optuna-dashboard, which is not installed: "
            "pip install 'ablate-vision[dashboard]'"
        ) from error
    return optuna_dashboard


def _listen(host: str, port: int, application: Any) -> WSGIServer:
    try:
        return make_server(host, port, application, server_class=_Server, handler_class=_Silent)
    except OverflowError as error:
        raise AblateError(f"a port lies between 0 and 65535, but got {port}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            told = f"port {port} of {host} is in use: choose another one, such as --port {port + 1}"
            raise AblateError(f"{told}, or --port 0 for any free one") from error
        raise AblateError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def _note(study: Study, objectives: Sequence[str]) -> str:
    """Markdown for the study's page."""
    shown = ", ".join(f"`{name}`" for name in objectives)
    return (
        f"{study.question}\n\nObjective: {shown}. Intermediate values: `val_top1` by epoch. "
        f"One trial a variant and seed; the levels of the variant are its parameters. "
        "Durations are real, times of day are not.\n\nA mirror in memory of the rows of `ablate "
        "results`: changes made here are not kept."
    )
