"""How a training run can end other than with a result; each is kept apart in the failure ledger."""

from __future__ import annotations

from typing import Any


class Diverged(Exception):  # noqa: N818  (an outcome, not a bug)
    """The loss became NaN or infinite.

    Args:
        step: optimizer steps taken before the step at fault.
        layer: name of the first module whose output is not finite; "input" if the images are not,
            "loss" if every layer's output is.
    """

    def __init__(self, step: int, layer: str) -> None:
        self.step = step
        self.layer = layer
        super().__init__(f"the loss is NaN or infinite at step {step}, first in {layer!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.layer)


class Interrupted(Exception):  # noqa: N818
    """The run was asked to stop; `epoch` epochs are finished and saved."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(f"stopped after epoch {epoch}, which is saved")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.epoch,)


class TimedOut(Exception):  # noqa: N818
    """The run took longer than `train.timeout_minutes`, all its sessions together."""

    def __init__(self, minutes: float, epoch: int) -> None:
        self.minutes = minutes
        self.epoch = epoch
        super().__init__(f"took longer than timeout_minutes={minutes:g}; {epoch} epochs are saved")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.minutes, self.epoch)
