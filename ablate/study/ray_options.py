"""Options of the Ray executor: the keys under `cluster: ray:`; loads no ray."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

Quantity = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RayOptions(BaseModel):
    """Where the Ray cluster is, and what one trial takes of it.

    Args:
        address: of the cluster's head, "HOST:PORT" or "auto" for the one on this machine; None
            starts a Ray of its own on this machine for the time of the run.
        cpus: cores a trial takes (default: its `--threads`, or 1).
        gpus: GPUs a trial takes; 0.5 packs two on one, 2 gives one trial two (default: 1 shared
            by `--per-gpu` trials where the cluster has GPUs, none where it has not).
        resources: custom resources a trial takes, such as {a100: 1}: it runs only on nodes that
            offer them.
        wait_seconds: how long the run waits for the cluster to offer what a trial takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str, Field(min_length=1)] | None = None
    cpus: Quantity | None = None
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    resources: dict[str, Quantity] = Field(default_factory=dict)
    wait_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0

    @field_validator("gpus")
    @classmethod
    def _part_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be a part of one GPU or a whole number, but got {gpus:g}")
        return gpus
