"""Memory of a training step: estimated on shapes, measured on tensors; latency and throughput."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn

from ablate.cost import Measurement, measure, profile, training_memory
from ablate.errors import AblateError, ConfigError, ModelError
from ablate.models import create_model

MEGABYTE = 2**20


class Wide(nn.Module):
    """Two linear layers on the pixels: 256 -> 1024 -> 10, with a ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def measured(model: str | nn.Module, **changed: object) -> list[Measurement]:
    arguments = {"image_size": 32, "num_classes": 10, "batch_sizes": (4,), "seconds": 0.01}
    return measure(model, **{**arguments, **changed})


# -- estimate -------------------------------------------------------------------------------------


def test_estimate_of_two_linear_layers_by_hand() -> None:
    """The peak is at the end of backward: weights, AdamW's two states, gradients, activations."""
    batch = 4096
    found = training_memory(Wide(), batch, image_size=16, in_chans=1)
    weights = 4 * (256 * 1024 + 1024 + 1024 * 10 + 10)
    images, hidden = 4 * batch * 256, 4 * batch * 1024
    # The hidden map after its ReLU (in place of the one before) and its gradient are alive
    # together, and one of them is made while the other two are.
    assert 3 * weights + images + 2 * hidden < found < 4 * weights + images + 3.2 * hidden


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("model", "size", "batch"),
    [("coat-lite-micro", 32, 16), ("coat-micro", 32, 4), ("coatnet-micro", 32, 16),
     ("cvt-micro", 32, 16), ("vit-rel-micro", 32, 8), ("torchvision:resnet18", 64, 4)],
)  # fmt: skip
def test_the_estimate_is_near_what_torch_allocates(
    model: str, size: int, batch: int, optimizer: str
) -> None:
    """The profiler also sees what kernels take for themselves: up to an eighth on tiny maps."""
    arguments = {"image_size": size, "num_classes": 10, "optimizer": optimizer}
    _, train = measured(model, batch_sizes=(batch,), **arguments)
    estimate = training_memory(model, batch, **arguments)
    assert 0.85 < estimate / train.peak_memory < 1.05


@pytest.mark.slow
def test_the_estimate_under_autocast_is_near_too_and_below_fp32() -> None:
    arguments = {"image_size": 32, "num_classes": 10}
    full = training_memory("coat-lite-micro", 16, **arguments)
    half = training_memory("coat-lite-micro", 16, "bf16", **arguments)
    _, train = measured("coat-lite-micro", batch_sizes=(16,), precision="bf16")
    assert half < 0.8 * full
    assert 0.8 < half / train.peak_memory < 1.05


def test_activations_grow_with_the_batch_and_states_with_the_optimizer() -> None:
    arguments = {"image_size": 32, "num_classes": 10}
    one, two, four = (training_memory("coatnet-micro", n, **arguments) for n in (64, 128, 256))
    assert four - two == pytest.approx(2 * (two - one), rel=0.01)
    params = profile("coatnet-micro", **arguments).params
    assert one - training_memory("coatnet-micro", 64, optimizer="sgd", **arguments) == 4 * params


def test_frozen_weights_have_no_gradient_and_no_state() -> None:
    network = Wide()
    trained = training_memory(network, 1, image_size=16, in_chans=1)
    network.layers[1].requires_grad_(False)
    frozen = training_memory(network, 1, image_size=16, in_chans=1)
    assert trained - frozen == pytest.approx(3 * 4 * 257 * 1024, rel=0.02)


def test_nothing_is_allocated_and_the_network_stays_as_it_was() -> None:
    assert training_memory("coatnet-7", 8, image_size=224) > 40e9  # 16 bytes a parameter
    network = create_model("coatnet-micro", image_size=32, num_classes=10).eval()
    training_memory(network, 8)
    assert not network.training
    assert all(p.grad is None and p.device.type == "cpu" for p in network.parameters())


def test_attention_without_a_bias_keeps_no_maps() -> None:
    """As the fused kernels: a quadratic map of 1,024 tokens would be 16 MB a block."""
    network = create_model(
        "V1x32@head_dim=32;kv_stride=1;stem_stride=1", image_size=32, num_classes=10
    )
    pure = training_memory(network, 1)
    assert pure < 1024 * 1024 * 4 * 2


