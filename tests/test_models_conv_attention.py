"""Kind F: CoaT's conv-attention, its two position encodings, and the networks made of it."""

import copy
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ablate.errors import GrammarError, ModelError
from ablate.models import create_model
from ablate.models.conv_attention import (
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
    join,
    split,
)

LITE_TINY = "F2x64(mlp_ratio=8)-F2x128(mlp_ratio=8)-F2x256-F2x320"
SMALL = "F1x16-F2x24@num_heads=4;stem_stride=2"


def params(model):
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model, image_size):
    """Multiply-adds of convolutions, linear layers and matmuls, counted on shapes alone."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.to("meta")(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops() // 2


def conv_by_loops(image, weight, bias):
    """Depthwise convolution with zero padding, one multiplication at a time: (C, H, W)."""
    channels, height, width = image.shape
    half = weight.shape[-1] // 2
    out = torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                total = bias[c]
                for dy in range(-half, half + 1):
                    for dx in range(-half, half + 1):
                        if 0 <= y + dy < height and 0 <= x + dx < width:
                            kernel = weight[c, 0, dy + half, dx + half]
                            total = total + kernel * image[c, y + dy, x + dx]
                out[c, y, x] = total
    return out


def attention_by_loops(module, x, grid, crpe, windows):
    """Equations 3 and 6 of CoaT for one sample (L, C), head by head and token by token."""
    length, width = x.shape
    heads, dim = module.num_heads, width // module.num_heads
    prefix = length - grid[0] * grid[1]
    rows = x @ module.qkv.weight.T + module.qkv.bias
    q, k, v = rows[:, :width], rows[:, width : 2 * width], rows[:, 2 * width :]
    window_of = [index for index, (_, count) in enumerate(windows) for _ in range(count)]
    out = torch.zeros(length, width)
    for head in range(heads):
        part = slice(head * dim, (head + 1) * dim)
        weights = torch.exp(k[:, part]) / torch.exp(k[:, part]).sum(0)
        context = sum(weights[n][:, None] * v[n, part][None] for n in range(length))
        for n in range(length):
            if module.attn == "efficient":
                query = torch.exp(q[n, part]) / torch.exp(q[n, part]).sum()
                out[n, part] = query @ context
            else:
                out[n, part] = q[n, part] @ context / dim**0.5
        if crpe is None:
            continue
        conv = crpe.convs[window_of[head]]
        first = window_of.index(window_of[head])  # channels start anew in every window's conv
        inner = slice((head - first) * dim, (head - first + 1) * dim)
        image = v[prefix:, part].T.reshape(dim, *grid)
        convolved = conv_by_loops(image, conv.weight[inner], conv.bias[inner])
        out[prefix:, part] += q[prefix:, part] * convolved.reshape(dim, -1).T
    return out @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize("attn", ["factorized", "efficient"])
@pytest.mark.parametrize("prefix", [0, 1], ids=["no class token", "class token"])
@pytest.mark.parametrize(
    "windows",
    [((3, 1),), ((3, 1), (5, 1)), ((3, 1), (5, 1), (7, 2)), ((1, 2), (9, 1)), None],
    ids=str,
)
def test_attention_equals_the_equations_written_as_loops(attn, prefix, windows):
    torch.manual_seed(0)
    heads = sum(count for _, count in windows) if windows else 2
    grid, dim = (3, 4), 3
    module = ConvAttention(heads * dim, heads, attn)
    crpe = ConvRelativePositionEncoding(dim, windows) if windows else None
    x = torch.randn(2, prefix + 12, heads * dim)
    with torch.no_grad():
        expected = [attention_by_loops(module, one, grid, crpe, windows or ()) for one in x]
        torch.testing.assert_close(module(x, grid, crpe), torch.stack(expected))


def test_the_softmax_of_keys_takes_the_class_token_in():
    """A class token with huge keys takes all weight: every context is its value alone."""
    module = ConvAttention(4, 1, "factorized")
    q, v = torch.randn(1, 7, 4), torch.randn(1, 7, 4)
    k = torch.zeros(1, 7, 4)
    k[:, 0] = 100
    expected = (q @ v[:, 0, None].expand(1, 4, 4)) / 2
    torch.testing.assert_close(module.mix(q, k, v, (2, 3), None), expected)


def test_cpe_adds_a_depthwise_convolution_and_passes_the_class_token():
    cpe = ConvPositionEncoding(4)
    x = torch.randn(2, 13, 4)
    with torch.no_grad():
        out = cpe(x, (3, 4))
        for sample in range(2):
            image = x[sample, 1:].T.reshape(4, 3, 4)
            expected = image + conv_by_loops(image, cpe.proj.weight, cpe.proj.bias)
            torch.testing.assert_close(out[sample, 1:], expected.flatten(1).T)
    assert torch.equal(out[:, 0], x[:, 0])


def test_cpe_replaces_the_tokens_outside_the_residual():
    run = create_model(SMALL, num_classes=3, image_size=16).stages[0][0]
    block, x = run.blocks[0], torch.randn(2, 13, 16)
    with torch.no_grad():
        for parameter in (*block.attn.parameters(), *block.mlp.parameters()):
            parameter.zero_()
        found = block(x, (3, 4), run.cpe, run.crpe)
        torch.testing.assert_close(found, run.cpe(x, (3, 4)))
        assert not torch.allclose(found, x)


def test_crpe_is_zero_on_the_class_token():
    crpe = ConvRelativePositionEncoding(2, ((3, 1), (5, 1)))
    ev = crpe(torch.zeros(1, 7, 4), torch.randn(1, 7, 4), torch.randn(1, 7, 4), (2, 3))
    assert torch.equal(ev[:, 0], torch.zeros(1, 4))
    assert (ev[:, 1:] != 0).all()


@pytest.mark.parametrize("token", [None, torch.randn(2, 1, 5)], ids=["without", "with"])
def test_join_and_split_are_inverse(token):
    image = torch.randn(2, 5, 3, 4)
    found, back = split(join(image, token), (3, 4))
    assert torch.equal(found, image)
    assert (back is None) if token is None else torch.equal(back, token[:, 0])


@pytest.mark.parametrize(
    ("options", "count", "cost"),
    [
        ("", 5_722_856, 1_589_037_952),
        ("@cpe=false", 5_715_176, 1_582_433_536),
        ("@crpe=false", 5_699_048, 1_567_023_232),
        ("@cpe=false;crpe=false", 5_691_368, 1_560_418_816),
    ],
)
def test_coat_lite_tiny_and_its_position_encodings_cost_what_table_6_says(options, count, cost):
    with torch.device("meta"):
        model = create_model(LITE_TINY + options)
    assert params(model) == count
    assert macs(model, 224) == cost


@pytest.mark.parametrize(
    ("arch", "count"),
    [
        ("F2x64(mlp_ratio=8)-F2x128(mlp_ratio=8)-F2x320-F2x512", 11_012_584),
        ("F3x64(mlp_ratio=8)-F4x128(mlp_ratio=8)-F6x320-F3x512", 19_839_528),
        ("F3x128-F6x256-F10x320-F8x512", 44_572_456),
    ],
)
def test_larger_lite_models_have_the_authors_parameter_counts(arch, count):
    with torch.device("meta"):
        assert params(create_model(arch)) == count


def test_efficient_attention_has_the_same_parameters_and_macs_but_another_output():
    torch.manual_seed(0)
    plain = create_model(SMALL, num_classes=5, image_size=16).eval()
    efficient = create_model(SMALL, num_classes=5, image_size=16, attn="efficient").eval()
    efficient.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(plain(x), efficient(x))
    assert macs(plain, 16) == macs(efficient, 16)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12])
def test_crpe_takes_any_number_of_heads(heads):
    model = create_model(f"F2x24@num_heads={heads}", num_classes=3, image_size=16)
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 3)


def test_crpe_windows_split_the_heads_as_given():
    model = create_model("F1x16(crpe_windows=5:1/9:3)@num_heads=4", num_classes=3, image_size=16)
    shapes = [tuple(conv.weight.shape) for conv in model.stages[0][0].crpe.convs]
    assert shapes == [(4, 1, 5, 5), (12, 1, 9, 9)]


def test_crpe_windows_must_name_as_many_heads_as_there_are():
    with pytest.raises(GrammarError, match="as many heads as the block has, but got 3 of 4"):
        create_model("F1x16(crpe_windows=5:1/9:2)@num_heads=4")


def test_one_cpe_and_one_crpe_serve_all_blocks_of_a_stage():
    model = create_model("F3x16-F1x16@num_heads=2", num_classes=3, image_size=16)
    keys = [key for key in model.state_dict() if "cpe." in key or "crpe." in key]
    assert sum("cpe.proj.weight" in key for key in keys) == 2
    assert sum("crpe.convs.0.weight" in key for key in keys) == 2


def test_only_the_norm_that_the_head_reads_is_trained():
    model = create_model("F1x16-F1x16-F1x16@num_heads=2", num_classes=3, image_size=32)
    trained = [stage[0].norm.weight.requires_grad for stage in model.stages]
    assert trained == [False, False, True]


def test_layer_norms_have_two_epsilons():
    run = create_model("F1x16@num_heads=2", num_classes=3, image_size=16).stages[0][0]
    assert run.embed.norm.eps == 1e-5
    assert {run.blocks[0].norm1.eps, run.blocks[0].norm2.eps, run.norm.eps} == {1e-6}


def test_without_class_token_the_head_averages():
    model = create_model("F2x16@num_heads=2;cls_token=false", num_classes=3, image_size=16)
    assert model.blueprint.head == "linear"
    assert not any("cls_token" in key for key in model.state_dict())
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 3)


def test_initial_weights_are_those_of_the_official_code():
    torch.manual_seed(0)
    run = create_model("F2x128", num_classes=3, image_size=16).stages[0][0]
    block = run.blocks[0]
    for linear in (block.attn.qkv, block.attn.proj, block.mlp.expand, block.mlp.project):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert linear.bias.abs().max() == 0
    assert run.cls_token.std().item() == pytest.approx(0.02, rel=0.25)


def test_drop_path_has_one_constant_rate():
    model = create_model("F2x16-F2x16@drop_path_rate=0.3;num_heads=2", image_size=16)
    rates = [block.drop_path.rate for stage in model.stages for block in stage[0].blocks]
    assert rates == [0.3] * 4


def test_grids_are_floored_where_the_size_is_no_multiple_of_the_stride():
    model = create_model("F1x8-F1x8-F1x8@num_heads=2", num_classes=3, image_size=(50, 75))
    assert model.grids == [(12, 18), (6, 9), (3, 4)]
    maps = create_model("F1x8-F1x8-F1x8@num_heads=2", image_size=(50, 75), features_only=True)(
        torch.randn(1, 3, 50, 75)
    )
    assert [tuple(m.shape[2:]) for m in maps] == model.grids


def test_a_network_built_for_one_size_takes_another():
    torch.manual_seed(0)
    small = create_model(SMALL, num_classes=3, image_size=16).eval()
    large = create_model(SMALL, num_classes=3, image_size=(24, 40)).eval()
    large.load_state_dict(small.state_dict())
    x = torch.randn(2, 3, 24, 40)
    assert torch.equal(small(x), large(x))


def test_an_image_smaller_than_the_strides_is_refused():
    with pytest.raises(ModelError, match="image size 7x7 is too small"):
        create_model("F1x8-F1x8@num_heads=2", image_size=7)


@pytest.mark.parametrize("embed", ["patch", "conv", "residual"])
def test_every_token_embedding_has_the_grid_it_announces(embed):
    arch = f"F1x8-F1x8@num_heads=2;embed={embed}"
    model = create_model(arch, image_size=(35, 22), features_only=True)
    maps = model(torch.randn(2, 3, 35, 22))
    assert [tuple(m.shape[2:]) for m in maps] == model.grids
    kernels = {"patch": 4, "conv": 3, "residual": 3}
    assert model.stages[0][0].embed.kernel_size == kernels[embed]


def test_a_residual_embedding_refuses_an_even_kernel():
    with pytest.raises(ModelError, match=r"odd patch_size.*patch_size=4"):
        create_model("F1x8(embed=residual;patch_size=4)@num_heads=2", image_size=16)


@pytest.fixture(
    params=[
        "F2x16-F2x24@num_heads=4;stem_stride=2",
        "F2x16-F2x24@num_heads=2;attn=efficient;drop_path_rate=0.1",
        "F2x16-F2x24@num_heads=1;cls_token=false;embed=conv;act=silu",
        "F2x16+F2x24(crpe=false;cpe=false)-F2x24(embed=residual)@num_heads=2",
    ]
)
def network(request):
    torch.manual_seed(0)
    return create_model(request.param, num_classes=5, image_size=(24, 32))


@pytest.fixture
def images():
    return torch.randn(4, 3, 24, 32, generator=torch.Generator().manual_seed(1))


def test_every_trainable_parameter_gets_a_gradient(network, images):
    """With two blocks or more in the last stage: the last CRPE touches image tokens only."""
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
    fresh = create_model(network.arch, num_classes=5, image_size=(24, 32)).eval()
    fresh.load_state_dict(network.state_dict())
    torch.testing.assert_close(fresh(images), expected)
