"""What is counted, by which formula, and that nothing is counted silently as zero."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.cost import profile
from ablate.cost.formulas import count_macs
from ablate.errors import ConfigError, GrammarError, ModelError
from ablate.models import create_model
from ablate.presets import PRESETS


class Lambda(nn.Module):
    """A network that is one function of the image (1, C, H, W)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def macs(module: nn.Module, size: tuple[int, int] = (6, 5), in_chans: int = 4) -> int:
    return profile(module, image_size=size, in_chans=in_chans).macs


# -- formulas: (1, 4, 6, 5) in, counted by hand ---------------------------------------------------

PIXELS = 6 * 5

LAYERS = {
    "a convolution: kernel, input and output channels, output pixels": (
        nn.Conv2d(4, 8, 3, padding=1),
        PIXELS * 9 * 4 * 8,
    ),
    "a strided convolution: the output's pixels": (
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        3 * 3 * 9 * 4 * 8,
    ),
    "a depthwise convolution: one input channel a filter": (
        nn.Conv2d(4, 4, 5, padding=2, groups=4),
        PIXELS * 25 * 4,
    ),
    "a transposed convolution: the input's pixels": (
        nn.ConvTranspose2d(4, 8, 2, stride=2),
        PIXELS * 4 * 4 * 8,
    ),
    "a 1-d convolution": (Lambda(lambda x: F.conv1d(x[0], x.new_empty(2, 6, 1))), 4 * 5 * 6 * 2),
    "a linear layer with bias": (nn.Linear(5, 7), 4 * 6 * 5 * 7),
    "a linear layer without bias": (nn.Linear(5, 7, bias=False), 4 * 6 * 5 * 7),
    "a matrix product of maps": (Lambda(lambda x: x @ x.transpose(2, 3)), 4 * 6 * 5 * 6),
    "an einsum": (Lambda(lambda x: torch.einsum("nchw,nchv->nwv", x, x)), 4 * 6 * 5 * 5),
    "a batched product with an addend": (
        Lambda(lambda x: torch.baddbmm(x[0] @ x[0].mT, x[0], x[0].mT)),
        2 * 4 * 6 * 5 * 6,
    ),
    "a sum of products over the batch": (
        Lambda(lambda x: torch.addbmm(x.new_empty(6, 6), x[0], x[0].mT)),
        4 * 6 * 5 * 6,
    ),
    "a matrix times a vector": (Lambda(lambda x: x[0, 0] @ x[0, 0, 0]), 6 * 5),
    "a matrix times a vector, added": (
        Lambda(lambda x: torch.addmv(x[0, 0, :, 0], x[0, 0], x[0, 0, 0])),
        6 * 5,
    ),
    "a product of vectors": (Lambda(lambda x: x[0, 0, 0] @ x[0, 0, 1]), 5),
    "attention": (Lambda(lambda x: F.scaled_dot_product_attention(x, x, x)), 2 * 4 * 6 * 6 * 5),
    "attention with a bias on the logits": (
        Lambda(lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x @ x.mT)),
        3 * 4 * 6 * 6 * 5,
    ),
    "attention between maps of other length and width": (
        Lambda(lambda x: F.scaled_dot_product_attention(x[..., :3, :], x, x[..., :2])),
        4 * 3 * 6 * (5 + 2),
    ),
}


@pytest.mark.parametrize(("layer", "expected"), LAYERS.values(), ids=LAYERS)
def test_macs_of(layer: nn.Module, expected: int) -> None:
    cost = profile(layer, image_size=(6, 5), in_chans=4)
    assert cost.macs == expected
    assert sum(cost.per_operator.values()) == expected
    assert profile(layer, image_size=(6, 5), in_chans=4, counter="fvcore").macs == expected


