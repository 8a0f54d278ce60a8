"""Who trains a trial: a file that one process holds, with a heartbeat.

The file is created exclusively, complete with its content. Its holder touches it every few
seconds. A stale file (its process is dead on this host, or the heartbeat stopped) is taken over
under a lock, so that of two drivers that see the same stale file only one gets the trial.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0
CLOCK_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The content of an owner file.

    Args:
        place: host, boot and process namespace: only there does `pid` mean anything.
        started: the kernel's start time of the process, so that a reused pid is not mistaken.
        job: the scheduler's job, if it runs in one.
        token: unique to one holding of the file.
    """

    host: str
    place: str
    pid: int
    started: str
    job: str | None
    token: str

    def __str__(self) -> str:
        return f"{self.host}, " + (f"job {self.job}" if self.job else f"process {self.pid}")


class Owned(Exception):  # noqa: N818  (a state, not an error)
    """The trial is being trained by somebody else, alive."""

    def __init__(self, owner: Owner | None) -> None:
        self.owner = owner
        super().__init__(f"trained by {owner or 'an unknown process'}")


def place() -> str:
    """Host, boot and process namespace; containers may share the first two."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def start_time(pid: int) -> str | None:
    """When `pid` started, in the kernel's ticks; "" where that is unknown; None when dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if not Path("/proc/self/stat").exists() and _answers(pid) else None
    zombie = fields[0] in "ZX"
    return None if zombie else fields[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def myself() -> Owner:
    """This process as the owner of something."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return Owner(
        host=socket.gethostname(),
        place=place(),
        pid=os.getpid(),
        started=start_time(os.getpid()) or "",
        job=f"{job}_{task}" if job and task else job,
        token=uuid.uuid4().hex,
    )


def read_owner(path: Path) -> Owner | None:
    """The owner in `path`, or None where the file is missing or holds something else."""
    try:
        return Owner(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def alive(path: Path, *, stale_seconds: float = STALE_SECONDS) -> bool:
    """Whether somebody holds `path`: on this host by its process, elsewhere by its heartbeat."""
    owner = read_owner(path)
    if owner is not None and owner.place == place():
        started = start_time(owner.pid)
        return started is not None and started in ("", owner.started)
    silent = silence(path)
    return silent is not None and silent < stale_seconds


def silence(path: Path) -> float | None:
    """Seconds since the holder of `path` touched it, by the file server's clock; None: no file.

    An NFS client may show attributes that are a minute old, but asks the server when a file is
    opened (close-to-open consistency): so it is opened.
    """
    try:
        beat = _last_beat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return 0.0  # replaced under our eyes
    return max(0.0, _server_clock(path.parent) - beat)


def _last_beat(path: Path) -> float:
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except PermissionError:  # another user's, who may let us look but not read
        return path.stat().st_mtime


class _Clock:
    """The clock that stamps files, as it was when we last asked, against our monotonic one."""

    asked = -math.inf
    ahead = 0.0


def _server_clock(folder: Path) -> float:
    """The time by the clock that stamps files in `folder`; a file server's may be another.

    It is asked once a minute, by a file that is made for it: clocks do not drift that fast, and
    thousands of owners may be looked at.
    """
    now = time.monotonic()
    if now - _Clock.asked > CLOCK_SECONDS:
        _Clock.ahead, _Clock.asked = _asked_clock(folder) - now, now
    return now + _Clock.ahead


def _asked_clock(folder: Path) -> float:
    probe = folder / f".clock.{uuid.uuid4().hex[:8]}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(runs: Path) -> Iterator[None]:
    """One process at a time changes the hands of owner files; a dead one lets go by itself."""
    lock = FileLock(runs / ".lock")
    try:
        lock.acquire(poll_interval=0.005)
    except (NotImplementedError, OSError) as error:
        # A file system without locks: exclusive creation still holds, only the narrow race of
        # two takeovers at the same instant stays open.
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.ENOLCK):
            raise
    try:
        yield
    finally:
        lock.release()


class Ownership:
    """Holds the owner file of a run folder for the time of a `with` block.

    Args:
        folder: the run folder; its parent is the runs folder.
        beat_seconds: how often the file is touched.
        stale_seconds: how old a heartbeat of another host may be.

    Raises:
        Owned: on entering, when somebody else holds the file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        beat_seconds: float = BEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.path = folder / "owner"
        self.owner = myself()
        self.taken_over: Owner | None = None
        self._beat_seconds = beat_seconds
        self._stale_seconds = stale_seconds
        self._released = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether somebody took the file, thinking us dead: stop, and write nothing more."""
        return self._lost.is_set()

    def __enter__(self) -> Ownership:
        with _locked(self.path.parent.parent):
            self._take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        self._thread.join()
        with _locked(self.path.parent.parent):
            if read_owner(self.path) == self.owner:
                self.path.unlink(missing_ok=True)

    def _take(self) -> None:
        temporary = self.path.with_name(f".owner.{self.owner.token[:8]}.tmp")
        try:
            temporary.write_text(json.dumps(asdict(self.owner)) + "\n")
            try:
                os.link(temporary, self.path)  # exclusive, and never seen half written
            except FileExistsError:
                if read_owner(self.path) == self.owner:
                    return  # it was made, only the file server's answer got lost
                if alive(self.path, stale_seconds=self._stale_seconds):
                    raise Owned(read_owner(self.path)) from None
                self.taken_over = read_owner(self.path)
                os.replace(temporary, self.path)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                self._create_without_links()
        finally:
            temporary.unlink(missing_ok=True)

    def _create_without_links(self) -> None:
        if self.path.exists() and not alive(self.path, stale_seconds=self._stale_seconds):
            self.path.unlink()
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            raise Owned(read_owner(self.path)) from None
        with open(handle, "w") as file:
            file.write(json.dumps(asdict(self.owner)) + "\n")

    def _beat(self) -> None:
        while not self._released.wait(self._beat_seconds):
            found = read_owner(self.path)
            if found != self.owner and (found is not None or not self.path.exists()):
                self._lost.set()
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)


def clear_stale(path: Path) -> None:
    """Remove an owner file that nobody holds: its process was killed after the verdict."""
    if path.exists():
        with _locked(path.parent.parent):
            if not alive(path):
                path.unlink(missing_ok=True)


def describe(path: Path) -> Mapping[str, Any] | None:
    """Who holds `path` and since how many seconds it is silent; None where nobody does."""
    owner = read_owner(path)
    silent = silence(path)
    if owner is None or silent is None or not alive(path):
        return None
    return {"host": owner.host, "pid": owner.pid, "job": owner.job, "silent_seconds": silent}
