"""Kind R: the residual block of ResNet, against torchvision's and its separable form."""

from __future__ import annotations

import pytest
import torch
from model_parts import build_run, images, params
from torch import nn
from torchvision.models.resnet import BasicBlock


def basic_block(block: nn.Module, stride: int) -> BasicBlock:
    """torchvision's BasicBlock with the weights of one of ours."""
    in_width, width = block.conv1.in_channels, block.conv1.out_channels
    projected = not isinstance(block.shortcut, nn.Identity)
    down = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    theirs = BasicBlock(in_width, width, stride, down if projected else None)
    names = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2"}
    names |= {"shortcut.0": "downsample.0", "shortcut.1": "downsample.1"}
    state = {}
    for key, value in block.state_dict().items():
        part, _, rest = key.rpartition(".")
        state[f"{names[part]}.{rest}"] = value
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("grid", [(6, 8), (5, 7), (1, 3)], ids=str)
@pytest.mark.parametrize(("in_width", "stride"), [(8, 1), (8, 2), (4, 1), (4, 2)])
def test_a_plain_block_answers_like_torchvisions_basic_block(
    training: bool, grid: tuple[int, int], in_width: int, stride: int
) -> None:
    run = build_run(f"R1x8(stride={stride})", grid, in_width)
    theirs = basic_block(run.blocks[0], stride).train(training)
    run.train(training)
    x = images(3, in_width, *grid)
    out, token = run(x)
    torch.testing.assert_close(out, theirs(x))
    assert token is None
    assert tuple(out.shape[2:]) == run.grid


def test_only_the_first_block_of_a_run_has_a_stride_and_a_shortcut() -> None:
    run = build_run("R3x8", (6, 6), 4)
    shortcuts = [isinstance(block.shortcut, nn.Identity) for block in run.blocks]
    assert shortcuts == [False, True, True]
    assert [block.conv1.stride for block in run.blocks] == [(2, 2), (1, 1), (1, 1)]


def test_a_separable_block_is_depthwise_then_pointwise_without_bias() -> None:
    run = build_run("R1x8(conv=separable;kernel_size=5)", (6, 6), 4)
    block = run.blocks[0]
    depthwise, pointwise = block.conv1
    assert (depthwise.groups, depthwise.kernel_size, depthwise.stride) == (4, (5, 5), (2, 2))
    assert (pointwise.kernel_size, pointwise.out_channels) == ((1, 1), 8)
    convolutions = 25 * 4 + 4 * 8 + 25 * 8 + 8 * 8 + 4 * 8
    assert params(run) == convolutions + 3 * 2 * 8


@pytest.mark.parametrize(
    ("options", "norm", "act"),
    [("norm=bn", nn.BatchNorm2d, nn.ReLU), ("norm=ln;act=silu", nn.LayerNorm, nn.SiLU)],
)
def test_norm_and_activation_are_options(
    options: str, norm: type[nn.Module], act: type[nn.Module]
) -> None:
    block = build_run(f"R1x8({options})", (6, 6), 4).blocks[0]
    assert isinstance(block.norm1, norm)
    assert isinstance(block.norm2, norm)
    assert isinstance(block.shortcut[1], norm)
    assert isinstance(block.act2, act)


def test_norms_take_their_epsilon() -> None:
    bn = build_run("R1x8(bn_eps=0.001)", (6, 6), 4)
    ln = build_run("R1x8(norm=ln;ln_eps=1e-06)", (6, 6), 4)
    assert {m.eps for m in bn.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert {m.eps for m in ln.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
