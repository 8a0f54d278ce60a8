"""`ablate dashboard`: a real server, asked over HTTP and seen in a browser."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_examples import curves_of, example, fail

from ablate.errors import AblateError, ResultsError
from ablate.report.dashboard import Dashboard

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1500,2200",
    "--virtual-time-budget=8000",
)  # fmt: skip

needs_dashboard = pytest.mark.skipif(
    find_spec("optuna_dashboard") is None,
    reason="optuna-dashboard is not installed: pip install 'ablate-vision[dashboard]'",
)


def ask(url: str, path: str) -> Any:
    """The JSON that the server of `url` has under `path`."""
    base = url.partition("/dashboard")[0]
    with urllib.request.urlopen(f"{base}/api/{path}", timeout=20) as answer:
        return json.load(answer)


@contextmanager
def serving(board: Dashboard, refresh: float = 0.0) -> Iterator[str]:
    thread = threading.Thread(target=board.serve, args=(refresh,))
    thread.start()
    try:
        yield board.url
    finally:
        board.close()
        thread.join(timeout=20)
        assert not thread.is_alive()


@needs_dashboard
def test_the_server_has_the_study_and_every_trial() -> None:
    study, rows = example()
    rows = fail(rows, 4)
    board = Dashboard(study, lambda: (rows, curves_of(rows)), port=0)
    assert (board.trials, board.objectives) == (12, ("val_top1",))
    with serving(board) as url:
        (summary,) = ask(url, "studies")["study_summaries"]
        assert (summary["study_name"], summary["directions"]) == ("position_encoding", ["maximize"])
        found = ask(url, f"studies/{summary['study_id']}")
        states = [trial["state"] for trial in found["trials"]]
        assert (states.count("Complete"), states.count("Fail")) == (11, 1)
        assert {param["name"] for param in found["trials"][0]["params"]} == {"cpe", "crpe"}
        assert len(found["trials"][0]["intermediate_values"]) == 5
        assert "Do CPE and CRPE add up?" in found["note"]["body"]
        assert url.endswith(f"/studies/{summary['study_id']}")


@needs_dashboard
def test_trials_that_finish_meanwhile_appear() -> None:
    study, rows = example()
    now = [rows.assign(status=["done"] * 2 + ["missing"] * 10)]
    board = Dashboard(study, lambda: (now[0], curves_of(rows)), port=0)
    with serving(board, refresh=0.05) as url:
        assert len(ask(url, "studies/0")["trials"]) == 2
        now[0] = rows
        _wait_for(lambda: board.trials == 12)
        _wait_for(lambda: len(ask(url, "studies/0?after=0")["trials"]) == 12)


@needs_dashboard
def test_a_file_that_is_damaged_for_a_moment_does_not_end_the_refreshing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, rows = example()
    calls: list[int] = []

    def load() -> tuple[pd.DataFrame, pd.DataFrame]:
        calls.append(len(calls))
        if len(calls) == 2:
            raise ResultsError("trials.csv is damaged")
        done = 2 if len(calls) == 1 else 12
        return rows.assign(status=["done"] * done + ["missing"] * (12 - done)), curves_of(rows)

    board = Dashboard(study, load, port=0)
    with serving(board, refresh=0.05):
        _wait_for(lambda: board.trials == 12)
    assert "not refreshed: trials.csv is damaged" in capsys.readouterr().err


@needs_dashboard
def test_mistakes_are_told_before_anything_is_served() -> None:
    study, rows = example()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AblateError, match=rf"port {port} of 127.0.0.1 is in use: .*--port 0"):
            Dashboard(study, lambda: (rows, curves_of(rows)), port=port)
    with pytest.raises(AblateError, match=r"cannot listen on no\.such\.host\.invalid, port 0: "):
        Dashboard(study, lambda: (rows, curves_of(rows)), host="no.such.host.invalid", port=0)
    with pytest.raises(AblateError, match="a port lies between 0 and 65535, but got 99999"):
        Dashboard(study, lambda: (rows, curves_of(rows)), port=99999)
    with pytest.raises(ResultsError, match="has no finished trial to show; `ablate run` trains"):
        Dashboard(study, lambda: (rows.assign(status="missing"), curves_of(rows)), port=0)


def test_without_the_extra_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    study, rows = example()
    with pytest.raises(AblateError, match=r"pip install 'ablate-vision\[dashboard\]'"):
        Dashboard(study, lambda: (rows, curves_of(rows)), port=0)


@needs_dashboard
@pytest.mark.slow
def test_the_command_serves_committed_results_until_it_is_interrupted(tmp_path: Path) -> None:
    with _command(tmp_path) as (process, url):
        assert len(ask(url, "studies/0")["trials"]) == 15
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


@needs_dashboard
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_trials(tmp_path: Path) -> None:
    with _command(tmp_path) as (_, url):
        browser = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
        picture = tmp_path / "dashboard.png"
        rows = pd.read_csv(ROOT / "results" / "layout" / "trials.csv")
        best = rows.loc[rows["val_top1"].idxmax()]
        shown = subprocess.run([*browser, "--dump-dom", url], capture_output=True, text=True,
                               check=True, timeout=120)  # fmt: skip
        for text in (
            "layout",
            "Best Trial",
            f"{best['val_top1']:g}",
            best["variant_name"],
            "trial #14",
        ):
            assert text in shown.stdout
        subprocess.run([*browser, f"--screenshot={picture}", url], check=True, timeout=120,
                       capture_output=True)  # fmt: skip
    assert len(_colours(picture)) > 50  # figures in colour, not an empty page


@contextmanager
def _command(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ablate dashboard layout` on the committed results; yields the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ablate", "dashboard", "layout", "--port", "0",
         "--results", str(ROOT / "results")],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "layout: 15 trials; objective: val_top1\n"
        yield process, process.stdout.readline().split()[0]
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _colours(picture: Path) -> set[Any]:
    from PIL import Image

    with Image.open(picture) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}


def _wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
