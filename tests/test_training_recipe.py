"""The recipe: which weights decay, which rate a step has, which settings are refused."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from ablate.config import TrainConfig
from ablate.errors import ConfigError
from ablate.models import create_model
from ablate.training import create_module
from ablate.training.module import checked_recipe
from ablate.training.recipe import (
    build_optimizer,
    build_schedule,
    decayed,
    lr_factor,
    peak_lr,
    warmup_length,
)


class Tokens(nn.Module):
    """One of everything that weight decay must leave alone, beside what it acts on."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 4, 3)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 9, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(2, 5, 5))
        self.norm = nn.LayerNorm((4, 2))
        self.batch_norm = nn.BatchNorm2d(4)
        self.heads_bias = nn.Parameter(torch.zeros(2, 4))
        self.named = nn.Parameter(torch.zeros(4, 4))
        self.head = nn.Linear(4, 2)
        self.tied = self.head
        self.frozen = nn.Parameter(torch.zeros(4, 4), requires_grad=False)

    def no_weight_decay(self) -> set[str]:
        return {"named"}


def test_weight_decay_acts_on_matrices_and_kernels_only():
    decay = {name for name, _, acts in decayed(Tokens()) if acts}
    assert decay == {"proj.weight", "head.weight"}


@pytest.mark.parametrize("preset", ["coatnet-micro", "coat-micro", "cvt-micro", "vit-rel-micro"])
def test_our_networks_decay_weights_and_nothing_else(preset):
    network = create_model(preset, num_classes=10, image_size=32)
    tables = {name for name, _ in network.named_parameters() if not name.endswith(".weight")}
    decay = {name for name, _, acts in decayed(network) if acts}
    assert decay
    assert not decay & tables
    assert all(network.get_parameter(name).ndim >= 2 for name in decay)


def test_every_trainable_parameter_is_optimized_once():
    network = Tokens()
    optimizer = build_optimizer(network, TrainConfig(weight_decay=0.3))
    inside = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    expected = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert {id(p) for p in inside} == {id(p) for p in expected}
    assert len(inside) == len(expected)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("sgd", SGD)])
def test_the_optimizer_is_the_one_asked_for(name, kind):
    train = TrainConfig(optimizer=name, lr=0.25, momentum=0.8, betas=(0.8, 0.95))
    optimizer = build_optimizer(nn.Linear(2, 2), train)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.25
    assert group.get("betas", (0.8, 0.95)) == (0.8, 0.95)
    assert group.get("momentum", 0.8) == 0.8


def test_the_rate_scales_with_the_batch_only_where_a_base_is_given():
    assert peak_lr(TrainConfig(lr=5e-4, batch_size=1024, lr_base_batch=512)) == 1e-3
    assert peak_lr(TrainConfig(lr=5e-4, batch_size=1024)) == 5e-4


def test_warm_up_rises_to_the_peak_and_cosine_falls_to_the_minimum():
    train = TrainConfig(lr=0.1, min_lr=0.01)
    factors = [lr_factor(train, step, total=100, warmup=10) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[100] == pytest.approx(0.1)
    assert all(before > after for before, after in pairwise(factors[10:]))


def test_linear_falls_in_a_straight_line_and_constant_stays():
    linear = TrainConfig(schedule="linear", lr=0.1)
    assert lr_factor(linear, 25, total=100, warmup=0) == pytest.approx(0.75)
    constant = TrainConfig(schedule="constant", min_lr=0.0)
    assert lr_factor(constant, 99, total=100, warmup=0) == 1.0


def test_warmup_starts_from_its_own_rate():
    train = TrainConfig(lr=0.1, warmup_steps=10, warmup_lr=0.01)
    rates = [0.1 * lr_factor(train, step, total=100, warmup=10) for step in range(11)]
    assert rates == pytest.approx([0.01 + 0.009 * step for step in range(11)])
    scaled = TrainConfig(lr=0.1, lr_base_batch=32, batch_size=64, warmup_steps=4, warmup_lr=0.02)
    assert 0.2 * lr_factor(scaled, 0, total=100, warmup=4) == pytest.approx(0.02)


def test_the_scheduler_gives_each_step_its_rate():
    train = TrainConfig(lr=0.2, warmup_steps=2, warmup_epochs=0.5)
    optimizer = build_optimizer(nn.Linear(2, 2), train)
    schedule = build_schedule(optimizer, train, total=20, steps_per_epoch=4)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert warmup_length(train, 4) == 4
    expected = [0.05, 0.1, 0.15, 0.2]
    expected += [0.1 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    assert rates == pytest.approx(expected)


def test_max_steps_alone_takes_the_place_of_epochs():
    assert checked_recipe({"max_steps": 7}).epochs is None
    with pytest.raises(ConfigError, match="set one of `epochs` and `max_steps`"):
        checked_recipe({"max_steps": 7, "epochs": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_deacy": 0.1}, "unknown setting 'weight_deacy'.*did you mean 'weight_decay'"),
        ({"lr": -1.0}, "lr=-1.0: Input should be greater than 0"),
        ({"optimizer": "adam"}, "optimizer='adam': Input should be 'adamw' or 'sgd'"),
        ({"batch_size": 10, "accumulate": 4}, "`batch_size` must be divisible by accumulate"),
    ],
)
def test_a_wrong_setting_is_one_clear_message(settings, message):
    with pytest.raises(ConfigError, match=message):
        create_module(nn.Linear(2, 2), **settings)
