"""How long trials take: a few short probes of the real step, and what they say of the others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor, nn

from ablate.config import TrainConfig
from ablate.models import create_model
from ablate.study.built import Built
from ablate.training.devices import choose
from ablate.training.recipe import build_optimizer

FEW = 5
"""Probes of a plan, unless every variant is measured."""
_SECONDS = 1.5
_FIRST_BATCH = 2
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What decides the speed of a trial.

    Args:
        arch: its network.
        image_size: side of the input, in pixels.
        num_classes: width of the logits.
        train: the recipe; batch size, precision, memory format and optimizer count.
        built: costs of the network.
    """

    arch: str
    image_size: int
    num_classes: int
    train: TrainConfig
    built: Built

    @property
    def mode(self) -> tuple[str, bool, bool]:
        """Cases of one mode are comparable: precision, memory format, compilation."""
        return self.train.precision, self.train.channels_last, self.train.compile

    @property
    def same(self) -> tuple[Any, ...]:
        """Equal for cases of the same speed."""
        batch = self.train.batch_size // self.train.accumulate
        return self.arch, self.image_size, batch, self.train.optimizer, self.mode


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds that one image takes.

    Args:
        train: in a training step: forward, backward, optimizer.
        evaluate: in a forward pass.
        measured: by a probe; otherwise fitted from the probes of other networks.
    """

    train: float
    evaluate: float
    measured: bool


def choose_probes(cases: Sequence[Case], limit: int = FEW) -> list[Case]:
    """The cases to measure: in each mode some from the fewest MACs to the most, evenly.

    Args:
        cases: all of the study.
        limit: at most so many, over all modes.
    """
    modes: dict[Any, dict[Any, Case]] = {}
    for case in cases:
        modes.setdefault(case.mode, {}).setdefault(case.same, case)
    chosen: list[Case] = []
    for number, mode in enumerate(modes.values()):
        share = (limit - len(chosen)) // (len(modes) - number)
        ordered = sorted(mode.values(), key=lambda case: (case.built.cost.macs, case.arch))
        if share >= len(ordered):
            chosen += ordered
        elif share == 1:
            chosen.append(ordered[len(ordered) // 2])
        else:
            last = len(ordered) - 1
            chosen += [ordered[round(i * last / (share - 1))] for i in range(share)]
    return chosen


def measure(
    case: Case, *, device: str = "auto", threads: int | None = None, seconds: float = _SECONDS
) -> Speed:
    """Time the real training step and the forward pass on random images, for a short while.

    The batch is the recipe's where it fits into the time, otherwise a smaller one.

    Args:
        case: what to time.
        device: "auto", "cpu", "cuda" ...
        threads: CPU threads of a trial (default: torch's own number).
        seconds: of timed steps.

    Raises:
        AblateError: the device or the network is not there.
    """
    from ablate.training.surroundings import torch_threads  # imports Lightning

    place = choose(device, case.train.model_copy(update={"devices": 1, "strategy": "auto"}))
    where = torch.device({"gpu": "cuda"}.get(place.accelerator, place.accelerator))
    with torch_threads(threads):
        return _timed(_Step(case, where), case, seconds)


def _timed(step: _Step, case: Case, seconds: float) -> Speed:
    full = max(2, case.train.batch_size // (case.train.accumulate * case.train.devices))
    batch = min(full, _FIRST_BATCH)
    step.train(batch)  # allocates, compiles, picks kernels
    took = step.train(batch)
    larger = min(full, int(batch * seconds / 2 / took))
    if larger > batch:
        batch, took = larger, step.train(larger)
    return Speed(
        train=_median(step.train, batch, seconds, took) / batch,
        evaluate=_median(step.evaluate, batch, seconds / 3) / batch,
        measured=True,
    )


def _median(step: Callable[[int], float], batch: int, seconds: float, *first: float) -> float:
    times = [*first]
    while len(times) < 2 or sum(times) < seconds:
        times.append(step(batch))
    return statistics.median(times)


class _Step:
    def __init__(self, case: Case, where: torch.device) -> None:
        self.train_config = case.train
        self.where = where
        self.size, self.classes = case.image_size, case.num_classes
        network = create_model(
            case.arch, num_classes=case.num_classes, image_size=case.image_size
        ).to(where)
        if case.train.channels_last:
            network = network.to(memory_format=torch.channels_last)
        self.network: nn.Module = network
        self.optimizer = build_optimizer(network, case.train)
        if case.train.compile:
            network.compile()

    def _forward(self, images: Tensor) -> Tensor:
        if self.train_config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = _DTYPES.get(self.train_config.precision)
        with torch.autocast(self.where.type, dtype=dtype, enabled=dtype is not None):
            logits: Tensor = self.network(images)
        return logits

    def _images(self, batch: int) -> Tensor:
        return torch.randn(batch, 3, self.size, self.size, device=self.where)

    def train(self, batch: int) -> float:
        """Seconds of one training step."""
        self.network.train()
        images = self._images(batch)
        target = torch.randint(self.classes, (batch,), device=self.where)
        started = self._now()
        loss = F.cross_entropy(self._forward(images).float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._now() - started

    def evaluate(self, batch: int) -> float:
        """Seconds of one forward pass."""
        self.network.eval()
        images = self._images(batch)
        started = self._now()
        with torch.no_grad():
            self._forward(images)
        return self._now() - started

    def _now(self) -> float:
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)
        return time.perf_counter()


def fitted(probes: Mapping[Any, tuple[Case, Speed]], case: Case) -> Speed | None:
    """The speed of a case from probes of others in its mode; None where there are none.

    Seconds an image = a + b MACs + c bytes of activations, none of them negative, least squares
    of the relative error; with fewer probes, fewer terms.

    Args:
        probes: by `Case.same`.
        case: what to tell.
    """
    if case.same in probes:
        return probes[case.same][1]
    like = [(other, speed) for other, speed in probes.values() if other.mode == case.mode]
    if not like:
        return None
    terms = [_terms(other)[: 1 if len(like) == 1 else min(3, len(like) - 1)] for other, _ in like]
    own = _terms(case)[: len(terms[0])]
    found = {}
    for name in ("train", "evaluate"):
        seconds = np.array([getattr(speed, name) for _, speed in like])
        weights, _ = nnls(np.array(terms) / seconds[:, None], np.ones(len(like)))
        found[name] = float(np.dot(weights, own))
    return Speed(**found, measured=False)


def _terms(case: Case) -> list[float]:
    """In the order in which they are added as there are more probes."""
    return [case.built.cost.macs / 1e9, 1.0, case.built.activation_bytes / 1e9]
