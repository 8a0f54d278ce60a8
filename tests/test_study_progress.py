"""What a run tells its reader: plain lines in a pipe, a live display on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ablate.study.progress import (
    Event,
    LiveDisplay,
    PlainLines,
    describe_epoch,
    duration,
    progress_sink,
)

EPOCH = Event(
    kind="epoch", key="k", label="cpe=true, seed 0", total=4, done=1, failed=1,
    epoch=3, epochs=20, loss=1.2345, top1=61.2, seconds_left=45.4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (60, "1m 00s"), (725, "12m 05s"), (12_000, "3h 20m"), (None, "")],
)
def test_a_duration_is_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_an_epoch_in_words() -> None:
    assert describe_epoch(EPOCH) == "epoch 3/20, loss 1.234, val 61.2%, 45s left"
    assert describe_epoch(Event(kind="epoch", epoch=3)) == "epoch 3"


def test_plain_lines_count_what_is_finished() -> None:
    stream = io.StringIO()
    sink = PlainLines(stream)
    sink(Event(kind="plan", message="study: 4 trials, 0 done, 4 to train"))
    sink(Event(kind="start", key="k", label="cpe=true, seed 0", total=4))
    sink(EPOCH)
    sink(Event(kind="failed", key="k", label="cpe=true, seed 0", total=4, failed=2, message="bad"))
    sink(Event(kind="end"))
    assert stream.getvalue().splitlines() == [
        "study: 4 trials, 0 done, 4 to train",
        "[0/4] cpe=true, seed 0: start",
        "[2/4] cpe=true, seed 0: epoch 3/20, loss 1.234, val 61.2%, 45s left",
        "[2/4] cpe=true, seed 0: bad",
    ]


def test_plain_lines_do_not_tell_every_epoch_of_a_quick_trial() -> None:
    stream = io.StringIO()
    sink = PlainLines(stream, seconds_between_epochs=60)
    for _ in range(5):
        sink(EPOCH)
    assert len(stream.getvalue().splitlines()) == 1


def test_a_terminal_gets_a_live_display_and_a_pipe_plain_lines() -> None:
    assert isinstance(progress_sink(io.StringIO()), PlainLines)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_sink(Terminal()), LiveDisplay)


def test_the_live_display_shows_the_study_and_the_current_trials() -> None:
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=100))
    display(Event(kind="plan", message="study: 4 trials", total=4))
    display(EPOCH)
    display(Event(kind="end", total=4, done=1, failed=1))
    shown = stream.getvalue()
    assert "study: 4 trials" in shown
    assert "cpe=true, seed 0" in shown
    assert "epoch 3/20, loss 1.234" in shown
    assert "2/4" in shown
    assert "1 failed" in shown


def test_a_label_with_brackets_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=100))
    display(Event(kind="failed", key="k", label="depths=[2/2], seed 0", message="[red]?", total=1))
    display(Event(kind="start", key="j", label="depths=[/x], seed 1", total=1))
    display(Event(kind="end", total=1))
    assert "depths=[2/2], seed 0: [red]?" in stream.getvalue()
    assert "depths=[/x], seed 1" in stream.getvalue()
