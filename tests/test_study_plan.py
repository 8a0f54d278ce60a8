"""A study's cost, time and power, before anything trains."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.config import TrainConfig, TrialConfig
from ablate.cost import profile
from ablate.cost.memory import training_memory
from ablate.errors import AblateError, ConfigError
from ablate.study.built import build, build_all
from ablate.study.expected import trial_seconds
from ablate.study.plan import check, plan, study_confounds
from ablate.study.plan_table import plan_columns, plan_footnotes, plan_rows
from ablate.study.planned import Plan
from ablate.study.power import minimum_detectable_effect
from ablate.study.probe import Case, Speed, choose_probes, fitted, measure
from ablate.study.spec import Study, load_study

STUDY = """\
study: tiny
model: F1x16-F1x32@stem_stride=2
factors:
  cpe:  [false, true]
  crpe: [false, true]
seeds: 3
data:  {name: digits-canvas, image_size: 32}
train: {epochs: 2, batch_size: 32}
"""

Load = Callable[..., Study]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str, **more: Any) -> Study:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return load_study(path, **more)

    return load


def planned(study: Study, tmp_path: Path, **more: Any) -> Plan:
    options = {"runs": tmp_path / "runs", "results": tmp_path / "results", "probe": "none"} | more
    return plan(study, **options)


def test_every_variant_has_its_cost_and_every_trial_its_key(load: Load, tmp_path: Path) -> None:
    study = load(STUDY)
    found = planned(study, tmp_path)
    for variant, asked in zip(found.variants, study.variants, strict=True):
        cost = profile(asked.arch, image_size=32, num_classes=10)
        assert (variant.arch, variant.variant) == (asked.arch, asked.levels)
        assert (variant.params, variant.macs) == (cost.params, cost.macs)
        assert variant.uncounted_ops == cost.uncounted_ops
    assert [v.baseline for v in found.variants] == [True, False, False, False]
    first, last = found.variants[0], found.variants[3]
    assert last.params_change == (last.params - first.params) / first.params
    assert [(t.key, t.seed, t.arch, t.status) for t in found.trials] == [
        (t.key, t.seed, t.arch, "missing") for t in study.trials
    ]


def test_the_plan_is_json_with_variants_and_trials(load: Load, tmp_path: Path) -> None:
    found = json.loads(json.dumps(planned(load(STUDY), tmp_path).to_json(), allow_nan=False))
    assert {"params", "macs", "arch", "variant"} <= found["variants"][0].keys()
    assert isinstance(found["variants"][0]["params"], int)
    assert found["variants"][1]["variant"] == {"cpe": False, "crpe": True}
    assert {"key", "seed", "variant", "arch", "status"} <= found["trials"][0].keys()
    assert len(found["trials"]) == 12


def test_the_data_decides_the_classes(load: Load, tmp_path: Path) -> None:
    text = STUDY + "profiles:\n  cifar100: {data: {name: cifar100, root: nowhere}}\n"
    here = planned(load(text), tmp_path)
    there = planned(load(text, profile="cifar100"), tmp_path)
    assert there.variants[0].params - here.variants[0].params == 90 * (32 + 1)
    assert any("data is not there" in note and "100 classes" in note for note in there.remarks)
    assert here.remarks == ()


def test_without_data_there_are_costs_but_no_times(load: Load, tmp_path: Path) -> None:
    study = load(STUDY, overrides=["data.name=cifar10", "data.root=nowhere"])
    found = planned(study, tmp_path, probe="some")
    assert found.variants[0].seconds is None
    assert found.device_hours is None


@pytest.mark.slow
def test_times_come_from_probes(load: Load, tmp_path: Path) -> None:
    found = planned(load(STUDY), tmp_path, probe="some")
    assert found.probes == 4
    assert [v.seconds_from for v in found.variants] == ["probe"] * 4
    total = sum(t.seconds for t in found.trials if t.seconds)
    assert found.device_hours == pytest.approx(total / 3600)
    assert found.device_hours_left == found.device_hours
    assert any("(from 4 probes of the real step)" in text for text in found.notes())
    assert 0.5 < total < 600


def test_a_trial_takes_its_steps_its_evaluations_and_the_test_split() -> None:
    class Info:
        train_images, val_images, test_images = 100, 10, 50

    speed = Speed(train=1.0, evaluate=0.1, measured=True)
    data = TrialConfig(arch="C").data.model_copy(update={"eval_subset": 40})
    train = TrainConfig(epochs=3, batch_size=32)
    trial = TrialConfig(arch="C", data=data, train=train)
    # 4 steps an epoch of 32 images; 10 + 40 images evaluated each epoch; 50 at the end
    seconds = trial_seconds(trial, Info(), speed)  # type: ignore[arg-type]
    assert seconds == pytest.approx(3 * 4 * 32 + 0.1 * (3 * 50 + 50))
    steps = train.model_copy(update={"epochs": None, "max_steps": 10})
    seconds = trial_seconds(trial.model_copy(update={"train": steps}), Info(), speed)  # type: ignore[arg-type]
    assert seconds == pytest.approx(10 * 32 + 0.1 * (3 * 50 + 50))


def case(macs: int, activations: int = 0, precision: str = "fp32") -> Case:
    class Built:
        activation_bytes = activations

        class cost:  # noqa: N801  (stands in for a Cost)
            pass

    Built.cost.macs = macs  # type: ignore[attr-defined]
    train = TrainConfig(precision=precision)  # type: ignore[arg-type]
    name = f"{macs}/{activations}"
    return Case(arch=name, image_size=32, num_classes=10, train=train, built=Built())  # type: ignore[arg-type]


def test_at_most_five_probes_span_the_macs_of_each_precision() -> None:
    cases = [case(macs) for macs in range(100, 0, -1)]
    assert [c.built.cost.macs for c in choose_probes(cases)] == [1, 26, 51, 75, 100]
    both = [*cases, *(case(macs, precision="bf16") for macs in range(1, 50))]
    chosen = choose_probes(both)
    assert len(chosen) == 5
    assert {c.train.precision for c in chosen} == {"fp32", "bf16"}
    assert len(choose_probes(cases, len(cases))) == 100
    assert len(choose_probes([case(1), case(1)])) == 1


def test_times_of_other_networks_are_fitted_to_macs_and_activations() -> None:
    def speed(macs: float, activations: float) -> Speed:
        train = 1e-3 + 2e-9 * macs + 5e-9 * activations
        return Speed(train=train, evaluate=train / 4, measured=True)

    costs = [(1e6, 3e5), (1e7, 1e6), (5e7, 8e6), (2e8, 1e7)]
    cases = [case(int(m), int(a)) for m, a in costs]
    probes = {c.same: (c, speed(*cost)) for c, cost in zip(cases, costs, strict=True)}
    found = fitted(probes, case(int(3e7), int(4e6)))
    assert found is not None
    assert found.train == pytest.approx(speed(3e7, 4e6).train, rel=1e-6)
    assert found.evaluate == pytest.approx(found.train / 4)
    assert not found.measured
    assert fitted(probes, cases[0]) == probes[cases[0].same][1]
    assert fitted(probes, case(1, precision="bf16")) is None
    alone = fitted({cases[0].same: probes[cases[0].same]}, case(2_000_000))
    assert alone is not None
    assert alone.train == pytest.approx(2 * speed(*costs[0]).train)


def test_a_probe_times_the_real_step() -> None:
    arch = "F1x16-F1x32@stem_stride=2"
    built = build(arch, image_size=32, num_classes=10)
    recipe = TrainConfig(batch_size=8, precision="bf16", channels_last=True)
    probe = Case(arch=arch, image_size=32, num_classes=10, train=recipe, built=built)
    speed = measure(probe, device="cpu", seconds=0.05)
    assert 0 < speed.evaluate < speed.train < 1
    assert speed.measured


def test_memory_counts_weights_gradients_states_and_activations() -> None:
    built = build("F1x16-F1x32@stem_stride=2", image_size=32, num_classes=10)
    params = built.cost.params
    train = TrainConfig(batch_size=8)
    weights = 4 * params * 4  # weights, gradients, two moments
    assert built.training_bytes(train) == weights + 8 * built.activation_bytes
    accumulated = TrainConfig(batch_size=8, accumulate=4)
    assert built.training_bytes(accumulated) == weights + 2 * built.activation_bytes
    sgd = TrainConfig(batch_size=8, optimizer="sgd", ema_decay=0.9)
    assert built.training_bytes(sgd) == built.training_bytes(train)
    assert built.training_bytes(TrainConfig(batch_size=64, precision="bf16")) < (
        built.training_bytes(TrainConfig(batch_size=64))
    )


@pytest.mark.parametrize(("precision", "close"), [("fp32", 0.05), ("bf16", 0.15)])
def test_memory_agrees_with_a_step_that_is_followed_through(precision: str, close: float) -> None:
    arch = "F1x16-F1x32@stem_stride=2"
    train = TrainConfig(batch_size=64, precision=precision)  # type: ignore[arg-type]
    followed = training_memory(arch, 64, precision, image_size=32, num_classes=10)
    estimated = build(arch, image_size=32, num_classes=10).training_bytes(train)
    assert estimated == pytest.approx(followed, rel=close)


def test_activations_are_what_autograd_keeps() -> None:
    """A stem of known shapes: what is kept is a small multiple of the maps' bytes."""
    small = build("F1x16-F1x32@stem_stride=2", image_size=32, num_classes=10)
    large = build("F1x16-F1x32@stem_stride=2", image_size=64, num_classes=10)
    assert large.activation_bytes / small.activation_bytes == pytest.approx(4, rel=0.1)
    assert small.activation_bytes > (16 * 16 * 16 + 8 * 8 * 32) * 4