# -- measurement ----------------------------------------------------------------------------------


def test_a_measurement_says_what_was_measured() -> None:
    found = measured("coatnet-micro", batch_sizes=(1, 2))
    assert [(m.mode, m.batch_size) for m in found] == [
        ("eval", 1), ("train", 1), ("eval", 2), ("train", 2),
    ]  # fmt: skip
    for m in found:
        assert m.arch == profile("coatnet-micro", image_size=32).arch
        assert (m.image_size, m.precision, m.device) == ((32, 32), "fp32", "cpu")
        assert m.device_name
        assert m.threads == torch.get_num_threads()
        assert m.repeats >= 5
        assert m.latency > 0
        assert m.spread >= 0
        assert m.throughput == m.batch_size / m.latency
        assert json.loads(json.dumps(m.to_json()))["peak_memory"] == m.peak_memory


def test_latency_is_the_time_of_a_step() -> None:
    class Sleeper(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02)
            return x.mean(dim=(2, 3))

    (found,) = measured(Sleeper(), training=False)
    assert 0.02 <= found.latency < 0.2
    assert found.throughput == pytest.approx(4 / found.latency)


def test_peak_memory_in_eval_holds_weights_images_and_the_largest_maps() -> None:
    found = measured(Wide(), training=False, image_size=16, in_chans=1, batch_sizes=(4096,))
    weights = 4 * (257 * 1024 + 1025 * 10)
    images, hidden = 4 * 4096 * 256, 4 * 4096 * 1024
    assert found[0].peak_memory == pytest.approx(weights + images + 2 * hidden, rel=0.02)


def test_a_training_step_takes_more_than_a_forward_pass() -> None:
    forward, step = measured("coat-lite-micro")
    assert step.peak_memory > forward.peak_memory
    assert step.latency > forward.latency


def test_measuring_leaves_the_mode_and_no_gradients() -> None:
    network = create_model("coatnet-micro", image_size=32, num_classes=10).eval()
    measured(network)
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_the_profiler_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    measured("coatnet-micro", training=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_the_estimate_is_near_and_the_name_is_told(precision: str) -> None:
    model, size, batch = "coatnet-0", 224, 16
    arguments = {"image_size": size, "num_classes": 1000}
    _, train = measured(
        model, device="cuda", batch_sizes=(batch,), precision=precision, **arguments
    )
    assert train.device == "cuda"
    assert train.device_name == torch.cuda.get_device_name()
    estimate = training_memory(model, batch, precision, **arguments)
    assert 0.7 < estimate / train.peak_memory < 1.2


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"batch_sizes": (0,)}, ConfigError, "whole number of at least 1, but got 0"),
        ({"precision": "int8"}, ConfigError, "unknown precision 'int8'; choose from fp32, bf16"),
        ({"precision": "fp16", "device": "cpu"}, ConfigError, "'fp16' needs a GPU"),
        ({"device": "tpu"}, ConfigError, "unknown device 'tpu'; choose from auto, cpu, cuda"),
        ({"device": "cuda:99"}, ConfigError, "'cuda:99' is not there: this machine has"),
        ({"optimizer": "lion"}, ConfigError, "unknown optimizer 'lion'.*adamw, sgd"),
        ({"seconds": 0}, ConfigError, "seconds is a number above 0"),
        ({"image_size": 4}, ModelError, "4x4 is too small"),
        ({"model": "coatnet-mikro"}, ModelError, "did you mean 'coatnet-micro'"),
    ],
)
def test_one_clear_message_for(changed: dict, error: type[AblateError], message: str) -> None:
    with pytest.raises(error, match=message):
        measured(**{"model": "coatnet-micro", **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 0}, "whole number of at least 1, but got 0"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"optimizer": "lamb"}, "unknown optimizer 'lamb'"),
    ],
)
def test_one_clear_message_of_the_estimate_for(changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_memory(**{"model": "coatnet-micro", "batch_size": 1, "image_size": 32, **changed})
