"""What every block family holds: gradients, precision, memory formats, copies, odd sizes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ablate
from ablate.errors import GrammarError, ModelError
from ablate.grammar import resolve

FAMILIES = {
    "C": "S2x8:C2x8-C2x16(stride_at=depthwise;norm=ln)@stem_stride=1",
    "T": "S2x8:T2x8-T2x16(rel_attn=post)-T1x16(attn=window;window=3)@head_dim=4;stem_stride=1",
    "F": "F2x8-F2x16@num_heads=2;stem_stride=2",
    "P": "F1x8-F1x8-F1x8-F1x8|P2@num_heads=2;stem_stride=2",
    "V": "V2x8-V2x16@head_dim=4;stem_stride=2",
    "V with a token": "V2x8-V2x16(cls_token=true)@head_dim=4;stem_stride=2",
    "A": "A2x8-A2x16@embed=residual;head_dim=4;stem_stride=2",
    "A with a token": "A2x8-A2x16(cls_token=true)@head_dim=4;stem_stride=2",
    "R": "S2x8:R2x8-R2x16(conv=separable;norm=ln)@stem_stride=1",
    "mixed": "S2x8:C1x8+T1x16-R1x16+F1x16@head_dim=4;stem_stride=1",
}


def build(arch: str, size: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return ablate.create_model(arch, num_classes=5, image_size=size)


def images(size: int = 16, n: int = 2) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trainable_parameter_gets_a_gradient(family: str) -> None:
    """It is zero only where a class token alone is read, and the image's queries are not."""
    model = build(FAMILIES[family])
    model(images(n=4)).square().sum().backward()
    reads_token = family in ("V with a token", "A with a token", "mixed")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0 or reads_token, name


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
@pytest.mark.parametrize(
    "arch",
    [FAMILIES["mixed"], FAMILIES["V with a token"], "F1x8-F1x8|P1(scales=1/2)@num_heads=2"],
    ids=["C, T, R, F", "V", "P"],
)
def test_torch_compile_traces_one_graph_that_gives_the_same_answer(arch: str) -> None:
    """Without the C++ compiler, which takes half a minute a network: one is trained with it."""
    torch.compiler.reset()
    model = build(arch).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), model(images()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(17, 17), (19, 22)])
def test_odd_and_oblong_images_work(family: str, size: tuple[int, int]) -> None:
    model = ablate.create_model(FAMILIES[family], num_classes=5, image_size=size)
    assert model(torch.randn(2, 3, *size)).shape == (2, 5)


def test_an_image_too_small_for_the_strides_says_where() -> None:
    with pytest.raises(ModelError, match="image size 4x4 is too small: stage 1 has stride 2"):
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