def test_multi_head_attention_counts_the_same_in_its_fused_form() -> None:
    """On a CPU in eval mode torch has one operator for the whole layer."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    tokens = Lambda(lambda x: layer(x[:, 0], x[:, 0], x[:, 0], need_weights=False)[0])
    tokens.layer = layer
    assert macs(tokens, size=(10, 8)) == 10 * 8 * 32 + 2 * 10 * 10 * 8


class Reads(nn.Module):
    """Attention behind a value, which meta tensors do not have: it can only run for real."""

    def forward(self, x: Tensor) -> Tensor:
        assert float(x.sum()) == 0
        return F.scaled_dot_product_attention(x, x, x)


def test_attention_counts_the_same_on_every_path_of_torch() -> None:
    """The CPU's fused kernel and the decomposition on meta do the same products."""

    fused = profile(Reads(), image_size=(6, 5), in_chans=4)
    assert list(fused.per_operator) == ["aten._scaled_dot_product_flash_attention_for_cpu"]
    decomposed = profile(LAYERS["attention"][0], image_size=(6, 5), in_chans=4)
    assert list(decomposed.per_operator) == ["aten.bmm"]
    assert fused.macs == decomposed.macs
    assert fused.attention_logits == decomposed.attention_logits == 4 * 6 * 6


@pytest.mark.parametrize(
    ("model", "logits"),
    [
        ("coatnet-0", 2_420_208),
        ("coatnet-0@rel_attn=post", 2_420_208),
        ("coat-lite-tiny", 0),  # its softmax runs over keys, not over logits
        ("timm:coatnet_0_224", 2_420_208),
        ("timm:coat_lite_tiny", 0),
    ],
)
def test_attention_logits_are_the_products_of_queries_and_keys(model: str, logits: int) -> None:
    assert profile(model).attention_logits == logits


@pytest.mark.parametrize("kernel", ["fused_attention_overrideable", "attention_math_for_mps"])
def test_attention_kernels_of_other_devices_count_alike(kernel: str) -> None:
    q, k, v = (torch.empty(2, 3, *shape, device="meta") for shape in ((4, 8), (5, 8), (5, 6)))
    packet = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")
    assert count_macs(packet, (q, k, v), {}, None) == 2 * 3 * 4 * 5 * (8 + 6)


def test_what_has_no_formula_is_listed_and_views_are_not() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten())
    cost = profile(network, image_size=8, in_chans=4)
    assert cost.uncounted_ops == {"aten.native_batch_norm": 1, "aten.gelu": 1}
    spectrum = profile(Lambda(lambda x: torch.fft.rfft2(x).abs()), image_size=8, in_chans=4)
    assert spectrum.macs == 0
    assert spectrum.uncounted_ops == {"aten._fft_r2c": 1, "aten.abs": 1}


def test_an_operator_from_elsewhere_is_listed() -> None:
    library = torch.library.Library("ablate_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x + x, "CompositeExplicitAutograd")
    cost = profile(Lambda(torch.ops.ablate_test.twice), image_size=8)
    assert cost.uncounted_ops["ablate_test.twice"] == 1


# -- parameters and stages ------------------------------------------------------------------------


def test_shared_and_frozen_parameters_count_once_and_frozen_are_not_trainable() -> None:
    one, two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    two.weight = one.weight
    two.bias.requires_grad_(False)
    cost = profile(nn.Sequential(one, two, one), image_size=4)
    assert cost.params == 9 + 3 + 3
    assert cost.trainable == 9 + 3
    assert [(stage.params, stage.macs) for stage in cost.per_stage] == [(12, 2 * 144), (3, 144)]


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        ("coatnet-micro", ["stem", "stage1", "stage2", "stage3", "stage4", "head"]),
        ("coat-micro", ["stage1", "stage2", "stage3", "stage4", "group", "head"]),
        ("S2x8:C1x8-C2x16+T1x32", ["stem", "stage1", "stage2.1", "stage2.2", "head"]),
    ],
)
def test_stages_sum_to_the_whole(model: str, stages: list[str]) -> None:
    cost = profile(model, image_size=32, num_classes=10)
    assert [stage.name for stage in cost.per_stage] == stages
    assert sum(stage.params for stage in cost.per_stage) == cost.params
    assert sum(stage.macs for stage in cost.per_stage) == cost.macs
    assert all(stage.macs > 0 for stage in cost.per_stage)


def test_a_stage_tells_its_kind_resolution_depth_width_and_heads() -> None:
    stage = profile("coatnet-0").per_stage[3]
    facts = (stage.name, stage.kind, stage.resolution, stage.depth, stage.width, stage.heads)
    assert facts == ("stage3", "T", (14, 14), 5, 384, 12)


