"""Comparison rows: torchvision's and timm's classifiers beside our own."""

import builtins
import sys

import pytest
import torch

from ablate.errors import ModelError
from ablate.models import create_model
from ablate.models.comparison import is_comparison


def one_step(model, images, num_classes):
    """Logits' shape, and whether one step of SGD moves the loss down."""
    target = torch.arange(len(images)) % num_classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()
    losses = []
    for _ in range(2):
        logits = model(images)
        loss = torch.nn.functional.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return tuple(logits.shape), losses


@pytest.mark.parametrize(
    ("model", "image_size", "in_chans"),
    [
        ("torchvision:shufflenet_v2_x0_5", 32, 3),
        ("torchvision:resnet18", (32, 64), 1),
        ("timm:resnet10t", 32, 3),
        ("timm:vit_tiny_patch16_224", (32, 48), 1),
    ],
)
def test_a_row_trains_with_its_classes_channels_and_image_size(model, image_size, in_chans):
    torch.manual_seed(0)
    network = create_model(model, num_classes=7, image_size=image_size, in_chans=in_chans)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    shape, losses = one_step(network, torch.randn(4, in_chans, *size), 7)
    assert shape == (4, 7)
    assert all(loss == loss and loss < 20 for loss in losses)


def test_torchvisions_transformer_is_made_for_the_image_size():
    with torch.device("meta"):
        small = create_model("torchvision:vit_b_16", image_size=32)
        large = create_model("torchvision:vit_b_16", image_size=224)
    assert small.encoder.pos_embedding.shape[1] == 5
    assert large.encoder.pos_embedding.shape[1] == 197
    assert sum(p.numel() for p in large.parameters()) == 86_567_656


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_answer_with_one_tensor(name):
    with torch.device("meta"):
        model = create_model(f"torchvision:{name}", num_classes=5, image_size=96).train()
        assert model(torch.empty(2, 3, 96, 96)).shape == (2, 5)


@pytest.mark.parametrize("model", ["torchvision:regnet_y_400mf", "timm:regnety_004"])
def test_rows_build_on_the_meta_device(model):
    with torch.device("meta"):
        network = create_model(model, num_classes=10, image_size=32)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("torchvision:resnet51", r"unknown torchvision model 'resnet51'.*nearest are resnet50"),
        ("timm:coatnet_0_242", r"unknown timm model 'coatnet_0_242'.*nearest are coatnet_0_224"),
        ("torchvision:maskrcnn_resnet50_fpn", "unknown torchvision model"),
        ("timm:zzzzzzzz", "no name is like it"),
    ],
)
def test_an_unknown_name_tells_the_nearest(model, message):
    with pytest.raises(ModelError, match=message):
        create_model(model)


@pytest.mark.parametrize(
    ("model", "image_size", "message"),
    [
        ("torchvision:alexnet", 32, "alexnet cannot be built for images of 32x32: .*too small"),
        ("torchvision:vit_b_16", 30, "vit_b_16 cannot be built for images of 30x30"),
        ("torchvision:vit_b_16", (32, 48), "takes square images, but got 32x48"),
        ("torchvision:maxvit_t", 32, "maxvit_t cannot be built for images of 32x32"),
        (
            "timm:inception_v3",
            32,
            "inception_v3 cannot be built for images of 32x32: .*Kernel size",
        ),
    ],
)
def test_a_size_that_the_network_cannot_take_is_told_when_it_is_built(model, image_size, message):
    with pytest.raises(ModelError, match=message):
        create_model(model, image_size=image_size)


def test_the_check_of_the_size_leaves_no_trace():
    torch.manual_seed(0)
    model = create_model("torchvision:resnet18", num_classes=3, image_size=32)
    assert model.training
    assert model.bn1.num_batches_tracked == 0
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_options_of_the_grammar_do_not_reach_comparison_rows():
    with pytest.raises(ModelError, match=r"torchvision:resnet18 is no arch of ours.*cpe"):
        create_model("torchvision:resnet18", cpe=False)


def test_timm_missing_names_the_extra(monkeypatch):
    """As where it is not installed: importing it fails."""
    true_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "timm":
            raise ImportError(name)
        return true_import(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModelError, match=r"timm:resnet18 needs timm.*ablate-vision\[timm\]"):
        create_model("timm:resnet18")


def test_timm_networks_give_features_and_torchvisions_say_that_they_do_not():
    network = create_model("timm:resnet10t", image_size=32, features_only=True).eval()
    assert [tuple(m.shape[2:]) for m in network(torch.randn(1, 3, 32, 32))][-1] == (1, 1)
    with pytest.raises(ModelError, match="torchvision:resnet18 has no features_only form"):
        create_model("torchvision:resnet18", features_only=True)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("timm:resnet18", True), ("torchvision:x", True), ("F2x64", False), ("timm", False)],
)
def test_a_row_is_named_by_its_library_and_a_colon(model, expected):
    assert is_comparison(model) is expected