def test_what_can_be_detected_is_stated_with_its_source(load: Load, tmp_path: Path) -> None:
    unknown_sd = planned(load(STUDY), tmp_path).detectable
    assert unknown_sd.sd is None
    assert unknown_sd.effect == pytest.approx(minimum_detectable_effect(1.0, 3, comparisons=3))
    given = planned(load(STUDY + "sd: 0.7\nalpha: 0.01\npower: 0.9\n"), tmp_path).detectable
    wanted = minimum_detectable_effect(0.7, 3, alpha=0.01, power=0.9, comparisons=3)
    assert given.effect == pytest.approx(wanted)
    assert (given.alpha, given.power, given.comparisons) == (0.01, 0.9, 3)
    one = planned(load(STUDY, overrides=["seeds=1"]), tmp_path)
    assert one.detectable.effect == math.inf
    assert one.to_json()["detectable"]["effect"] is None
    assert any("nothing can be detected" in text for text in one.notes())


def test_finished_trials_are_counted_and_pilot_the_deviation(
    load: Load, tmp_path: Path, finish: Callable[..., None]
) -> None:
    study = load(STUDY)
    for trial, top1 in zip(study.trials, [70, 71, 72, 73, 74, 75, 76], strict=False):
        finish(trial, tmp_path / "runs", top1)
    found = planned(study, tmp_path)
    assert sum(t.status == "done" for t in found.trials) == 7
    # seeds 0 and 1 of three variants, four points apart: variance 8 in each
    assert found.detectable.sd == pytest.approx(math.sqrt(8))
    assert found.detectable.source == "piloted: 7 finished trials, 3 degrees of freedom"