def test_a_network_of_others_is_told_by_its_children() -> None:
    cost = profile("torchvision:resnet18")
    assert [stage.name for stage in cost.per_stage if stage.macs] == [
        "conv1", "layer1", "layer2", "layer3", "layer4", "fc",
    ]  # fmt: skip
    assert (cost.params, cost.macs) == (11_689_512, 1_814_073_344)


# -- closed forms of the papers' blocks -----------------------------------------------------------


def block_cost(longer: str, shorter: str, index: int, **size: int) -> tuple[int, int]:
    """Params and MACs of one more block, in the stage at this index."""
    more = profile(longer, **size).per_stage[index]
    less = profile(shorter, **size).per_stage[index]
    return more.params - less.params, more.macs - less.macs


def test_coat_serial_block() -> None:
    c, r, d, n = 64, 4, 8, 14 * 14
    found = block_cost("F3x64-F2x64", "F2x64-F2x64", 0, image_size=56)
    params = (4 + 2 * r) * c**2 + (9 + r) * c
    crpe = c * (2 * 9 + 3 * 25 + 3 * 49) // 8
    token_macs = (4 + 2 * r) * (n + 1) * c**2 + 2 * (n + 1) * c * d
    assert found == (params, token_macs + 9 * n * c + crpe * n)


def test_coat_parallel_block_counts_its_shared_mlp_once_and_its_encodings_in_the_group() -> None:
    c, r, d = 64, 4, 8
    net = "F1x64-F1x64-F1x64-F1x64|P{}@stem_stride=2"
    more, less = (
        profile(net.format(n), image_size=64, num_classes=10).per_stage[4] for n in (2, 1)
    )
    assert more.params - less.params == 3 * (4 * c**2 + 8 * c) + 2 * r * c**2 + (r + 1) * c
    images = [16 * 16, 8 * 8, 4 * 4]
    tokens = sum(images) + 3
    products = (4 + 2 * r) * tokens * c**2 + 2 * tokens * c * d
    assert more.macs - less.macs == products + (9 + 30) * sum(images) * c


def test_coatnet_mbconv_block() -> None:
    c, m, r, n = 96, 384, 24, 56 * 56
    found = block_cost("S2x64:C3x96", "S2x64:C2x96", 1, image_size=224)
    params = c * m + 9 * m + m * c + c + 2 * c + 4 * m + 2 * m * r + r + m
    assert found == (params, n * (2 * c * m + 9 * m) + 2 * m * r)


def test_coatnet_transformer_block() -> None:
    c, heads, side = 64, 2, 7
    n = side * side
    found = block_cost("S2x32:C1x32-T3x64", "S2x32:C1x32-T2x64", 2, image_size=56)
    table = heads * (2 * side - 1) ** 2
    params = 2 * c + 4 * (c * c + c) + table + 2 * c + 8 * c * c + 5 * c
    assert found == (params, n * 12 * c * c + 2 * n * n * c)


def test_cvt_block() -> None:
    c, q = 64, 14 * 14
    kv = 7 * 7
    found = block_cost("V3x64-V1x64", "V2x64-V1x64", 0, image_size=56)
    convs = 9 * c * (q + 2 * kv)
    products = c * c * (q + 2 * kv + q) + 8 * q * c * c + 2 * q * kv * c
    assert found == (12 * c * c + 46 * c, convs + products)


# -- second opinion -------------------------------------------------------------------------------


SLOW_ROWS = ["coat-micro", "cvt-micro", "atc-micro", "torchvision:resnet18",
             "timm:vit_tiny_patch16_224"]  # fmt: skip


@pytest.mark.parametrize(
    "model",
    ["coat-lite-micro", "coatnet-micro", "vit-rel-micro"]
    + [pytest.param(model, marks=pytest.mark.slow) for model in SLOW_ROWS],
)
def test_fvcore_agrees_stage_by_stage(model: str) -> None:
    size = 32 if "micro" in model else 224
    ours = profile(model, image_size=size, num_classes=10)
    theirs = profile(model, image_size=size, num_classes=10, counter="fvcore")
    assert (ours.params, ours.trainable, ours.macs) == (
        theirs.params, theirs.trainable, theirs.macs,
    )  # fmt: skip
    assert [s.macs for s in ours.per_stage] == [s.macs for s in theirs.per_stage]
    assert "aten::scaled_dot_product_attention" not in theirs.uncounted_ops


