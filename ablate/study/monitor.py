"""Watches the run folders of current trials, wherever they are trained, and tells their epochs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from ablate.study.folder import RunFolder
from ablate.study.progress import Event, Sink

LOOK_SECONDS = 1.0
LOOKS_A_SECOND = 50.0
"""At trials: with thousands of them, epochs are told late rather than a file server kept busy."""


@dataclass
class _Watched:
    folder: RunFolder
    epochs: int | None
    last: int | None = None


class Monitor:
    """Tells events to a sink, one at a time, and adds `epoch` events of its own while entered.

    Args:
        sink: where events go.
        complete: fills in what the run knows about an event.
    """

    def __init__(self, sink: Sink, complete: Callable[[Event], Event]) -> None:
        self._sink = sink
        self._complete = complete
        self._speaking = threading.RLock()
        self._watched: dict[str, _Watched] = {}
        self._announced: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._look, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._announced.put(None)
        self._thread.join()

    def tell(self, event: Event) -> None:
        """Pass an event on."""
        with self._speaking:
            self._sink(self._complete(event))

    def announce(self, event: Event) -> None:
        """Let the monitor's thread pass an event on; safe in a signal's handler."""
        self._announced.put(event)

    def watch(self, key: str, folder: RunFolder, epochs: int | None) -> None:
        """Tell the epochs of a trial from now on."""
        self._watched[key] = _Watched(folder, epochs)

    def forget(self, key: str) -> None:
        """Tell nothing more of a trial."""
        self._watched.pop(key, None)

    def _look(self) -> None:
        while True:
            pause = max(LOOK_SECONDS, len(self._watched) / LOOKS_A_SECOND)
            try:
                event = self._announced.get(timeout=pause)
            except queue.Empty:
                self._tell_epochs()
                continue
            if event is None:
                return
            self.tell(event)

    def _tell_epochs(self) -> None:
        for key, watched in list(self._watched.items()):
            event = _progress(key, watched)
            if event is not None and key in self._watched:
                self.tell(event)


def _progress(key: str, watched: _Watched) -> Event | None:
    """The event of a new epoch, or None where there is none since the last look."""
    row = watched.folder.progress()
    epoch = int(row["epoch"]) if "epoch" in row else 0
    before, watched.last = watched.last, epoch
    if before is None or epoch == before:
        return None
    each = _number(row, "seconds")
    left = None if watched.epochs is None or each is None else each * (watched.epochs - epoch)
    return Event(
        kind="epoch", key=key, epoch=epoch, epochs=watched.epochs, seconds_left=left,
        loss=_number(row, "train_loss_running"), top1=_number(row, "val_top1"),
    )  # fmt: skip


def _number(row: dict[str, str], name: str) -> float | None:
    return float(row[name]) if name in row else None
