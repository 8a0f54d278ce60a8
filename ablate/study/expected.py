"""How long the trials of a study will take, from probes of their networks."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ablate.config import DataConfig, TrialConfig
from ablate.data import DatasetInfo
from ablate.study.built import Built, Network
from ablate.study.environment import available_cores
from ablate.study.probe import FEW, Case, Speed, choose_probes, fitted, measure
from ablate.study.spec import Study
from ablate.study.variants import Variant
from ablate.training.devices import choose


def network_of(study: Study, arch: str, data: DataConfig) -> Network:
    """What a network is built from: arch, image size, classes."""
    return arch, data.image_size, study.num_classes(data)


def expected_speeds(
    study: Study, built: Mapping[Network, Built], probe: str, device: str, workers: int
) -> tuple[dict[str, Speed | None], str, int]:
    """The speed of each variant by name, the device that it holds for, and how many were timed.

    Args:
        study: with its data resolved.
        built: its networks.
        probe: "some", "all" or "none".
        device: where the probes run.
        workers: trials at once, which share the CPU's cores.
    """
    if probe == "none":
        return dict.fromkeys((variant.name for variant in study.variants), None), "", 0
    cases = {variant.name: _case(study, variant, built) for variant in study.variants}
    chosen = choose_probes(list(cases.values()), FEW if probe == "some" else len(cases))
    threads = max(1, available_cores() // workers) if workers > 1 else None
    probes = {case.same: (case, measure(case, device=device, threads=threads)) for case in chosen}
    place = choose(device, study.baseline.train.model_copy(update={"devices": 1}))
    speeds = {name: fitted(probes, case) for name, case in cases.items()}
    return speeds, place.name, len(probes)


def _case(study: Study, variant: Variant, built: Mapping[Network, Built]) -> Case:
    network = network_of(study, variant.arch, variant.data)
    arch, size, classes = network
    return Case(
        arch=arch, image_size=size, num_classes=classes, train=variant.train, built=built[network]
    )


def trial_seconds(trial: TrialConfig, info: DatasetInfo, speed: Speed) -> float:
    """Expected seconds of a trial on one device: steps, evaluation each epoch, the test split.

    Args:
        trial: its recipe.
        info: counts of images.
        speed: seconds an image.
    """
    steps_per_epoch = math.ceil(info.train_images / trial.train.batch_size)
    steps, epochs = trial.train.max_steps, trial.train.epochs
    if steps is None:
        assert epochs is not None
        steps = epochs * steps_per_epoch
    else:
        epochs = math.ceil(steps / steps_per_epoch)
    images = steps * min(trial.train.batch_size, info.train_images)
    evaluated = info.val_images + min(trial.data.eval_subset, info.train_images)
    return images * speed.train + (epochs * evaluated + info.test_images) * speed.evaluate
