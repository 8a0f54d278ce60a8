"""Weights of other projects in and out: layouts, aliases, messages, numerics against timm."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from ablate.errors import WeightsError
from ablate.models import create_model, export_weights, load_weights

timm = pytest.importorskip("timm", reason="the comparison with timm needs timm")

LITE = "F1x16(mlp_ratio=8)-F2x24-F1x32-F2x40@num_heads=8"
CO_SCALE = "F1x16-F1x24-F1x24-F1x24|P2@num_heads=8"
TIMM_LITE = {
    "embed_dims": (16, 24, 32, 40),
    "serial_depths": (1, 2, 1, 2),
    "mlp_ratios": (8, 4, 4, 4),
}
TIMM_CO_SCALE = {
    "embed_dims": (16, 24, 24, 24),
    "serial_depths": (1, 1, 1, 1),
    "parallel_depth": 2,
}


def timm_coat(name, image_size, **options):
    """A CoaT of timm, with weights far from their small initial values."""
    if "serial_depths" in options:
        from timm.models.coat import CoaT

        settings = {"patch_size": 4, "mlp_ratios": (4, 4, 4, 4), "num_classes": 10} | options
        return randomized(CoaT(img_size=image_size, **settings))
    return randomized(timm.create_model(name, **options))


def randomized(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.05 if parameter.ndim > 1 else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.1)
            if name.endswith("running_var"):
                buffer.mul_(1 + torch.rand(buffer.shape, generator=generator))
    return model


def assert_same_answers(ours, theirs, x, training):
    """Outputs under 1e-5 of the output's scale apart."""
    ours.train(training)
    theirs.train(training)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("arch", "options"), [(LITE, TIMM_LITE), (CO_SCALE, TIMM_CO_SCALE)], ids=["lite", "co-scale"]
)
def test_coat_answers_like_timm_on_the_same_weights(arch, options, training):
    theirs = timm_coat("", 64, **options)
    ours = create_model(arch, num_classes=10, image_size=64)
    load_weights(ours, theirs.state_dict())
    assert_same_answers(ours, theirs, torch.randn(2, 3, 64, 64), training)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["coat_tiny", "coat_lite_tiny"])
def test_full_size_coat_answers_like_timm_on_the_same_weights(name, training):
    theirs = timm_coat(name, 224)
    ours = create_model(name.replace("_", "-"))
    load_weights(ours, theirs.state_dict())
    assert_same_answers(ours, theirs, torch.randn(1, 3, 224, 224), training)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["coat_lite_mini", "coat_lite_small", "coat_lite_medium", "coat_mini", "coat_small"]
)
def test_every_coat_takes_timms_state_dict_and_gives_it_back(name):
    theirs = timm_coat(name, 224).state_dict()
    ours = create_model(name.replace("_", "-"))
    report = load_weights(ours, theirs)
    assert set(report.missing) == {
        f"stages.{stage}.0.norm.{part}"
        for stage in ((0, 1, 2) if "lite" in name else (0,))
        for part in ("weight", "bias")
    }
    assert_equal_states(export_weights(ours, "timm"), theirs)


def assert_equal_states(found, expected):
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize(
    ("preset", "saved"),
    [
        ("coat-lite-tiny", 222),
        ("coat-lite-small", 382),
        ("coat-lite-medium", 602),
        ("coat-tiny", 548),
    ],
)
def test_the_authors_layout_has_their_number_of_saved_keys(preset, saved):
    """Aliases and unused norms included; timm leaves the norms out."""
    with torch.device("meta"):
        model = create_model(preset)
    assert len(export_weights(model, "official")) == saved
    assert len(export_weights(model, "timm")) == saved - (6 if "lite" in preset else 2)


@pytest.mark.parametrize("layout", ["official", "timm", "ablate"])
@pytest.mark.parametrize("arch", [LITE, CO_SCALE], ids=["lite", "co-scale"])
def test_export_and_load_are_inverse(arch, layout):
    model = randomized(create_model(arch, num_classes=10, image_size=64))
    fresh = create_model(arch, num_classes=10, image_size=64)
    report = load_weights(fresh, export_weights(model, layout))
    unused = {key for key in model.state_dict() if key in report.missing}
    assert all(".norm." in key for key in unused)
    assert bool(unused) == (layout == "timm")
    for key, tensor in fresh.state_dict().items():
        assert key in unused or torch.equal(tensor, model.state_dict()[key]), key


