"""Ctrl-C and SIGTERM: once to finish the epoch and stop cleanly, twice to stop at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ablate.errors import ResultsError
from ablate.study.owner import alive, myself

_ABANDONED_SECONDS = 30 * 24 * 3600.0  # of a driver on another host, which beats no heart
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Lease:
    """A file whose presence tells workers, on any machine, to go on; removing it stops them.

    Removing works on a full disk too. A driver that was killed leaves its lease; the next one
    clears it away.
    """

    def __init__(self, runs: Path) -> None:
        self.path = runs / f".driver-{uuid.uuid4().hex[:12]}"
        try:
            runs.mkdir(parents=True, exist_ok=True)
            for old in runs.glob(".driver-*"):
                if not alive(old, stale_seconds=_ABANDONED_SECONDS):
                    old.unlink(missing_ok=True)
            self.path.write_text(json.dumps(asdict(myself())) + "\n")
        except OSError as error:
            raise ResultsError(f"cannot write in {runs}: {error.strerror}") from error

    def end(self) -> None:
        """Ask every trial that runs under this lease to finish its epoch and stop."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Interrupts:
    """Within the block, the first signal calls `on_first`, the second `on_second`.

    Outside the main thread it changes nothing, since Python delivers signals only there.
    """

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self._answers = [on_first, on_second]
        self._before: dict[signal.Signals, Any] = {}
        self._left = False
        self.count = 0

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                under_nohup = number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
                if not under_nohup:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left = True
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._left:  # nothing runs that could be stopped
            return
        if self.count <= len(self._answers):
            self._answers[self.count - 1]()
        else:
            os._exit(130)