def test_fvcore_cannot_read_a_network_without_weights() -> None:
    with torch.device("meta"):
        network = create_model("coat-lite-micro", image_size=32)
    with pytest.raises(ModelError, match="fvcore needs weights"):
        profile(network, counter="fvcore")
    assert profile(network).params > 0


# -- a network that is given ----------------------------------------------------------------------


def test_profiling_leaves_a_network_as_it_was() -> None:
    network = create_model("coatnet-micro", num_classes=10, image_size=32)
    network.stages[0].eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for counter in ("ablate", "fvcore"):
        profile(network, counter=counter)
    assert [module.training for module in network.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_network_that_ran_for_real_has_no_hooks_left_and_its_mode() -> None:
    network = nn.Sequential(Reads(), nn.Dropout())
    network[1].eval()
    profile(network, image_size=4)
    assert [module.training for module in network.modules()] == [True, True, False]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_built_network_knows_its_arch_and_size() -> None:
    network = create_model("coatnet-micro", num_classes=10, image_size=(32, 48))
    cost = profile(network)
    assert cost == profile("coatnet-micro", num_classes=10, image_size=(32, 48))
    assert cost.image_size == (32, 48)
    assert cost.arch == network.arch


def test_tensors_that_are_no_parameters_do_no_harm() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.plain = torch.full((1, 4, 1, 1), 2.0)
            self.listed = [torch.ones(1, 4, 1, 1)]

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.plain + self.listed[0]

    assert profile(Scaled(), image_size=4).macs == 16 * 12


def test_json_holds_plain_values() -> None:
    cost = profile("coat-lite-micro", image_size=32, num_classes=10)
    facts = json.loads(json.dumps(cost.to_json()))
    assert facts["params"] == cost.params
    assert facts["macs"] == cost.macs
    assert facts["arch"] == cost.arch
    assert facts["per_stage"][0]["resolution"] == [16, 16]
    assert "calls" not in facts


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "coatnet-00"}, ModelError, "unknown model 'coatnet-00' .did you mean"),
        ({"model": "Q2"}, GrammarError, "unknown kind 'Q'"),
        ({"model": "coatnet-0", "image_size": 8}, ModelError, "8x8 is too small"),
        ({"model": "coatnet-0", "image_size": 0}, ConfigError, "image_size is one whole number"),
        ({"model": "coatnet-0", "image_size": 2.5}, ConfigError, "image_size is one whole"),
        ({"model": "coatnet-0", "counter": "thop"}, ConfigError, "choose from ablate, fvcore"),
        ({"model": "coatnet-0", "num_classes": 0}, ConfigError, "must be at least 1"),
        ({"model": nn.Linear(5, 2), "image_size": 4}, ModelError, "Linear does not take an image"),
        ({"model": nn.Flatten(), "cpe": False}, ConfigError, "takes no options, but got cpe"),
    ],
)
def test_one_clear_message_for(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        profile(**arguments)


# -- speed ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_presets_and_coatnet_7_at_512_take_under_20_seconds_and_1500_megabytes() -> None:
    """Seconds of the CPU, since other work may run on this machine; one process, one thread.

    On Linux the peak is read from /proc: what `getrusage` tells begins with the parent's.
    """
    code = """
import json, pathlib, re, resource, time
from ablate.cost import profile
from ablate.cost.formulas import count_macs
from ablate.presets import PRESETS
start, counts = time.process_time(), {}
for preset in PRESETS.values():
    cost = profile(preset.name, image_size=preset.image_size, num_classes=preset.num_classes)
    counts[preset.name] = (cost.params, cost.macs)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
status = pathlib.Path("/proc/self/status")
if status.exists():
    used = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text()).group(1))
print(json.dumps([time.process_time() - start, used / 1024, counts]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, megabytes, counts = json.loads(ran.stdout)
    assert set(counts) == set(PRESETS)
    assert counts["coatnet-7"] == [2_444_188_024, 2_538_529_284_096]
    assert seconds < 20
    assert megabytes < (1500 if sys.platform == "linux" else 1500 * 1024)


def test_no_weights_are_allocated() -> None:
    """CoAtNet-7 would take 9.8 GB and, initialised, minutes."""
    start = time.process_time()
    assert profile("coatnet-7", image_size=224).params == 2_441_972_728
    assert time.process_time() - start < 10
