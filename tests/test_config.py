"""Identity of a trial: what its key hashes, and the keys of old trials, which must not change."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ablate import config
from ablate.config import DataConfig, TrainConfig, TrialConfig

GOLDEN = {
    "8c2a945fcba48b3fb04ad5f1cbcaaac63ea307385da358a5f5b293da23ff9b97": TrialConfig(
        arch="F1x32-F1x64-F1x96-F2x128@stem_stride=2"
    ),
    "eeba3ff3cdd9b366195d3046fe1f6cbad41590e23cc0331b306396093d7d70e1": TrialConfig(
        arch="coatnet",
        data=DataConfig(name="cifar10", image_size=32, train_fraction=0.1),
        train=TrainConfig(epochs=30, batch_size=128, crop="pad", hflip=True, precision="bf16"),
        seed=3,
    ),
    "cc60ac829ad5b136b849c3e338ca02abb2e8fbe8a0e4ea76f76d43fc94eca748": TrialConfig(
        arch="torchvision:resnet18",
        data=DataConfig(name="x", fingerprint="abc"),
        train=TrainConfig(epochs=None, max_steps=10),
    ),
}


@pytest.mark.parametrize("key", GOLDEN)
def test_keys_of_old_trials_stay_as_they_are(key: str) -> None:
    """A field that is added later goes into LEGACY with the value that old trials had."""
    assert GOLDEN[key].key == key


def test_later_fields_count_where_they_are_used() -> None:
    """And only there: at their legacy values they are left out (see the golden keys)."""
    recipe = TrialConfig(arch="C2x8").identity()["train"]
    assert not {"randaugment_std", "warmup_lr"} & recipe.keys()
    for used in ({"randaugment_std": 1.5}, {"warmup_lr": 1e-6}, {"warmup_lr": 0.0}):
        trial = TrialConfig(arch="C2x8", train=TrainConfig.model_validate(used))
        assert used.items() <= trial.identity()["train"].items()


def test_execution_never_enters_the_key() -> None:
    trial = TrialConfig(arch="C2x8")
    data = DataConfig(root="/elsewhere", download=True, cache="/fast", workers=7)
    train = TrainConfig(
        channels_last=True,
        compile=True,
        deterministic=True,
        devices=2,
        strategy="ddp",
        timeout_minutes=5,
    )
    assert TrialConfig(arch="C2x8", data=data, train=train).key == trial.key


def test_every_field_that_changes_numbers_enters_the_key() -> None:
    trial = TrialConfig(arch="C2x8")
    others = [
        TrialConfig(arch="C2x16"),
        TrialConfig(arch="C2x8", seed=1),
        TrialConfig(arch="C2x8", data=DataConfig(train_fraction=0.5)),
        TrialConfig(arch="C2x8", data=DataConfig(split_seed=1)),
        TrialConfig(arch="C2x8", train=TrainConfig(precision="bf16")),
        TrialConfig(arch="C2x8", train=TrainConfig(weight_decay=0.1)),
        TrialConfig(arch="C2x8", train=TrainConfig(accumulate=2)),
    ]
    assert len({trial.key, *(other.key for other in others)}) == 1 + len(others)


def test_a_fingerprint_stands_for_the_name() -> None:
    one = TrialConfig(arch="C2x8", data=DataConfig(name="mine", fingerprint="f00d"))
    same = TrialConfig(arch="C2x8", data=DataConfig(name="yours", fingerprint="f00d"))
    other = TrialConfig(arch="C2x8", data=DataConfig(name="mine", fingerprint="beef"))
    assert one.key == same.key != other.key


def test_a_checksum_stands_for_the_path_of_initial_weights() -> None:
    one = TrainConfig(init_from="/here/a.pt", init_fingerprint="f00d")
    same = TrainConfig(init_from="/there/b.pt", init_fingerprint="f00d")
    assert TrialConfig(arch="C2x8", train=one).key == TrialConfig(arch="C2x8", train=same).key


def test_a_field_at_its_legacy_value_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = TrialConfig(arch="C2x8")
    monkeypatch.setattr(config, "LEGACY", {"train.clip_norm": None})
    assert "clip_norm" not in trial.identity()["train"]
    clipped = TrialConfig(arch="C2x8", train=TrainConfig(clip_norm=1.0))
    assert clipped.identity()["train"]["clip_norm"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": None}, "set one of `epochs` and `max_steps`"),
        ({"max_steps": 5}, "set one of `epochs` and `max_steps`"),
        ({"batch_size": 30, "accumulate": 4}, "divisible by accumulate x devices"),
        ({"lr": 0}, "greater than 0"),
        ({"precision": "fp8"}, "fp32"),
    ],
)
def test_a_recipe_outside_its_rules_says_which(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(settings)