def test_the_report_names_what_was_mapped_and_what_was_dropped():
    model = create_model(LITE, num_classes=10, image_size=64)
    state = export_weights(model, "official")
    report = load_weights(model, {"model": state, "epoch": 3})
    assert report.source_format == "official CoaT"
    assert ("serial_blocks2.1.mlp.fc1.weight", "stages.1.0.blocks.1.mlp.expand.weight") in (
        report.mapped
    )
    assert "serial_blocks2.1.cpe.proj.weight" in report.dropped
    assert "serial_blocks2.0.factoratt_crpe.crpe.conv_list.2.bias" in report.dropped
    assert len(report.mapped) + len(report.dropped) == len(state)
    assert report.resized == report.missing == ()
    assert str(report).startswith("official CoaT weights: ")


def test_an_alias_that_differs_from_its_tensor_is_an_error():
    model = create_model(CO_SCALE, num_classes=10, image_size=64)
    for key in (
        "serial_blocks2.0.cpe.proj.weight",
        "parallel_blocks.1.factoratt_crpe3.crpe.conv_list.0.weight",
        "parallel_blocks.1.mlp4.fc2.bias",
    ):
        state = export_weights(model, "official")
        state[key] = state[key] + 1
        with pytest.raises(WeightsError, match=f"{key} must equal .*values differ"):
            load_weights(model, state)


