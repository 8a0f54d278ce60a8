"""features_only: the multi-scale maps that a detection backbone reads."""

import pytest
import torch

from ablate.models import create_model, load_weights


def backbone(arch, **options):
    return create_model(arch, features_only=True, **options)


@pytest.mark.parametrize(
    ("arch", "count"),
    [
        ("coat-lite-tiny", 5_400_320),
        ("coat-lite-mini", 10_497_536),
        ("coat-lite-small", 19_324_480),
        ("coat-tiny", 5_344_624),
        ("coat-mini", 10_118_704),
        ("coat-small", 21_370_984),
    ],
)
def test_backbones_of_the_papers_detectors_have_neither_head_nor_final_norms(arch, count):
    """With these, all six printed counts of CoaT's Tables 3 and 4 come out."""
    with torch.device("meta"):
        model = backbone(arch)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("arch", ["coat-lite-tiny", "coat-tiny"])
def test_maps_come_with_their_strides_and_channels(arch):
    with torch.device("meta"):
        model = backbone(arch)
        maps = model(torch.empty(2, 3, 224, 224))
    assert model.names == ["stage1", "stage2", "stage3", "stage4"]
    assert model.strides == [4, 8, 16, 32]
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 224 // stride, 224 // stride)
        for channels, stride in zip(model.channels, model.strides, strict=True)
    ]


@pytest.mark.parametrize(
    ("arch", "channels", "strides"),
    [
        ("coatnet-micro", [32, 64, 96, 128], [2, 4, 8, 8]),
        ("S2x8(act=relu):C1x16-C1x24+T1x32-T1x32@head_dim=16", [16, 32, 32], [4, 8, 16]),
        ("V1x32-V1x64(cls_token=true)@head_dim=32;stem_stride=2", [32, 64], [2, 4]),
        ("A1x64-R1x48-F1x64", [64, 48, 64], [4, 8, 16]),
        ("E1x32:T2x32(stride=1)@stem_stride=8", [32], [8]),
    ],
)
def test_every_kind_gives_its_maps(arch, channels, strides):
    model = backbone(arch, image_size=64)
    assert (model.channels, model.strides) == (channels, strides)
    found = [tuple(m.shape) for m in model(torch.randn(2, 3, 64, 64))]
    assert found == [(2, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_maps_of_the_scales_are_those_after_the_parallel_group():
    torch.manual_seed(0)
    arch = "F1x8-F1x12-F1x12-F1x12|P2@num_heads=2;stem_stride=2"
    model = backbone(arch, image_size=32).eval()
    serial = backbone(arch.replace("|P2", ""), image_size=32).eval()
    load_weights(serial, model.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32)
    mixed, plain = model(x), serial(x)
    assert torch.equal(mixed[0], plain[0])
    for scale in (1, 2, 3):
        assert not torch.allclose(mixed[scale], plain[scale])
    features = [(f, torch.zeros(2, 12)) for f in plain[1:]]
    assert [m.shape for m, _ in model.group(features)] == [m.shape for m in mixed[1:]]


def test_a_backbone_takes_the_weights_of_its_classifier():
    torch.manual_seed(0)
    classifier = create_model("coat-micro", num_classes=10, image_size=32).eval()
    model = backbone("coat-micro", image_size=32).eval()
    report = load_weights(model, classifier.state_dict())
    assert report.missing == ()
    assert {key.split(".")[0] for key in report.dropped} == {"head", "stages"}
    assert all("head" in key or ".norm." in key for key in report.dropped)
    x = torch.randn(2, 3, 32, 32)
    expected = classifier.features(x)
    for found, (image, _) in zip(model(x), expected, strict=True):
        assert torch.equal(found, image)


def test_a_backbone_takes_images_of_any_size():
    model = backbone("coat-lite-micro", image_size=32).eval()
    assert model.strides == [2, 4, 8, 16]
    maps = model(torch.randn(1, 3, 70, 45))
    assert [tuple(m.shape[2:]) for m in maps] == [(35, 22), (17, 11), (8, 5), (4, 2)]


def test_every_parameter_of_a_backbone_gets_a_gradient():
    torch.manual_seed(0)
    model = backbone("F1x8-F1x12-F1x12-F1x12|P1@num_heads=2;stem_stride=2", image_size=32)
    sum(m.square().sum() for m in model(torch.randn(2, 3, 32, 32))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
