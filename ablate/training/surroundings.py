"""What Lightning would do to the process around it, kept inside a run."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

_LOGGERS = ("ablate", "pytorch_lightning", "lightning_fabric", "lightning.pytorch")


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send our log and Lightning's warnings to a file, and nothing of it to the terminal."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if logger.name == "ablate" else logging.WARNING)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


@contextmanager
def own_signals() -> Iterator[None]:
    """Leave the process's signal handlers as they are, and Ctrl-C a KeyboardInterrupt.

    Lightning turns a KeyboardInterrupt into exit code 1 and ignores the signal from then on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class KeepSigterm(Callback):
    """Undoes Lightning's SIGTERM handler, which ends an epoch in its middle."""

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def _restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


@contextmanager
def known_warnings() -> Iterator[None]:
    """Silence the warnings of Lightning that say what is meant here."""
    reasons = {
        # The device is the caller's choice, also where a GPU would be free.
        r".*available but not used.*": UserWarning,
        # A trial never spans nodes: on a machine with Slurm's commands it needs no srun.
        r".*`srun` command is available.*": UserWarning,
        # Lightning 2.6 still names a pytree class that torch renamed.
        r".*LeafSpec.*is deprecated.*": FutureWarning,
    }
    with warnings.catch_warnings():
        for message, category in reasons.items():
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Compute with this many CPU threads (None: as it is), and set it back afterwards."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Set torch back to what it was: Lightning switches deterministic kernels on for good.

    New tensors are not filled with a fixed value, as torch would: nothing here reads them before
    it writes them, and the filling costs 5 to 10% of a step on a CPU.
    """
    before = torch.are_deterministic_algorithms_enabled()
    benchmark, fixed = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch_deterministic: Any = torch.utils.deterministic  # typed as a plain module
    filling = torch_deterministic.fill_uninitialized_memory
    try:
        if wanted:
            torch_deterministic.fill_uninitialized_memory = False
        yield
    finally:
        if wanted:
            torch.use_deterministic_algorithms(before)
            torch.backends.cudnn.benchmark = benchmark
            torch.backends.cudnn.deterministic = fixed
            torch_deterministic.fill_uninitialized_memory = filling
