"""What happens during a run, as events, and how the driver alone draws them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Literal, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

EventKind = Literal[
    "plan", "start", "epoch", "done", "failed", "retry", "waiting", "stopping", "note", "end"
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened.

    Args:
        kind: what it was.
        key, label: of the trial it happened to.
        message: one line for the reader.
        total, done, failed: of the study, in trials, when it happened.
        epoch, epochs, loss, top1: of a trial in progress; accuracy in percent, on `val`.
        seconds_left: of the trial, estimated from its last epoch.
    """

    kind: EventKind
    key: str | None = None
    label: str = ""
    message: str = ""
    total: int = 0
    done: int = 0
    failed: int = 0
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    top1: float | None = None
    seconds_left: float | None = None


Sink = Callable[[Event], None]

_SHOWN = 16
"""Trials in the live display; a cluster's queue may hold thousands, most of them waiting."""


def silent(event: Event) -> None:
    """Draws nothing."""


def duration(seconds: float | None) -> str:
    """A time for a reader: 45s, 12m 05s, 3h 20m.

    >>> duration(725)
    '12m 05s'
    """
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def describe_epoch(event: Event) -> str:
    """A trial's progress in words: "epoch 3/20, loss 1.234, val 61.2%, 45s left"."""
    parts = [f"epoch {event.epoch}" + (f"/{event.epochs}" if event.epochs else "")]
    if event.loss is not None:
        parts.append(f"loss {event.loss:.3f}")
    if event.top1 is not None:
        parts.append(f"val {event.top1:.1f}%")
    if event.seconds_left is not None:
        parts.append(f"{duration(event.seconds_left)} left")
    return ", ".join(parts)


@dataclass
class PlainLines:
    """A line an event, for logs and pipes; epochs of a trial at most every few seconds."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    seconds_between_epochs: float = 5.0
    _last: dict[str, float] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        line = self._line(event)
        if line:
            print(line, file=self.stream, flush=True)

    def _line(self, event: Event) -> str:
        counter = f"[{event.done + event.failed}/{event.total}]"
        if event.kind == "epoch":
            now, key = time.monotonic(), event.key or ""
            if now - self._last.get(key, -1e9) < self.seconds_between_epochs:
                return ""
            self._last[key] = now
            return f"{counter} {event.label}: {describe_epoch(event)}"
        if event.kind in ("plan", "note", "stopping", "waiting", "end"):
            return event.message
        return f"{counter} {event.label}: {event.message or event.kind}"


class LiveDisplay:
    """A bar for the study and a line for each current trial, drawn in place on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=self._console,
        )  # fmt: skip
        self._task = self._bar.add_task("trials", total=None, note="")
        self._started: dict[str, Event] = {}
        self._running: dict[str, Event] = {}
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        if self._live is None and event.kind != "end":
            self._live = Live(self._view(), console=self._console, refresh_per_second=4)
            self._live.start()
        self._note(event)
        if self._live is not None:
            self._live.update(self._view())
            if event.kind == "end":
                self._live.stop()
                self._live = None

    def _note(self, event: Event) -> None:
        if event.key and event.kind in ("start", "epoch", "done", "failed", "retry"):
            self._started.pop(event.key, None)
            if event.kind == "start":
                self._started[event.key] = event
            elif event.kind == "epoch":
                self._running[event.key] = event
            else:
                self._running.pop(event.key, None)
        if event.kind in ("failed", "retry"):
            line = f"{event.label}: {event.message}"
            self._console.print(line, style="red", markup=False, highlight=False)
        elif event.kind not in ("start", "epoch", "done") and event.message:
            self._console.print(event.message, markup=False, highlight=False)
        failed = f"{event.failed} failed" if event.failed else ""
        self._bar.update(
            self._task, total=event.total, completed=event.done + event.failed, note=failed
        )

    def _view(self) -> RenderableType:
        lines = Table.grid(padding=(0, 2))
        shown = islice(chain(self._running.values(), self._started.values()), _SHOWN)
        for event in shown:
            state = describe_epoch(event) if event.epoch is not None else "starting"
            lines.add_row(Text(event.label), Text(event.message or state))
        more = len(self._running) + len(self._started) - _SHOWN
        if more > 0:
            lines.add_row(Text(f"and {more} more"), Text())
        return Group(self._bar, lines)


def progress_sink(stream: TextIO | None = None) -> Sink:
    """A live display where `stream` (default stdout) is a terminal, plain lines elsewhere."""
    target = stream or sys.stdout
    console = Console(file=target)
    return LiveDisplay(console) if console.is_terminal else PlainLines(target)
