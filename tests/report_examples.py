"""Studies with rows drawn from known distributions, for the tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.study.spec import Study, load_study
from ablate.study.variants import Variant

POSITION = (70.0, 74.0, 76.0, 77.5)
"""True top-1 of the variants of position_encoding, in the study's order."""

CURVES = [
    "key", "variant_name", "seed", "epoch", "train_loss_running", "train_loss", "train_top1",
    "val_loss", "val_top1", "lr",
]  # fmt: skip
"""The columns of curves.csv."""


def row(study: Study, variant: Variant, seed: int, key: str, **values: Any) -> dict[str, Any]:
    """A finished row with the given values in place of the usual ones."""
    top1 = values.get("top1", 70.0)
    return {
        "key": key, "study": study.name, "profile": study.profile, "variant": dict(variant.levels),
        "variant_name": variant.name, "seed": seed, "status": "done", "arch": variant.arch,
        "top1": top1, "top5": min(99.0, top1 + 20), "test_loss": (100 - top1) / 30,
        "train_top1": min(99.0, top1 + 8), "train_loss": max(0.1, (92 - top1) / 30),
        "val_top1": top1, "val_loss": 1.0, "best_val_top1": top1 + 0.5, "best_val_epoch": 17,
        "params": 100_000, "macs": 2_000_000, "epochs": 20, "steps": 400, "train_images": 1000,
        "test_images": 500, "dataset": "digits-canvas", "image_size": 32, "precision": "fp32",
        "device": "cpu", "threads": 1, "seconds": 12.0, "images_per_second": 1000.0,
        "peak_memory_mb": None, "commit": "abc", "version": "0.1.0", "departures": (),
        "eval_sizes": {}, "failure": None, "failure_message": None, "code": "c", "fingerprint": "f",
        **values,
    }  # fmt: skip


def example(
    name: str = "position_encoding",
    means: Sequence[float] = POSITION,
    *,
    sd: float = 0.8,
    seed: int = 0,
    overrides: Sequence[str] = (),
    **values: Any,
) -> tuple[Study, pd.DataFrame]:
    """A shipped study with normal top-1 around the given means."""
    study = load_study(name, overrides=overrides)
    generator = np.random.default_rng(seed)
    rows = [
        row(
            study,
            variant,
            trial.seed,
            trial.key,
            **{
                "top1": mean + sd * generator.normal(),
                "train_top1": min(99.0, mean + 8 + sd * generator.normal()),
                **values,
            },
        )
        for variant, mean in zip(study.variants, means, strict=True)
        for trial in variant.trials
    ]
    return study, pd.DataFrame(rows)


SEARCH = """\
# Which small hybrid is best for its cost?
study: tiny
model: coatnet-micro
design: search
space:
  layout: [C-C-C-C, C-C-C-T, C-C-T-T]
  stage3.width: {low: 32, high: 96, step: 32}
  stage4.head_dim: {values: [16, 32], when: {layout: [C-C-C-T, C-C-T-T]}}
  train.lr: {low: 3e-4, high: 3e-3, log: true}
search: {sampler: nsga2, trials: 24, objectives: [val_top1, macs]}
data: {name: digits-canvas, image_size: 32}
train: {epochs: 1}
"""


def searched(folder: Path, trials: int = 24) -> tuple[Study, pd.DataFrame]:
    """A search with random points: more accurate with the rate, a little with the width."""
    path = folder / "tiny.yaml"
    path.write_text(SEARCH)
    study = load_study(path)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(trials):
        layout, width = ("C-C-C-C", "C-C-C-T", "C-C-T-T")[number % 3], 32 * (1 + number // 3 % 3)
        rate = float(10 ** generator.uniform(-3.5, -2.53))
        point = {"layout": layout, "stage3.width": width, "train.lr": rate}
        point |= {"stage4.head_dim": 16 + 16 * (number % 2)} if layout != "C-C-C-C" else {}
        top1 = 90 + 10 * np.log10(rate) + width / 32
        made = row(study, study.variants[0], 0, f"{number:064x}", top1=top1, val_top1=top1 + 1,
                   macs=10**5 * width)  # fmt: skip
        rows.append({**made, "variant_name": f"trial {number}", "variant": point,
                     "role": "search", "number": number})  # fmt: skip
    return study, pd.DataFrame(rows)


def fail(rows: pd.DataFrame, index: int, kind: str = "diverged") -> pd.DataFrame:
    """The rows with one trial failed; its numbers stay, since nothing may read them."""
    failed = rows.copy()
    failed.loc[index, ["status", "failure", "failure_message"]] = ["failed", kind, f"{kind} here"]
    return failed


def curves_of(rows: pd.DataFrame, epochs: int = 5) -> pd.DataFrame:
    """A learning curve for every finished row."""
    found = []
    for entry in rows[rows["status"] == "done"].to_dict("records"):
        for epoch in range(epochs):
            share = 1 - np.exp(-(epoch + 1) / 2)
            found.append(
                {
                    "key": entry["key"],
                    "variant_name": entry["variant_name"],
                    "seed": entry["seed"],
                    "epoch": epoch,
                    "train_loss_running": 2.3 - share,
                    "train_loss": 2.3 - share,
                    "train_top1": entry["train_top1"] * share,
                    "val_loss": 2.3 - share,
                    "val_top1": entry["top1"] * share,
                    "lr": 1e-3,
                }
            )
    return pd.DataFrame(found, columns=CURVES)
