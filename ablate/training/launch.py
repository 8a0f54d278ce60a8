"""One trial in several processes: each runs `fit`, and the first reports to this one."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from ablate.config import TrialConfig, TrialResult

_POLL_SECONDS = 0.2


def fit_in_processes(
    trial: TrialConfig,
    folder: Path,
    device: str,
    threads: int | None,
    on_epoch: Callable[[Mapping[str, Any]], None] | None,
    should_stop: Callable[[], bool] | None,
) -> TrialResult:
    """`fit` in `train.devices` processes of this machine (DDP or FSDP by Lightning).

    The processes are started anew, not by running the command again as Lightning's own launcher
    does: that would start a second driver. `on_epoch` and `should_stop` are called here.
    """
    count = trial.train.devices
    threads = max(1, (threads or torch.get_num_threads()) // count)
    context = torch.multiprocessing.get_context("spawn")
    news, news_from_first = context.Pipe(duplex=False)
    stop = context.Event()
    with TemporaryDirectory() as letters:
        arguments = (trial, folder, device, threads, _free_port(), letters, news_from_first, stop)
        processes = spawn(_process, arguments, nprocs=count, join=False)  # type: ignore[no-untyped-call]
        assert processes is not None
        try:
            while not _joined(processes, Path(letters)):
                _relay(news, on_epoch)
                if should_stop is not None and should_stop():
                    stop.set()
        finally:
            for process in processes.processes:
                if process.is_alive():
                    process.terminate()
        _relay(news, on_epoch)
        result: TrialResult = pickle.loads((Path(letters) / "result").read_bytes())
        return result


def _joined(processes: Any, letters: Path) -> bool:
    """Whether all are done; raises in this process what the first failed one raised in its own."""
    try:
        return bool(processes.join(timeout=_POLL_SECONDS))
    except (ProcessRaisedException, ProcessExitedException):
        errors = sorted(letters.glob("error-*"), key=lambda path: path.stat().st_mtime_ns)
        for path in errors:
            raise pickle.loads(path.read_bytes()) from None
        raise


def _relay(news: Connection, on_epoch: Callable[[Mapping[str, Any]], None] | None) -> None:
    while news.poll():
        row = news.recv()
        if on_epoch is not None:
            on_epoch(row)


def _process(
    rank: int,
    trial: TrialConfig,
    folder: Path,
    device: str,
    threads: int,
    port: int,
    letters: str,
    news: Connection,
    stop: Any,
) -> None:
    from ablate.training.session import fit

    _follow_parent()
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(trial.train.devices),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        result = fit(
            trial,
            folder,
            device=device,
            threads=threads,
            on_epoch=news.send if rank == 0 else None,
            should_stop=stop.is_set if rank == 0 else None,
        )
    except BaseException as error:
        (Path(letters) / f"error-{rank}").write_bytes(pickle.dumps(error))
        raise
    if rank == 0:
        (Path(letters) / "result").write_bytes(pickle.dumps(result))


def _follow_parent() -> None:
    """End with the process that started us, and leave Ctrl-C to it: it asks us to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
