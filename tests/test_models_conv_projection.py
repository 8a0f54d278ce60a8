"""Kinds V and A: CvT's and ATC's blocks, against their equations written out."""

from __future__ import annotations

import math

import pytest
import torch
from model_parts import build_run, images, params
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.models import create_model
from ablate.models.conv_projection import ConvProjectionAttention, ResUnit, SeparableConv

GRIDS = [(4, 4), (3, 5), (1, 2)]


def batch_normed(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, with running statistics."""
    columns = [v.view(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var)]
    scale, shift = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    return (x - columns[0]) / (columns[1] + norm.eps).sqrt() * scale + shift


def parts(x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The class token (N, 0 or 1, C) and the image tokens as a map."""
    prefix = x.shape[1] - grid[0] * grid[1]
    return x[:, :prefix], x[:, prefix:].transpose(1, 2).reshape(x.shape[0], -1, *grid)


def rows(token: Tensor, image: Tensor) -> Tensor:
    return torch.cat([token, image.flatten(2).transpose(1, 2)], dim=1)


def separable(module: SeparableConv, x: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """Depthwise 3x3 without bias and BatchNorm on the image only, then a linear layer on all."""
    token, image = parts(x, grid)
    convolved = F.conv2d(image, module.conv.weight, None, stride, 1, groups=image.shape[1])
    tokens = rows(token, batch_normed(convolved, module.norm))
    return tokens @ module.linear.weight.T + module.linear.bias


def residual(unit: ResUnit, x: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """x + PW(GELU(BN(DW(x)))) on the image, x averaged at a stride; a linear layer on the token."""
    token, image = parts(x, grid)
    h = F.conv2d(image, unit.depthwise.weight, None, stride, 1, groups=image.shape[1])
    h = F.conv2d(F.gelu(batch_normed(h, unit.norm)), unit.pointwise.weight)
    if stride > 1:
        image = F.avg_pool2d(image, stride, stride, ceil_mode=True)
    if unit.token is not None:
        token = token @ unit.token.weight.T + unit.token.bias
    return rows(token, image + h)


def linear(module: nn.Linear, x: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    return x @ module.weight.T + module.bias


PROJECTIONS = {"separable": separable, "residual": residual, "linear": linear}


def attention_by_loops(
    attn: ConvProjectionAttention, x: Tensor, grid: tuple[int, int], proj: str, kv_stride: int
) -> Tensor:
    """softmax(q k^T / sqrt(C)) v, one query and one head at a time, for a batch (N, L, C)."""
    project = PROJECTIONS[proj]
    q = project(attn.q, x, grid, 1)
    k, v = (project(part, x, grid, kv_stride) for part in (attn.k, attn.v))
    batch, _, width = x.shape
    dim = width // attn.num_heads
    out = torch.zeros_like(q)
    for n in range(batch):
        for h in range(attn.num_heads):
            part = slice(h * dim, (h + 1) * dim)
            for a in range(q.shape[1]):
                pairs = range(k.shape[1])
                scores = torch.stack([q[n, a, part] @ k[n, b, part] for b in pairs])
                weights = torch.exp(scores / math.sqrt(width))
                weights = weights / weights.sum()
                out[n, a, part] = sum(weights[b] * v[n, b, part] for b in pairs)
    last = residual if proj == "residual" else linear
    return last(attn.out, out, grid, 1)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("proj", ["separable", "residual", "linear"])
@pytest.mark.parametrize("token", ["true", "false"])
@pytest.mark.parametrize("kv_stride", [1, 2])
def test_attention_equals_the_equation_written_as_loops(
    grid: tuple[int, int], proj: str, token: str, kv_stride: int
) -> None:
    """The scale is 1/sqrt(C), not 1/sqrt(d); the class token skips the convolutions."""
    options = f"proj={proj};cls_token={token};kv_stride={kv_stride};head_dim=2;act=gelu"
    attn = build_run(f"V1x6({options})", (8, 8), 3).blocks[0].attn
    x = images(2, grid[0] * grid[1] + (token == "true"), 6)
    stride = 1 if proj == "linear" else kv_stride
    with torch.no_grad():
        expected = attention_by_loops(attn, x, grid, proj, stride)
        torch.testing.assert_close(attn(x, grid), expected, rtol=1e-4, atol=1e-4)


def test_the_identity_of_a_strided_res_unit_is_averaged_over_the_cells_that_exist() -> None:
    unit = build_run("A1x4(head_dim=2)", (4, 4), 4).blocks[0].attn.k
    with torch.no_grad():
        unit.pointwise.weight.zero_()
        image = images(1, 4, 3, 5)
        out = parts(unit(rows(image.new_zeros(1, 0, 4), image), (3, 5)), (2, 3))[1]
    cell = image[:, :, 2:3, 4:5]
    torch.testing.assert_close(out[:, :, 1:, 2:], cell)
    torch.testing.assert_close(out[:, :, 0, 0], image[:, :, :2, :2].mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", ["V", "A"])
@pytest.mark.parametrize("ffn", ["linear", "separable", "residual"])
@pytest.mark.parametrize("token", ["true", "false"])
def test_a_block_is_attention_then_ffn_each_with_its_norm_and_residual(
    kind: str, ffn: str, token: str
) -> None:
    grid = (3, 4)
    block = build_run(f"{kind}1x6(ffn={ffn};cls_token={token};head_dim=3)", (8, 8), 3).blocks[0]
    act = F.gelu if kind == "A" else quick_gelu
    x = images(2, 12 + (token == "true"), 6)
    with torch.no_grad():
        y = x + block.attn(layer_normed(x, block.norm1), grid)
        z = layer_normed(y, block.norm2)
        if ffn == "linear":
            h = act(linear(block.ffn.expand, z, grid, 1))
            expected = y + linear(block.ffn.project, h, grid, 1)
        elif ffn == "separable":
            h = act(separable(block.ffn.first, z, grid, 1))
            expected = y + separable(block.ffn.second, h, grid, 1)
        else:
            h = act(block.ffn.first(z, grid))
            expected = y + block.ffn.second(h, grid)
        torch.testing.assert_close(block(x, grid), expected)


def layer_normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(dim=2, keepdim=True)
    return (
        centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    )


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


@pytest.mark.parametrize(
    ("image_size", "grids"), [(224, [56, 28, 14]), (225, [56, 28, 14]), (32, [8, 4, 2])]
)
def test_cvt_embeds_by_7x7_padded_by_2_then_by_3x3(image_size: int, grids: list[int]) -> None:
    with torch.device("meta"):
        model = create_model("cvt-13", image_size=image_size)
    convs = [stage[0].embed.proj for stage in model.stages]
    assert [conv.kernel_size[0] for conv in convs] == [7, 3, 3]
    assert [conv.padding[0] for conv in convs] == [2, 1, 1]
    assert [conv.stride[0] for conv in convs] == [4, 2, 2]
    assert model.grids == [(side, side) for side in grids]


@pytest.mark.parametrize("side", [32, 33, 34, 35])
def test_the_embeddings_of_atcs_table_5_have_one_grid(side: int) -> None:
    """3x3 at stride 4, plain and as ResBlock: the ablation changes the embedding alone."""
    models = [
        create_model(f"A1x8-A1x8@embed={embed};head_dim=4", image_size=(side, 40))
        for embed in ("conv", "residual")
    ]
    assert models[0].grids == models[1].grids == [(-(-side // 4), 10), (-(-side // 8), 5)]


@pytest.mark.parametrize("kernel", [3, 7, 16, 31])
def test_a_stem_may_have_a_kernel_below_or_above_its_stride(kernel: int) -> None:
    model = create_model(f"E1x8(patch_size={kernel}):V1x8(stride=1;head_dim=4)", image_size=32)
    assert model.grids[0] == (2, 2)
    assert model(images(2, 3, 32, 32)).shape == (2, 1000)


def test_cvt_has_its_class_token_in_the_last_stage_only() -> None:
    with torch.device("meta"):
        model = create_model("cvt-13")
    assert [stage[0].cls_token is not None for stage in model.stages] == [False, False, True]
    assert model.blueprint.head == "cls"


@pytest.mark.parametrize("token", ["true", "false"])
def test_a_run_hands_on_its_map_without_the_class_token(token: str) -> None:
    run = build_run(f"C1x4-V2x6(cls_token={token};head_dim=3)", (6, 9))
    x = images(2, 4, 6, 9)
    with torch.no_grad():
        map_, found = run(x)
        first = run.cls_token.expand(2, 1, 6) if token == "true" else x.new_zeros(2, 0, 6)
        tokens = rows(first, run.embed(x))
        for block in run.blocks:
            tokens = block(tokens, run.grid)
    expected_token, expected = parts(tokens, run.grid)
    assert tuple(map_.shape) == (2, 6, *run.grid) == (2, 6, 3, 5)
    torch.testing.assert_close(map_, expected)
    if token == "true":
        torch.testing.assert_close(found, expected_token[:, 0])
    else:
        assert found is None


def test_a_later_run_of_a_stage_embeds_again_without_a_stride() -> None:
    run = build_run("A1x4(head_dim=2)+V1x6(head_dim=3)", (5, 7))
    assert run.embed.proj.stride == (1, 1)
    assert run.grid == (5, 7)


@pytest.mark.parametrize("kind", ["V", "A"])
def test_kv_stride_takes_the_keys_to_fewer_tokens(kind: str) -> None:
    attn = build_run(f"{kind}1x4(kv_stride=2;head_dim=2)", (8, 8), 3).blocks[0].attn
    x = images(1, 15, 4)
    assert [part(x, (3, 5)).shape[1] for part in (attn.q, attn.k, attn.v)] == [15, 6, 6]


def test_parameters_of_the_blocks_are_the_closed_forms() -> None:
    """12C^2 + 46C for CvT; Res units of 11C + C^2 make 6C^2 + 70C for ATC."""
    c = 24
    assert params(build_run(f"V1x{c}(head_dim=8)", (8, 8), 3).blocks[0]) == 12 * c**2 + 46 * c
    assert params(build_run(f"A1x{c}(head_dim=8)", (8, 8), 3).blocks[0]) == 6 * c**2 + 70 * c
    unit = build_run(f"A1x{c}(head_dim=8)", (8, 8), 3).blocks[0].attn.q
    assert params(unit) == 11 * c + c**2


def test_a_res_unit_with_a_class_token_adds_a_linear_layer_for_it() -> None:
    """Reading R2 of ATC: its stage then costs 12C^2 plus lower terms, as CvT's does."""
    c = 24
    block = build_run(f"A1x{c}(head_dim=8;cls_token=true)", (8, 8), 3).blocks[0]
    assert params(block) == 12 * c**2 + 76 * c


@pytest.mark.parametrize(
    ("arch", "classes", "count"),
    [
        ("A1x64-A1x192-V1x384(cls_token=true)", 100, 2_868_260),  # Res+Res
        # MLP+Res: 7C less a block, CvT's projection is a separable convolution already
        ("A1x64(proj=separable)-A1x192(proj=separable)-V1x384(cls_token=true)", 100, 2_866_468),
        # Res+MLP: 6C^2 - 17C more a block; the paper prints 3.9M
        ("A1x64(ffn=linear)-A1x192(ffn=linear)-V1x384(cls_token=true)", 100, 3_109_668),
        ("V1x64-V1x192-V1x384(cls_token=true)", 100, 3_115_556),  # CvT (1, 1, 1)
        ("V2x64-V2x192-V2x384(cls_token=true)", 1000, 5_752_488),  # the printed 5.8M, perhaps
        ("V1x64-V3x192-V2x384(cls_token=true)", 100, 5_805_092),  # or this one
    ],
)
def test_the_mixes_of_atcs_table_6_have_their_counts(arch: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        model = create_model(arch, num_classes=classes, image_size=32)
        assert params(model) == count
        assert model.eval()(torch.empty(2, 3, 32, 32)).shape == (2, classes)


def test_stochastic_depth_ramps_inside_the_last_stage() -> None:
    with torch.device("meta"):
        model = create_model("cvt-13", drop_path_rate=0.1)
    rates = [[block.drop_path.rate for block in stage[0].blocks] for stage in model.stages]
    assert rates[0] == [0.0]
    assert rates[1] == [0.0, 0.0]
    assert rates[2] == pytest.approx([0.1 * index / 9 for index in range(10)])


def test_initial_weights_are_those_of_the_official_code() -> None:
    torch.manual_seed(0)
    run = create_model("V2x128(cls_token=true)", num_classes=3, image_size=32).stages[0][0]
    attn = run.blocks[0].attn
    for layer in (attn.q.linear, attn.k.linear, attn.out, run.blocks[1].ffn.expand):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()
    assert run.cls_token.std().item() == pytest.approx(0.02, rel=0.25)
