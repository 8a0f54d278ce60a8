"""Options of the Slurm executor: the keys under `cluster: slurm:`; loads no submitit."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]

_GPUS = re.compile(r"([\w.-]+:)?\d+")
_TIMES = 'must be minutes, "HH:MM:SS" or "D-HH:MM:SS"'
_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


class SlurmOptions(BaseModel):
    """What sbatch is asked for; each trial is a job (a task of an array) on one node.

    Args:
        partition, account, qos, constraint, reservation: as of sbatch.
        time: limit of a job, in minutes or as Slurm writes it ("1-12:00:00", "02:30:00"). It need
            not hold a whole trial: a job is requeued at its limit and goes on from its last epoch.
        gpus: GPUs of a trial, such as 1 or "a100:1".
        cpus: cores of a trial (default: `--threads`, or 1).
        mem: memory of a trial, such as "16G".
        setup: lines of shell before the trial, such as "module load cuda".
        signal_seconds: how long before the limit a job is told to save and requeue itself.
        array_size: the largest job array; Slurm's own limit is MaxArraySize.
        max_jobs: jobs in the queue at once, pending ones too, where the site limits them.
        poll_seconds: how often squeue is asked, once for all jobs.
        sbatch: any other option of sbatch, such as {nice: 100, exclude: "n[1-4]"}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    reservation: Text | None = None
    time: int | str = 240
    gpus: int | str | None = None
    cpus: Count | None = None
    mem: Text | None = None
    setup: tuple[Text, ...] = ()
    signal_seconds: Annotated[int, Field(ge=1, le=65535)] = 90
    array_size: Count = 1000
    max_jobs: Count | None = None
    poll_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 20.0
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)

    @field_validator("time", mode="before")
    @classmethod
    def _is_a_time(cls, value: Any) -> Any:
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise ValueError(f"{_TIMES}, but got {value!r}")
        if minutes_of(value if isinstance(value, str) else str(value)) < 1:
            raise ValueError(f"must be at least a minute, but got {value!r}")
        return value

    @field_validator("gpus", mode="before")
    @classmethod
    def _are_gpus(cls, value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if value is None or is_count or (isinstance(value, str) and _GPUS.fullmatch(value)):
            return value
        raise ValueError(f'must be a number, or a kind with a number, "a100:1", but got {value!r}')

    @property
    def minutes(self) -> int:
        """The limit of a job."""
        return self.time if isinstance(self.time, int) else minutes_of(self.time)


def minutes_of(text: str) -> int:
    """A time as sbatch reads it, in minutes, a part of one counting whole.

    >>> minutes_of("1-12"), minutes_of("02:30:00"), minutes_of("90"), minutes_of("10:30")
    (2160, 150, 90, 11)

    Raises:
        ValueError: it is none.
    """
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise ValueError(f"{_TIMES}, but got {text!r}")
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        hours += 24 * int(found["days"])
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return 60 * hours + minutes + -(-seconds // 60)
