"""Two drivers never hold one trial; a dead or silent one loses it."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from ablate.study.owner import Owned, Ownership, alive, describe, myself, read_owner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / ("a" * 64)
    path.mkdir(parents=True)
    return path


def dead_pid() -> int:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    return int(done.stdout)


def test_the_owner_file_is_there_only_inside_the_block(folder: Path) -> None:
    with Ownership(folder) as held:
        assert read_owner(folder / "owner") == held.owner
        assert alive(folder / "owner")
    assert list(folder.iterdir()) == []


def test_a_second_holder_is_told_who_the_first_is(folder: Path) -> None:
    with (
        Ownership(folder),
        pytest.raises(Owned, match=f"trained by .*process {os.getpid()}"),
        Ownership(folder),
    ):
        pass


def test_the_file_of_a_dead_process_on_this_host_is_taken_over_at_once(folder: Path) -> None:
    stale = replace(myself(), pid=dead_pid(), token="other")
    (folder / "owner").write_text(json.dumps(asdict(stale)))
    with Ownership(folder) as held:
        assert held.taken_over == stale
        assert read_owner(folder / "owner") == held.owner


def test_a_reused_pid_is_not_mistaken_for_its_owner(folder: Path) -> None:
    if myself().started == "":
        pytest.skip("this system does not tell when a process started")
    (folder / "owner").write_text(json.dumps(asdict(replace(myself(), started="1"))))
    assert not alive(folder / "owner")


def test_a_zombie_is_dead(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        time.sleep(0.3)
        (folder / "owner").write_text(json.dumps(asdict(replace(myself(), pid=child.pid))))
        assert not alive(folder / "owner")
    finally:
        child.wait()


@pytest.mark.parametrize("content", ["far host", "damaged"])
def test_elsewhere_the_heartbeat_decides(folder: Path, content: str) -> None:
    other = replace(myself(), place="elsewhere", host="elsewhere", pid=1)
    text = json.dumps(asdict(other)) if content == "far host" else "{torn"
    (folder / "owner").write_text(text)
    with pytest.raises(Owned), Ownership(folder):
        pass
    an_hour_ago = time.time() - 3600
    os.utime(folder / "owner", (an_hour_ago, an_hour_ago))
    with Ownership(folder):
        assert alive(folder / "owner")


def test_the_heartbeat_touches_the_file(folder: Path) -> None:
    with Ownership(folder, beat_seconds=0.05):
        os.utime(folder / "owner", (0, 0))
        time.sleep(0.3)
        found = describe(folder / "owner")
    assert found is not None
    assert found["silent_seconds"] < 10


def test_a_holder_notices_that_it_lost_the_file_and_leaves_it_alone(folder: Path) -> None:
    with Ownership(folder, beat_seconds=0.05) as held:
        other = replace(myself(), token="other")
        (folder / "owner").write_text(json.dumps(asdict(other)))
        time.sleep(0.3)
        assert held.lost
    assert read_owner(folder / "owner") == other


def test_of_two_that_see_the_same_stale_file_one_takes_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would judge it before either acts, were it not for the lock."""
    gone = replace(myself(), pid=dead_pid(), token="gone")
    (folder / "owner").write_text(json.dumps(asdict(gone)))
    meeting, won = threading.Barrier(2), []

    def judge_together(path: Path, **keywords: float) -> bool:
        judged = alive(path, **keywords)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(timeout=1)
        return judged

    def take() -> None:
        with contextlib.suppress(Owned), Ownership(folder) as held:
            won.append(held)
            time.sleep(0.5)

    monkeypatch.setattr("ablate.study.owner.alive", judge_together)
    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def _contend(folder: Path, barrier: Barrier, won: str) -> None:
    barrier.wait()
    try:
        with Ownership(folder):
            with open(won, "a") as log:
                log.write(f"{os.getpid()}\n")
            time.sleep(1.0)
    except Owned:
        pass


@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
def test_of_many_processes_one_gets_the_trial(folder: Path, tmp_path: Path, stale: bool) -> None:
    if stale:
        gone = replace(myself(), pid=dead_pid(), token="gone")
        (folder / "owner").write_text(json.dumps(asdict(gone)))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    won = str(tmp_path / "won")
    processes = [context.Process(target=_contend, args=(folder, barrier, won)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(Path(won).read_text().splitlines()) == 1


# Network file systems.


def test_a_link_whose_answer_got_lost_is_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client repeats the call, and the server then says that the name exists."""
    link = os.link

    def answer_lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(target)

    monkeypatch.setattr(os, "link", answer_lost)
    with Ownership(folder) as held:
        assert read_owner(folder / "owner") == held.owner
        assert held.taken_over is None
    assert list(folder.iterdir()) == []


@pytest.fixture
def server_ahead(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A file server whose clock is an hour ahead; the folders in which it was asked."""
    asked: list[Path] = []

    def clock(folder: Path) -> float:
        asked.append(folder)
        return time.time() + 3600

    monkeypatch.setattr("ablate.study.owner._asked_clock", clock)
    monkeypatch.setattr("ablate.study.owner._Clock.asked", float("-inf"))
    monkeypatch.setattr("ablate.study.owner._Clock.ahead", 0.0)
    return asked


@pytest.mark.parametrize(("silent", "is_alive"), [(30, True), (120, False)])
def test_a_heartbeat_is_judged_by_the_clock_of_the_file_server(
    folder: Path, server_ahead: list[Path], silent: float, is_alive: bool
) -> None:
    far = replace(myself(), place="elsewhere", host="elsewhere", pid=1)
    (folder / "owner").write_text(json.dumps(asdict(far)))
    beat = time.time() + 3600 - silent
    os.utime(folder / "owner", (beat, beat))
    assert alive(folder / "owner") == is_alive
    found = describe(folder / "owner")
    assert (found is not None) == is_alive
    if found is not None:
        assert found["silent_seconds"] == pytest.approx(silent, abs=5)


def test_the_file_server_is_asked_for_its_time_once_a_minute(
    folder: Path, server_ahead: list[Path]
) -> None:
    (folder / "owner").write_text("{torn")
    for _ in range(5):
        alive(folder / "owner")
    assert len(server_ahead) == 1


def test_an_owner_that_was_replaced_under_our_eyes_is_alive(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "owner").write_text("{torn")
    os.utime(folder / "owner", (0, 0))

    def stale(path: Path) -> float:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("ablate.study.owner._last_beat", stale)
    assert alive(folder / "owner")
