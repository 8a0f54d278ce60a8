"""Group P: CoaT's parallel blocks and their three ways to exchange features between scales."""

import copy
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ablate.errors import GrammarError
from ablate.models import create_model
from ablate.models.parallel import resize

TINY = "F2x152-F2x152-F2x152-F2x152|P6"
SMALL = "F1x8-F1x12-F1x12-F1x12|P2@num_heads=2;stem_stride=2"


def params(model):
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model, image_size):
    """Multiply-adds of convolutions, linear layers and matmuls, counted on shapes alone."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.to("meta")(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("arch", "count", "cost"),
    [
        (TINY, 5_498_844, 4_316_447_208),
        ("F2x152-F2x216-F2x216-F2x216|P6", 10_337_308, 6_772_601_512),
        ("F2x152-F2x320-F2x320-F2x320|P6", 21_694_212, 12_548_023_008),
        (TINY + "(coscale=none)", 5_498_844, 4_316_447_208),
        (TINY + "(coscale=cross)", 5_498_844, 4_730_404_008),
    ],
)
def test_parallel_networks_have_the_reference_parameters_and_macs(arch, count, cost):
    with torch.device("meta"):
        model = create_model(arch)
    assert params(model) == count
    assert macs(model, 224) == cost


def test_coat_tiny_without_position_encodings_loses_exactly_theirs():
    """10 C for every CPE and 31 C for every CRPE, once a scale."""
    with torch.device("meta"):
        bare = create_model(TINY, cpe=False, crpe=False)
    assert params(bare) == 5_498_844 - 4 * 41 * 152


def test_halving_is_the_mean_of_two_by_two():
    x = torch.randn(2, 1 + 48, 3)
    image = x[:, 1:].unflatten(1, (6, 8))
    out = resize(x, (6, 8), (3, 4))
    expected = image.unflatten(1, (3, 2)).unflatten(3, (4, 2)).mean(dim=(2, 4))
    torch.testing.assert_close(out[:, 1:].unflatten(1, (3, 4)), expected)
    assert torch.equal(out[:, 0], x[:, 0])


def test_quartering_takes_the_central_two_by_two():
    x = torch.randn(2, 64, 3)
    cells = x.unflatten(1, (8, 8)).unflatten(1, (2, 4)).unflatten(3, (2, 4))
    expected = cells[:, :, 1:3, :, 1:3].mean(dim=(2, 4))
    torch.testing.assert_close(resize(x, (8, 8), (2, 2)).unflatten(1, (2, 2)), expected)


def test_doubling_weighs_neighbours_three_to_one():
    x = torch.tensor([0.0, 4.0]).reshape(1, 2, 1)
    found = resize(x, (1, 2), (1, 4)).flatten()
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 3.0, 4.0]))


def test_resizing_goes_to_the_grid_of_the_target_where_sizes_are_odd():
    assert resize(torch.randn(1, 1 + 35, 2), (5, 7), (3, 4)).shape == (1, 13, 2)


def parts(coscale, **options):
    """One parallel block's inputs: normed tokens, grids, members and the block itself."""
    torch.manual_seed(0)
    model = create_model(
        SMALL, num_classes=3, image_size=(40, 56), coscale=coscale, **options
    ).eval()
    grids = model.grids[1:]
    prefix = int(model.stages[1][0].cls_token is not None)
    xs = [torch.randn(2, prefix + h * w, 12) for h, w in grids]
    return model.group.blocks[0], xs, grids, model.group.members


def test_none_keeps_every_scale_to_itself():
    block, xs, grids, members = parts("none")
    changed = [xs[0], torch.randn_like(xs[1]), xs[2]]
    before, after = (block(tokens, grids, members) for tokens in (xs, changed))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("coscale", ["interp", "cross"])
def test_interp_and_cross_let_every_scale_see_every_other(coscale):
    block, xs, grids, members = parts(coscale)
    before = block(xs, grids, members)
    for scale in range(3):
        changed = [torch.randn_like(x) if s == scale else x for s, x in enumerate(xs)]
        after = block(changed, grids, members)
        assert not any(torch.equal(b, a) for b, a in zip(before, after, strict=True))


def test_cpe_replaces_the_tokens_outside_the_residual():
    block, xs, grids, members = parts("interp")
    with torch.no_grad():
        for part in (*block.attn.values(), block.mlp):
            for parameter in part.parameters():
                parameter.zero_()
        for found, x, grid, run in zip(block(xs, grids, members), xs, grids, members, strict=True):
            torch.testing.assert_close(found, run.cpe(x, grid))


def test_interpolation_sums_projected_attention_and_class_tokens():
    block, xs, grids, members = parts("interp")
    own = [
        block.attn[str(s + 2)](block.norm1[str(s + 2)](x), grids[s], members[s].crpe)
        for s, x in enumerate(xs)
    ]
    found = block.attend(xs, grids, members)
    for scale in range(3):
        expected = sum(resize(own[t], grids[t], grids[scale]) for t in range(3))
        torch.testing.assert_close(found[scale], expected)
        torch.testing.assert_close(found[scale][:, 0], own[0][:, 0] + own[1][:, 0] + own[2][:, 0])


