"""Every published network is exact: parameters and MACs to the last digit, built on meta.

The numbers of `data/reference_counts.json` come from the authors' public code where there is any
(CoaT, CvT), otherwise from an independent build of the papers' text (CoAtNet, ATC).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

import ablate
from ablate.presets import PRESETS

REFERENCE = json.loads((Path(__file__).parent / "data/reference_counts.json").read_text())


def changes(text: str) -> tuple[str, dict[str, str]]:
    """A model's name, and a change of its stages after "|"."""
    if text.startswith(("E", "S")) or "|" not in text:
        return text, {}
    name, _, change = text.partition("|")
    key, _, value = change.partition("=")
    return name, {key: value}


@pytest.mark.slow
@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: f"{row['model']}@{row['image_size']}")
def test_counts_are_those_of_the_reference(row: dict[str, object]) -> None:
    name, change = changes(str(row["model"]))
    cost = ablate.profile(
        name, image_size=row["image_size"], num_classes=row["num_classes"], **change
    )
    assert (cost.params, cost.macs) == (row["params"], row["macs"])


def test_the_two_counts_that_everything_hangs_on() -> None:
    assert ablate.profile("coat-lite-tiny").params == 5_722_856
    assert ablate.profile("coatnet-0").params == 25_036_820


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_on_meta_and_gives_logits(name: str) -> None:
    preset = PRESETS[name]
    if name.startswith("coatnet-") and name[8] in "34567":
        pytest.skip("the large ones are counted in the slow tier")
    with torch.device("meta"):
        model = ablate.create_model(name, num_classes=7, image_size=preset.image_size)
        images = torch.randn(2, 3, preset.image_size, preset.image_size)
    assert model.eval()(images).shape == (2, 7)
    assert model.arch == preset.arch


@pytest.mark.slow
def test_the_largest_network_builds_on_meta_in_seconds() -> None:
    started = time.perf_counter()
    with torch.device("meta"):
        model = ablate.create_model("coatnet-7", image_size=224)
    assert sum(p.numel() for p in model.parameters()) == 2_441_972_728
    assert time.perf_counter() - started < 10  # under 2 s on an idle core


@pytest.mark.slow
def test_every_disagreement_with_print_has_its_reason() -> None:
    for preset in PRESETS.values():
        cost = ablate.profile(
            preset.name, image_size=preset.image_size, num_classes=preset.num_classes
        )
        found = preset.disagreements(params=cost.params, macs=cost.macs)
        assert "not explained" not in found.values(), preset.name
        assert all(found.values()), preset.name
