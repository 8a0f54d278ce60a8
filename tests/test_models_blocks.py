"""What every block family holds, and the attention formulas against loops from the equations."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ablate
from ablate.errors import GrammarError, ModelError
from ablate.grammar import RunSpec, resolve
from ablate.models.conv_projection import ConvProjectionAttention, ConvProjectionRun
from ablate.models.relative_transformer import (
    RelativeAttention,
    RelativeTransformerRun,
    WindowAttention,
    resize_table,
)

FAMILIES = {
    "C": "S2x8:C2x8-C2x16(stride_at=depthwise;norm=ln)@stem_stride=1",
    "T": "S2x8:T2x8-T2x16(rel_attn=post)-T1x16(attn=window;window=3)@head_dim=4;stem_stride=1",
    "F": "F2x8-F2x16@num_heads=2;stem_stride=2",
    "P": "F1x8-F1x8-F1x8-F1x8|P2@num_heads=2;stem_stride=2",
    "V": "V2x8-V2x16(cls_token=true)@head_dim=4;stem_stride=2",
    "A": "A2x8-A2x16(cls_token=true)-A1x16@embed=residual;head_dim=4;stem_stride=2",
    "R": "S2x8:R2x8-R2x16(conv=separable;norm=ln)@stem_stride=1",
    "mixed": "S2x8:C1x8+T1x16-R1x16+F1x16@head_dim=4;stem_stride=1",
}


def build(arch: str, size: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return ablate.create_model(arch, num_classes=5, image_size=size)


def images(size: int = 16, n: int = 2) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def spec_of(arch: str) -> RunSpec:
    return resolve(arch).runs[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trainable_parameter_gets_a_gradient(family: str) -> None:
    model = build(FAMILIES[family])
    model(images(n=4)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if not name.endswith(("depthwise.bias", "k.linear.bias")):
                assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_autocast_is_finite_and_near_fp32(family: str) -> None:
    model = build(FAMILIES[family]).eval()
    exact = model(images())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images())
    assert rough.isfinite().all()
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_last_gives_the_same_answer(family: str) -> None:
    model = build(FAMILIES[family]).eval()
    plain = model(images())
    last = model.to(memory_format=torch.channels_last)(
        images().contiguous(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_pickles_and_state_dicts_are_the_same_network(family: str) -> None:
    model = build(FAMILIES[family]).eval()
    expected = model(images())
    torch.testing.assert_close(copy.deepcopy(model)(images()), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(images()), expected)
    torch.manual_seed(9)
    other = ablate.create_model(FAMILIES[family], num_classes=5, image_size=16).eval()
    assert not torch.allclose(other(images()), expected)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(images()), expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["C", "T", "V", "R"])
def test_torch_compile_gives_the_same_answer(family: str) -> None:
    model = build(FAMILIES[family]).eval()
    compiled = torch.compile(model)
    try:
        found = compiled(images())
    except Exception as error:
        if "compiler" in str(error).lower():
            pytest.skip(f"no working compiler here: {error!r:.100}")
        raise
    torch.testing.assert_close(found, model(images()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(15, 15), (17, 22)])
def test_odd_and_oblong_images_work(family: str, size: tuple[int, int]) -> None:
    model = ablate.create_model(FAMILIES[family], num_classes=5, image_size=size)
    assert model(torch.randn(2, 3, *size)).shape == (2, 5)


def test_an_image_too_small_for_the_strides_says_where() -> None:
    with pytest.raises(ModelError, match="image size 4x4 is too small: stage 2 has stride 2"):
        ablate.create_model("C1x8-C1x8-C1x8@stem_stride=4", image_size=4)


@st.composite
def small_archs(draw: st.DrawFn) -> str:
    def run() -> str:
        letter = draw(st.sampled_from("CTFVAR"))
        text = f"{letter}{draw(st.integers(1, 2))}x{draw(st.sampled_from([8, 16]))}"
        options = {
            "C": ["", "(norm=ln)", "(se_ratio=0)", "(kernel_size=5;stride_at=depthwise)"],
            "T": ["", "(rel_attn=none)", "(rel_attn=post)", "(attn=window;window=2)"],
            "F": ["", "(cpe=false)", "(crpe=false)", "(attn=efficient)", "(embed=conv)"],
            "V": ["", "(proj=linear)", "(proj=residual)", "(ffn=separable)"],
            "A": ["", "(ffn=linear)", "(proj=separable)", "(cls_token=true)"],
            "R": ["", "(conv=separable)"],
        }
        return text + draw(st.sampled_from(options[letter]))

    stages = ["+".join(run() for _ in range(draw(st.integers(1, 2)))) for _ in range(2)]
    head = draw(st.sampled_from(["", ";head=linear", ";head=mlp"]))
    return "-".join(stages) + f"@num_heads=2;stem_stride=2;drop_path_rate=0.1{head}"


@pytest.mark.slow
@given(small_archs())
@settings(max_examples=40, deadline=None)
def test_any_arch_of_the_grammar_trains_a_step(arch: str) -> None:
    try:
        resolve(arch)
    except GrammarError:
        arch = arch.replace("num_heads=2;", "")
        if any(kind in arch for kind in "TFVA"):
            return
    model = ablate.create_model(arch, num_classes=5, image_size=17)
    model(images(17)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# -- relative attention ---------------------------------------------------------------------------


def relative_loop(attn: RelativeAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """CoAtNet, Eqn 3, one query, key and head at a time."""
    n, length, _ = x.shape
    height, width = grid
    heads, d = attn.num_heads, attn.head_dim
    qkv = attn.qkv(x).view(n, length, 3, heads, d)
    out = torch.zeros(n, length, heads, d)
    for b in range(n):
        for h in range(heads):
            for i in range(length):
                q = qkv[b, i, 0, h]
                logits = torch.stack([q @ qkv[b, j, 1, h] for j in range(length)]) / math.sqrt(d)
                bias = torch.zeros(length)
                if attn.position is not None:
                    table = attn.position.table[h]
                    for j in range(length):
                        rows = i // width - j // width + height - 1
                        columns = i % width - j % width + width - 1
                        bias[j] = table[rows, columns]
                if attn.mode == "pre":
                    weights = (logits + bias).softmax(0)
                elif attn.mode == "post":
                    weights = logits.softmax(0) + bias
                else:
                    weights = logits.softmax(0)
                out[b, i, h] = sum(weights[j] * qkv[b, j, 2, h] for j in range(length))
    return attn.proj(out.reshape(n, length, heads * d))


@pytest.mark.parametrize("mode", ["none", "pre", "post"])
def test_relative_attention_is_its_equation(mode: str) -> None:
    torch.manual_seed(0)
    attn = RelativeAttention(6, spec_of(f"S:T1x8(head_dim=4;rel_attn={mode})"), (3, 2))
    if attn.position is not None:
        nn.init.normal_(attn.position.table)
    x = torch.randn(2, 6, 6)
    torch.testing.assert_close(attn(x), relative_loop(attn, x, (3, 2)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["none", "pre", "post"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_windows_attend_to_their_own_tokens_only(mode: str, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    spec = spec_of(f"S:T1x8(head_dim=4;rel_attn={mode};attn=window;window=2)")
    windowed = WindowAttention(8, spec, grid, (2, 2))
    if windowed.attn.position is not None:
        nn.init.normal_(windowed.attn.position.table)
    x = torch.randn(1, grid[0] * grid[1], 8)
    found = windowed(x).unflatten(1, grid)
    maps = x.unflatten(1, grid)
    for top in range(0, grid[0], 2):
        for left in range(0, grid[1], 2):
            part = maps[:, top : top + 2, left : left + 2]
            rows, columns = part.shape[1:3]
            expected = window_loop(windowed.attn, part.flatten(1, 2), rows, columns)
            got = found[:, top : top + 2, left : left + 2].flatten(1, 2)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def window_loop(attn: RelativeAttention, x: Tensor, rows: int, columns: int) -> Tensor:
    """Attention inside one (possibly cut) window of 2x2, over the tokens that exist."""
    qkv = attn.qkv(x)[0].view(rows * columns, 3, attn.num_heads, attn.head_dim)
    out = torch.zeros(rows * columns, attn.num_heads, attn.head_dim)
    for h in range(attn.num_heads):
        for i in range(rows * columns):
            logits = qkv[:, 1, h] @ qkv[i, 0, h] / math.sqrt(attn.head_dim)
            bias = torch.zeros(rows * columns)
            if attn.position is not None:
                for j in range(rows * columns):
                    row = i // columns - j // columns + 1
                    column = i % columns - j % columns + 1
                    bias[j] = attn.position.table[h, row, column]
            pre = attn.mode == "pre"
            weights = (logits + bias).softmax(0) if pre else logits.softmax(0) + bias
            out[i, h] = weights @ qkv[:, 2, h]
    return attn.proj(out.flatten(1))[None]


def test_post_softmax_tables_start_at_zero_and_pre_at_small_values() -> None:
    post = RelativeTransformerRun(spec_of("S2x8:T1x8(rel_attn=post;head_dim=4)"), (4, 4))
    pre = RelativeTransformerRun(spec_of("S2x8:T1x8(head_dim=4)"), (4, 4))
    assert post.first.attn.position.table.abs().max() == 0
    assert 0 < pre.first.attn.position.table.abs().max() < 0.1
    assert pre.first.attn.position.table.shape == (2, 3, 3)  # the grid after the pool: 2x2


def test_a_run_after_convolutions_of_the_same_stage_projects_its_identity_path() -> None:
    run = RelativeTransformerRun(resolve("S:C1x8+T2x16@head_dim=4").runs[1], (4, 4))
    assert isinstance(run.first.shortcut, nn.Linear)
    assert run.grid == (4, 4)


def test_tables_resize_like_images_head_by_head() -> None:
    table = torch.randn(2, 5, 7)
    assert resize_table(table, (6, 8)).shape == (2, 11, 15)
    torch.testing.assert_close(resize_table(table, (3, 4)), table)
    flat = torch.full((3, 5, 5), 0.25)
    torch.testing.assert_close(resize_table(flat, (7, 2)), torch.full((3, 13, 3), 0.25))


# -- CvT and ATC ----------------------------------------------------------------------------------


def test_conv_projection_attention_is_its_equation() -> None:
    """Depthwise conv, norm, linear for q, k, v; the token skips the conv; scale 1/sqrt(C)."""
    torch.manual_seed(0)
    spec = spec_of("V1x8(cls_token=true;head_dim=4)")
    attn = ConvProjectionAttention(spec).eval()
    x = torch.randn(2, 1 + 9, 8)
    parts = {}
    for name, stride in (("q", 1), ("k", 2), ("v", 2)):
        layer = getattr(attn, name)
        image = x[:, 1:].transpose(1, 2).reshape(2, 8, 3, 3)
        mapped = layer.norm(nn.functional.conv2d(image, layer.conv.weight, None, stride, 1, 1, 8))
        joined = torch.cat([x[:, :1], mapped.flatten(2).transpose(1, 2)], dim=1)
        parts[name] = layer.linear(joined)
    assert parts["q"].shape[1] == 10
    assert parts["k"].shape[1] == 5
    out = torch.zeros(2, 10, 8)
    for b in range(2):
        for h in range(2):
            channels = slice(4 * h, 4 * h + 4)
            for i in range(10):
                logits = parts["k"][b, :, channels] @ parts["q"][b, i, channels] / math.sqrt(8)
                out[b, i, channels] = logits.softmax(0) @ parts["v"][b, :, channels]
    torch.testing.assert_close(attn(x, (3, 3)), attn.out(out), atol=1e-5, rtol=1e-5)


def test_a_res_unit_adds_its_pooled_input() -> None:
    torch.manual_seed(0)
    unit = ConvProjectionAttention(spec_of("A1x8(head_dim=4)")).k.eval()
    x = torch.randn(2, 16, 8)
    image = x.transpose(1, 2).reshape(2, 8, 4, 4)
    conv = nn.functional.conv2d(image, unit.depthwise.weight, None, 2, 1, 1, 8)
    branch = nn.functional.conv2d(nn.functional.gelu(unit.norm(conv)), unit.pointwise.weight)
    pooled = nn.functional.avg_pool2d(image, 2)
    expected = (pooled + branch).flatten(2).transpose(1, 2)
    torch.testing.assert_close(unit(x, (4, 4)), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "padding", "grid"),
    [
        ("V1x64(patch_size=7)", 2, (56, 56)),
        ("V1x64(patch_size=3)@stem_stride=2", 1, (112, 112)),
        ("V1x64@embed=patch", 0, (56, 56)),
    ],
)
def test_conv_embeddings_pad_as_the_official_code(
    text: str, padding: int, grid: tuple[int, int]
) -> None:
    spec = dataclasses.replace(spec_of(text), in_width=3)
    run = ConvProjectionRun(spec, (224, 224))
    assert run.embed.proj.padding == (padding, padding)
    assert run.grid == grid