@pytest.fixture
def finish() -> Callable[..., None]:
    from ablate.config import TrialResult

    def finish(trial: TrialConfig, runs: Path, top1: float) -> None:
        result = TrialResult(
            key=trial.key, seed=trial.seed, arch=trial.arch, top1=top1, top5=99, test_loss=1,
            train_top1=80, train_loss=1, params=1, epochs=2, steps=4, train_images=10,
            test_images=10, dataset="digits-canvas", image_size=32, precision="fp32",
            device="cpu", seconds=1, images_per_second=1, version="0",
        )  # fmt: skip
        folder = runs / trial.key
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(result.model_dump_json())

    return finish


def test_the_table_shows_costs_changes_times_and_footnotes(load: Load, tmp_path: Path) -> None:
    study = load(STUDY, overrides=["factors.mlp_ratio=[1, 4]", "factors.crpe=[true]"])
    found = planned(study, tmp_path)
    rows = plan_rows(found)
    assert {len(row) for row in rows} == {len(plan_columns(found))}
    assert rows[0][:2] == ["cpe=false crpe=true mlp_ratio=1", f"{found.variants[0].params:,}"]
    assert rows[0][3] == "baseline"
    notes = plan_footnotes(found)
    assert notes[0].startswith("params +")
    assert rows[1][-1] == "[1] [2]"
    told = study_confounds(study)
    assert [told[variant.name] for variant in study.variants] == [
        v.warnings for v in found.variants
    ]
    assert "before matching" not in plan_columns(found)
    assert found.table() == (plan_columns(found), rows)
    assert found.notes()[0].startswith("[1] params +")
    assert "4 variants, 3 seeds: 12 trials, 0 done." in found.notes()


def test_wrong_requests_are_told(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown probe 'sme' .did you mean 'some'"):
        planned(load(STUDY), tmp_path, probe="sme")
    missing = load("study: s\nfactors: {model: ['torchvision:resnet18', 'torchvision:resnet81']}\n")
    with pytest.raises(AblateError, match="resnet81"):
        planned(missing, tmp_path)
    with pytest.raises(AblateError, match=r"variant 'torchvision:resnet81': .*resnet81"):
        check(missing)
    check(load(STUDY))


def test_networks_are_built_once_each() -> None:
    arch = "F1x16-F1x32@stem_stride=2"
    found = build_all([(arch, 32, 10), (arch, 32, 10), (arch, 64, 10)])
    assert list(found) == [(arch, 32, 10), (arch, 64, 10)]


@pytest.mark.slow
def test_many_networks_are_built_in_processes() -> None:
    networks = [(f"F1x{8 * i}-F1x32@stem_stride=2", 32, 10) for i in range(1, 41)]
    found = build_all(networks, processes=2)
    assert list(found) == networks
    alone = build(networks[7][0], image_size=32, num_classes=10)
    assert found[networks[7]].cost.params == alone.cost.params
    assert found[networks[7]].initial == alone.initial