def cross_by_loops(block, xs, grids, members, scale):
    """Direct cross-layer attention of one scale, head by head: (N, L, C)."""
    name = str(scale + 2)
    attention, heads = block.attn[name], block.attn[name].num_heads
    dim = xs[0].shape[2] // heads
    rows = [block.attn[str(s + 2)].qkv(block.norm1[str(s + 2)](x)) for s, x in enumerate(xs)]
    q = rows[scale].chunk(3, dim=2)[0]
    total = torch.zeros_like(xs[scale])
    for other in range(3):
        _, k, v = rows[other].chunk(3, dim=2)
        k, v = (resize(part, grids[other], grids[scale]) for part in (k, v))
        image = v[:, 1:].transpose(1, 2).unflatten(2, grids[scale])
        convs = members[scale].crpe.convs
        widths = [conv.weight.shape[0] for conv in convs]
        encoded = [conv(p) for conv, p in zip(convs, image.split(widths, dim=1), strict=True)]
        ev = q[:, 1:] * torch.cat(encoded, dim=1).flatten(2).transpose(1, 2)
        term = torch.zeros_like(total)
        for head in range(heads):
            part = slice(head * dim, (head + 1) * dim)
            weights = k[..., part].exp() / k[..., part].exp().sum(dim=1, keepdim=True)
            context = torch.einsum("nld,nle->nde", weights, v[..., part])
            term[..., part] = torch.einsum("nld,nde->nle", q[..., part], context) / dim**0.5
        term[:, 1:] += ev
        total = total + term @ attention.proj.weight.T + attention.proj.bias
    return total


def test_direct_cross_layer_attention_equals_its_equation():
    block, xs, grids, members = parts("cross")
    with torch.no_grad():
        found = block.attend(xs, grids, members)
        for scale in range(3):
            expected = cross_by_loops(block, xs, grids, members, scale)
            torch.testing.assert_close(found[scale], expected)


def test_the_scales_share_one_mlp_but_no_norm_qkv_or_projection():
    model = create_model(SMALL, num_classes=3, image_size=32)
    keys = {key for key in model.state_dict() if key.startswith("group.blocks.0.")}
    assert {key for key in keys if "mlp" in key} == {
        f"group.blocks.0.mlp.{part}.{kind}"
        for part in ("expand", "project")
        for kind in ("weight", "bias")
    }
    for scale in "234":
        assert f"group.blocks.0.norm1.{scale}.weight" in keys
        assert f"group.blocks.0.attn.{scale}.qkv.weight" in keys


def test_position_encodings_of_the_stages_serve_the_group_and_are_stored_once():
    model = create_model(SMALL, num_classes=3, image_size=32)
    assert not any("cpe" in key for key in model.state_dict() if key.startswith("group."))
    copied = copy.deepcopy(model)
    assert copied.group.members[0] is copied.stages[1][0]
    assert model.group.members[0] is model.stages[1][0]


def test_the_group_starts_from_the_class_tokens_of_the_serial_stages():
    torch.manual_seed(0)
    model = create_model(SMALL, num_classes=3, image_size=32).eval()
    x = torch.randn(1, 3, 32, 32)
    before = model(x)
    with torch.no_grad():
        model.stages[1][0].cls_token.normal_()
    assert not torch.allclose(before, model(x))


def test_three_norms_are_trained_and_the_first_is_not():
    model = create_model(SMALL, num_classes=3, image_size=32)
    trained = [stage[0].norm.weight.requires_grad for stage in model.stages]
    assert trained == [False, True, True, True]


def test_scales_may_be_any_stages_of_one_width():
    model = create_model(
        "F1x12-F1x12-F1x12|P2(scales=1/3)@num_heads=2;stem_stride=2", num_classes=3, image_size=32
    )
    assert set(model.group.blocks[0].attn) == {"1", "3"}
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)


def test_a_group_needs_equal_widths():
    with pytest.raises(GrammarError, match="equal width"):
        create_model("F1x8-F1x8-F1x12-F1x12|P2@num_heads=2")


@pytest.mark.parametrize("coscale", ["none", "interp", "cross"])
@pytest.mark.parametrize("size", [(32, 32), (34, 46), (50, 33)], ids=str)
def test_any_input_size_that_the_strides_allow(coscale, size):
    model = create_model(SMALL, num_classes=3, image_size=size, coscale=coscale)
    assert model(torch.randn(1, 3, *size)).shape == (1, 3)


@pytest.fixture(
    params=[
        "F1x8-F1x12-F1x12-F1x12|P2(coscale=none)@num_heads=4;stem_stride=2",
        "F1x8-F1x12-F1x12-F1x12|P2@num_heads=2;stem_stride=2;drop_path_rate=0.1",
        "F1x8-F1x12-F1x12-F1x12|P2(coscale=cross)@num_heads=1;stem_stride=2;attn=efficient",
    ]
)
def network(request):
    torch.manual_seed(0)
    return create_model(request.param, num_classes=5, image_size=(32, 40))


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 40, generator=torch.Generator().manual_seed(1))


def test_every_trainable_parameter_gets_a_gradient(network, images):
    network.train()(images).square().sum().backward()
    dead = [
        name
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert dead == []


def test_bfloat16_autocast_is_finite_and_near(network, images):
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(images)
    assert torch.isfinite(low).all()
    torch.testing.assert_close(low.float(), network(images), rtol=0.1, atol=0.05)


def test_channels_last_gives_the_same_answer(network, images):
    network.eval()
    expected = network(images)
    turned = network.to(memory_format=torch.channels_last)
    found = turned(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)


def test_copies_answer_alike(network, images):
    network.eval()
    expected = network(images)
    torch.testing.assert_close(copy.deepcopy(network)(images), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(network))(images), expected)
    fresh = create_model(network.arch, num_classes=5, image_size=(32, 40)).eval()
    fresh.load_state_dict(network.state_dict())
    torch.testing.assert_close(fresh(images), expected)
