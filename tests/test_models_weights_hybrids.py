"""Weights of timm's CoAtNet and of the authors' CvT: keys, orders, shapes, answers."""

import pytest
import torch
from cvt_reference import CvT
from test_models_weights import assert_equal_states, assert_same_answers, randomized

from ablate.errors import WeightsError
from ablate.models import create_model, export_weights, load_weights
from ablate.models.relative_transformer import resize_table

timm = pytest.importorskip("timm", reason="the comparison with timm needs timm")

SMALL = "S2x16:C1x32-C2x64-T2x64-T3x96@ln_eps=1e-06;pool=avg;stride_at=depthwise"
TINY_CVT = "V1x32-V1x64-V2x96(cls_token=true)@head_dim=32"


def timm_coatnet(image_size=64, num_classes=10):
    """timm's CoAtNet of the widths and depths of SMALL."""
    return randomized(
        timm.create_model(
            "coatnet_0_224",
            img_size=image_size,
            num_classes=num_classes,
            embed_dim=(32, 64, 64, 96),
            depths=(1, 2, 2, 3),
            stem_width=16,
            head_hidden_size=96,
        )
    )


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [64, (64, 96)], ids=str)
def test_coatnet_answers_like_timm_on_the_same_weights(size, training):
    theirs = timm_coatnet(size)
    ours = create_model(SMALL, num_classes=10, image_size=size)
    report = load_weights(ours, theirs.state_dict())
    assert report.source_format == "timm CoAtNet"
    assert report.dropped == report.resized == report.missing == ()
    height, width = (size, size) if isinstance(size, int) else size
    assert_same_answers(ours, theirs, torch.randn(4, 3, height, width), training)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_full_size_coatnet_answers_like_timm_on_the_same_weights(training):
    theirs = randomized(timm.create_model("coatnet_0_224"))
    ours = create_model("coatnet-0-timm")
    load_weights(ours, theirs.state_dict())
    assert_same_answers(ours, theirs, torch.randn(2, 3, 224, 224), training)


def test_coatnet_exports_to_timm_what_it_loaded():
    theirs = timm_coatnet()
    ours = create_model(SMALL, num_classes=10, image_size=64)
    load_weights(ours, theirs.state_dict())
    assert_equal_states(export_weights(ours, "timm"), theirs.state_dict())


@pytest.mark.parametrize("size", range(6))
def test_every_timm_coatnet_has_the_exported_keys_and_shapes(size):
    with torch.device("meta"):
        theirs = timm.create_model(f"coatnet_{size}_224").state_dict()
        ours = export_weights(create_model(f"coatnet-{size}-timm"), "timm")
    assert {key: tensor.shape for key, tensor in ours.items()} == {
        key: tensor.shape for key, tensor in theirs.items()
    }


def test_position_tables_are_resized_to_another_resolution_and_reported():
    theirs = timm_coatnet(64)
    ours = create_model(SMALL, num_classes=10, image_size=96)
    report = load_weights(ours, theirs.state_dict())
    tables = [key for key in ours.state_dict() if key.endswith("position.table")]
    assert sorted(report.resized) == sorted(tables)
    small = create_model(SMALL, num_classes=10, image_size=64)
    load_weights(small, theirs.state_dict())
    for key in tables:
        found, source = ours.state_dict()[key], small.state_dict()[key]
        grid = ((found.shape[1] + 1) // 2, (found.shape[2] + 1) // 2)
        assert torch.equal(found, resize_table(source, grid))
    assert ours(torch.randn(1, 3, 96, 96)).shape == (1, 10)


def test_our_own_weights_are_resized_too():
    small = randomized(create_model(SMALL, num_classes=10, image_size=64))
    large = create_model(SMALL, num_classes=10, image_size=(96, 128))
    report = load_weights(large, small.state_dict())
    assert len(report.resized) == 5
    assert torch.equal(large.head.fc.weight, small.head.fc.weight)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(64, 64), (50, 72)], ids=str)
def test_cvt_answers_like_its_description_on_the_same_weights(size, training):
    theirs = randomized(CvT((32, 64, 96), (1, 1, 2), (1, 2, 3), 10))
    ours = create_model(TINY_CVT, num_classes=10, image_size=size)
    report = load_weights(ours, theirs.state_dict())
    assert report.source_format == "official CvT"
    assert report.dropped == report.missing == ()
    assert_same_answers(ours, theirs, torch.randn(4, 3, *size), training)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "depths", "saved"), [("cvt-13", (1, 2, 10), 459), ("cvt-21", (1, 4, 16), 731)]
)
def test_cvt_takes_and_gives_the_authors_keys(preset, depths, saved):
    theirs = CvT((64, 192, 384), depths, (1, 3, 6), 1000).state_dict()
    assert len(theirs) == saved
    ours = create_model(preset)
    load_weights(ours, theirs)
    assert_equal_states(export_weights(ours, "official"), theirs)


def test_a_cvt_file_in_a_coatnet_names_what_has_no_place():
    state = CvT((32, 64, 96), (1, 1, 2), (1, 2, 3), 10).state_dict()
    with pytest.raises(WeightsError, match=r"official CvT weights do not fit .*stage0.patch_embed"):
        load_weights(create_model(SMALL, num_classes=10, image_size=64), state)


def test_timms_other_coatnets_are_told_apart():
    state = timm.create_model("coatnet_nano_rw_224").state_dict()
    with pytest.raises(WeightsError, match=r"timm CoAtNet weights do not fit .*no place for"):
        load_weights(create_model("coatnet-0-timm"), state)


@pytest.mark.parametrize("layout", ["official", "ablate"])
def test_cvt_export_and_load_are_inverse(layout):
    model = randomized(create_model(TINY_CVT, num_classes=10, image_size=64))
    fresh = create_model(TINY_CVT, num_classes=10, image_size=64)
    load_weights(fresh, export_weights(model, layout))
    assert_equal_states(fresh.state_dict(), model.state_dict())


def test_a_cvt_backbone_takes_the_weights_of_a_classifier():
    state = CvT((32, 64, 96), (1, 1, 2), (1, 2, 3), 10).state_dict()
    model = create_model(TINY_CVT, image_size=64, features_only=True)
    report = load_weights(model, state)
    assert set(report.dropped) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert report.missing == ()