def test_aliases_alone_are_enough():
    """A file that stores a shared tensor only where it is used."""
    model = randomized(create_model(LITE, num_classes=10, image_size=64))
    state = export_weights(model, "official")
    for key in [key for key in state if key.startswith(("cpe", "crpe"))]:
        del state[key]
    fresh = create_model(LITE, num_classes=10, image_size=64)
    load_weights(fresh, state)
    assert_equal_states(fresh.state_dict(), model.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_both_kinds_are_read(tmp_path, suffix):
    model = randomized(create_model(LITE, num_classes=10, image_size=64))
    path = tmp_path / f"weights{suffix}"
    state = export_weights(model, "official")
    if suffix == ".pth":
        torch.save({"model": state, "args": argparse.Namespace(lr=1e-3), "epoch": 9}, path)
    else:
        save_file({key: tensor.clone() for key, tensor in state.items()}, path)
    fresh = create_model(LITE, num_classes=10, image_size=64)
    load_weights(fresh, path)
    assert_equal_states(fresh.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    "prefix", ["model.", "network.", "module.", "_orig_mod.", "network.module."]
)
def test_prefixes_of_lightning_and_other_wrappers_are_taken_off(prefix):
    model = randomized(create_model(LITE, num_classes=10, image_size=64))
    state = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    fresh = create_model(LITE, num_classes=10, image_size=64)
    report = load_weights(fresh, {"state_dict": state, "pytorch-lightning_version": "2.6"})
    assert report.source_format == "ablate"
    assert_equal_states(fresh.state_dict(), model.state_dict())


class Runs:
    """Pickles as a call of print: what a hostile file would do with something worse."""

    def __reduce__(self):
        return print, ("this code must not run",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"model": Runs()}, path)
    with pytest.raises(WeightsError, match=r"evil.pth cannot be read .*run code are refused"):
        load_weights(create_model(LITE, image_size=64), path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pth", None, "no weights file at .*gone.pth"),
        ("text.pth", b"hello", "text.pth cannot be read as tensors"),
        ("empty.pth", b"", "empty.pth cannot be read as tensors"),
        ("text.safetensors", b"hello world", "text.safetensors is no safetensors file"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_weights(create_model(LITE, image_size=64), tmp_path / name)


def test_a_file_without_tensors_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list.pth holds a list, not a state dict"):
        load_weights(create_model(LITE, image_size=64), tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load_weights(create_model(LITE, image_size=64), {"epoch": 3})


def test_weights_of_an_unknown_layout_name_their_first_keys():
    state = create_model("torchvision:resnet18", image_size=64).state_dict()
    with pytest.raises(WeightsError, match=r"in no layout that we know .*begin conv1.weight, bn1"):
        load_weights(create_model(LITE, image_size=64), state)


def test_weights_of_a_deeper_network_name_the_first_keys_that_do_not_fit():
    deeper = create_model(LITE.replace("F1x32", "F2x32"), num_classes=10, image_size=64)
    message = r"no place for serial_blocks3.1.norm1.weight, .* and \d+ more"
    with pytest.raises(WeightsError, match=message):
        load_weights(
            create_model(LITE, num_classes=10, image_size=64), export_weights(deeper, "timm")
        )


def test_weights_of_a_shallower_network_name_the_first_keys_that_are_missing():
    deeper = create_model(LITE.replace("F1x32", "F2x32"), num_classes=10, image_size=64)
    state = export_weights(create_model(LITE, num_classes=10, image_size=64), "timm")
    before = {key: tensor.clone() for key, tensor in deeper.state_dict().items()}
    with pytest.raises(WeightsError, match=r"lack serial_blocks3.1.norm1.weight, .* and \d+ more"):
        load_weights(deeper, state)
    assert_equal_states(deeper.state_dict(), before)  # a failure copies nothing


def test_weights_of_a_wider_network_name_the_first_shape():
    wider = create_model(LITE.replace("x32", "x48"), num_classes=10, image_size=64)
    message = (
        r"cls_token3 has shape \[1, 1, 48\], but .* needs \[1, 1, 32\] for stages.2.0.cls_token"
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(
            create_model(LITE, num_classes=10, image_size=64), export_weights(wider, "timm")
        )


def test_another_number_of_classes_is_an_error_unless_the_head_is_skipped():
    source = randomized(create_model(LITE, num_classes=10, image_size=64))
    state = export_weights(source, "timm")
    model = create_model(LITE, num_classes=7, image_size=64)
    with pytest.raises(
        WeightsError, match=r"head is for 10 classes, but the network has 7; .*skip"
    ):
        load_weights(model, state)
    fresh = model.head.fc.weight.clone()
    report = load_weights(model, state, head="skip")
    assert torch.equal(model.head.fc.weight, fresh)
    assert {"head.weight", "head.bias"} <= set(report.dropped)
    assert torch.equal(model.stages[3][0].norm.weight, source.stages[3][0].norm.weight)


def test_without_strict_what_fits_is_loaded_and_the_rest_is_reported():
    source = randomized(create_model(LITE, num_classes=10, image_size=64))
    bare = create_model(LITE, num_classes=10, image_size=64, crpe=False)
    state = export_weights(source, "timm")
    with pytest.raises(WeightsError, match=r"no place for crpe1.conv_list.0.weight"):
        load_weights(bare, state)
    report = load_weights(bare, state, strict=False)
    assert "crpe1.conv_list.0.weight" in report.dropped
    assert torch.equal(bare.head.fc.weight, source.head.fc.weight)


def test_every_other_weight_must_be_there_even_where_training_froze_it():
    """Missing norms are forgiven where nothing reads them, not where a user froze them."""
    model = create_model(LITE, num_classes=10, image_size=64)
    model.requires_grad_(False)
    state = export_weights(model, "timm")
    del state["norm4.weight"]
    with pytest.raises(WeightsError, match=r"lack norm4.weight"):
        load_weights(model, state)


@pytest.mark.parametrize(
    ("arch", "layout", "message"),
    [
        ("S2x8:C1x8-T1x32", "official", "layout 'official' has no key for .* of this network"),
        ("F1x16+F1x16@num_heads=2", "timm", r"no key for stages.0.1.cls_token"),
        (LITE, "keras", "unknown layout 'keras'.*choose from ablate, official, timm"),
    ],
)
def test_a_layout_without_a_place_for_the_network_says_so(arch, layout, message):
    model = create_model(arch, num_classes=10, image_size=64)
    with pytest.raises(WeightsError, match=message):
        export_weights(model, layout)


def test_comparison_rows_are_not_loaded_here():
    model = create_model("torchvision:resnet18", image_size=64)
    with pytest.raises(WeightsError, match="networks of the grammar, but got ResNet"):
        load_weights(model, model.state_dict())
    with pytest.raises(WeightsError, match="networks of the grammar, but got ResNet"):
        export_weights(model)


def test_an_unknown_choice_for_the_head_is_told():
    with pytest.raises(WeightsError, match=r"unknown value of head 'drop'.*load, skip"):
        load_weights(create_model(LITE, image_size=64), {}, head="drop")
