"""Latency, throughput and peak memory of a network, measured on a device."""

from __future__ import annotations

import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from ablate.cost.counting import Size, name_of, size_for, with_values
from ablate.cost.memory import DTYPES, check_step
from ablate.cost.trace import RUN_ERRORS, refused
from ablate.errors import AblateError, ConfigError

WARM_UP = 3
"""Steps before anything is timed: memory pools, kernels' choices, the optimizer's state."""

MIN_REPEATS = 5
MAX_REPEATS = 200

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One network at one batch size, in eval mode or in training steps.

    Args:
        arch: canonical arch string; for other networks their name or class.
        mode: "eval" (a forward pass) or "train" (forward, backward, optimizer step).
        batch_size: images a step.
        image_size: (H, W) in pixels.
        precision: "fp32", "bf16" or "fp16".
        device: "cpu" or "cuda", and its name; threads: of the CPU.
        repeats: timed steps, after warm-up.
        latency: median seconds of a step.
        spread: interquartile range of the same.
        throughput: images a second, from the median.
        peak_memory: most bytes in tensors at any time of a step, weights and batch included: what
            torch's allocator has handed out (on a GPU `torch.cuda.max_memory_allocated`, on a CPU
            the allocations that torch's profiler records).
    """

    arch: str
    mode: str
    batch_size: int
    image_size: tuple[int, int]
    precision: str
    device: str
    device_name: str
    threads: int
    repeats: int
    latency: float
    spread: float
    throughput: float
    peak_memory: int

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names above."""
        return {**asdict(self), "image_size": list(self.image_size)}


def measure(
    model: str | nn.Module,
    *,
    image_size: Size | None = None,
    batch_sizes: Sequence[int] = (1,),
    precision: str = "fp32",
    device: str = "auto",
    training: bool = True,
    optimizer: str = "adamw",
    seconds: float = 1.0,
    num_classes: int = 1000,
    in_chans: int = 3,
    **options: object,
) -> list[Measurement]:
    """Latency, throughput and peak memory in eval mode and in training steps.

    Images are random. Each number is the median of steps timed for `seconds`, between 5 and 200
    of them, after three steps of warm-up; memory is read in a step of its own.

    Args:
        model: as for `profile`; a network that is built already is moved to the device, and its
            weights are trained on noise if `training`.
        image_size: as for `profile`.
        batch_sizes: images a step, one measurement (or two) for each.
        precision: "fp32", or "bf16" and "fp16" (autocast).
        device: "auto", "cpu", "cuda" or "cuda:N".
        training: also measure training steps.
        optimizer: "adamw" or "sgd".
        seconds: time spent on each median, about.
        num_classes: as for `profile`, as in_chans and options.

    Raises:
        ConfigError: an argument outside its rules, or a device that is not there.
        ModelError: a network that cannot be built or run at that size.
        AblateError: the device's memory does not hold the network at that batch size.
    """
    place = _place(device, precision)
    for batch_size in batch_sizes:
        check_step(batch_size, precision, optimizer)
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"seconds is a number above 0, but got {seconds}")
    size = size_for(model, image_size)
    network = with_values(model, size, num_classes, in_chans, options)
    arch = name_of(network) if isinstance(model, nn.Module) else getattr(network, "arch", model)
    bench = _Bench(network.to(place), str(arch), size, in_chans, precision, place, seconds)
    found = []
    for batch_size in batch_sizes:
        found.append(bench.run("eval", batch_size, optimizer))
        if training:
            found.append(bench.run("train", batch_size, optimizer))
    return found


def _place(device: str, precision: str) -> torch.device:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"unknown device {device!r}; choose from auto, cpu, cuda, cuda:N")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device {device!r} is not there: this machine has {count} GPUs")
    if kind == "cpu" and precision == "fp16":
        raise ConfigError("precision='fp16' needs a GPU; on the CPU choose fp32 or bf16")
    return torch.device(f"{kind}:{index}" if index else kind)


def device_name(device: torch.device) -> str:
    """What the device calls itself: the GPU's name, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


class _Bench:
    """One network on one device; `run` measures it at a batch size."""

    def __init__(
        self,
        network: nn.Module,
        arch: str,
        size: tuple[int, int],
        in_chans: int,
        precision: str,
        device: torch.device,
        seconds: float,
    ) -> None:
        self.network = network
        self.arch = arch
        self.size = size
        self.in_chans = in_chans
        self.precision = precision
        self.device = device
        self.seconds = seconds

    def run(self, mode: str, batch_size: int, optimizer: str) -> Measurement:
        images = torch.randn(batch_size, self.in_chans, *self.size, device=self.device)
        modes = {module: module.training for module in self.network.modules()}
        self.network.train(mode == "train")
        resident: list[Tensor] = [*self.network.parameters(), *self.network.buffers(), images]
        try:
            if mode == "train":
                step, state = self._training_step(images, optimizer)
            else:
                step, state = self._eval_step(images), None
            times = self._time(step)
            if state is not None:
                resident += [t for s in state.state.values() for t in s.values()]
            peak = self._peak(step, resident)
        except torch.OutOfMemoryError as error:
            raise AblateError(
                f"{self.device} has too little memory for {self.arch} at batch size {batch_size} "
                f"({mode})"
            ) from error
        except RUN_ERRORS as error:
            raise refused(self.network, self.size, self.in_chans, error) from error
        finally:
            self.network.zero_grad()
            for module, training in modes.items():
                module.training = training
        return self._measurement(mode, batch_size, times, peak)

    def _measurement(
        self, mode: str, batch_size: int, times: list[float], peak: int
    ) -> Measurement:
        latency = statistics.median(times)
        lower, _, upper = statistics.quantiles(times, n=4)
        return Measurement(
            arch=self.arch,
            mode=mode,
            batch_size=batch_size,
            image_size=self.size,
            precision=self.precision,
            device=self.device.type,
            device_name=device_name(self.device),
            threads=torch.get_num_threads(),
            repeats=len(times),
            latency=latency,
            spread=upper - lower,
            throughput=batch_size / latency,
            peak_memory=peak,
        )

    def _autocast(self) -> torch.autocast:
        half = self.precision != "fp32"
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=half)

    def _eval_step(self, images: Tensor) -> Step:
        def step() -> None:
            with torch.inference_mode(), self._autocast():
                self.network(images)

        return step

    def _training_step(self, images: Tensor, optimizer: str) -> tuple[Step, Optimizer]:
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        updater: Optimizer = (
            AdamW(parameters, lr=1e-6, fused=True)
            if optimizer == "adamw"
            else SGD(parameters, lr=1e-6, momentum=0.9, nesterov=True, fused=True)
        )
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        target = torch.zeros(len(images), dtype=torch.long, device=self.device)

        def step() -> None:
            with self._autocast():
                logits = self.network(images)
            loss = F.cross_entropy(logits.float(), target)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(updater)
            scaler.update()
            updater.zero_grad(set_to_none=True)

        return step, updater

    def _time(self, step: Step) -> list[float]:
        """Seconds of steps after warm-up, for as long as `seconds` says."""
        for _ in range(WARM_UP):
            step()
        self._wait()
        times: list[float] = []
        while len(times) < MIN_REPEATS or (sum(times) < self.seconds and len(times) < MAX_REPEATS):
            start = time.perf_counter()
            step()
            self._wait()
            times.append(time.perf_counter() - start)
        return times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _peak(self, step: Step, resident: list[Tensor]) -> int:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            step()
            self._wait()
            return torch.cuda.max_memory_allocated(self.device)
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in resident}
        return sum(storages.values()) + _peak_of_allocations(step)


def _peak_of_allocations(step: Step) -> int:
    """Most bytes that the CPU allocator holds during a step beyond what it held before."""
    with _silent_profiler(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profiler:
            step()
        events = profiler.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@contextmanager
def _silent_profiler() -> Iterator[None]:
    """Keep the profiler's own log off the terminal, unless the user set its level."""
    name = "KINETO_LOG_LEVEL"
    given = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]
