"""Kind C: MBConv of CoAtNet, against the equation written with plain functions."""

from __future__ import annotations

import pytest
import torch
from model_parts import build_run, images, params
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.models.mbconv import MBConv, down_sample


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """BatchNorm with running statistics, or LayerNorm over the channels of each position."""
    scale, shift = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    if isinstance(norm, nn.BatchNorm2d):
        mean, var = norm.running_mean.view(1, -1, 1, 1), norm.running_var.view(1, -1, 1, 1)
    else:
        mean = x.mean(dim=1, keepdim=True)
        var = x.var(dim=1, unbiased=False, keepdim=True)
    return (x - mean) / (var + norm.eps).sqrt() * scale + shift


def by_the_equation(block: MBConv, x: Tensor, stride: int, *, at_expand: bool, pool: str) -> Tensor:
    """Section 2.1 and Eqn 5 of CoAtNet, in eval mode; GELU with erf; odd grids round up."""
    expand, depthwise = (stride, 1) if at_expand else (1, stride)
    h = F.conv2d(normed(x, block.pre_norm), block.expand.weight, stride=expand)
    h = F.gelu(normed(h, block.norm1))
    kernel = block.depthwise.weight
    h = F.conv2d(h, kernel, None, depthwise, kernel.shape[-1] // 2, groups=kernel.shape[0])
    h = F.gelu(normed(h, block.norm2))
    if isinstance(block.se, nn.Identity):
        weights = torch.ones(1, 1, 1, 1)
    else:
        squeeze, grow = block.se.squeeze, block.se.expand
        mean = h.mean(dim=(2, 3))
        small = F.silu(mean @ squeeze.weight[:, :, 0, 0].T + squeeze.bias)
        weights = torch.sigmoid(small @ grow.weight[:, :, 0, 0].T + grow.bias)[:, :, None, None]
    h = F.conv2d(h * weights, block.project.weight, block.project.bias)
    if stride > 1:
        x = pooled(x, stride, pool)
    for layer in block.shortcut:
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias)
    return x + h


def pooled(x: Tensor, stride: int, pool: str) -> Tensor:
    """The maximum or mean of every stride x stride cell; cells at the border may be cut."""
    rows = []
    for top in range(0, x.shape[2], stride):
        cells = []
        for left in range(0, x.shape[3], stride):
            cell = x[:, :, top : top + stride, left : left + stride].flatten(2)
            cells.append(cell.amax(2) if pool == "max" else cell.mean(2))
        rows.append(torch.stack(cells, dim=2))
    return torch.stack(rows, dim=2)


@pytest.mark.parametrize("grid", [(6, 8), (5, 7), (1, 2)], ids=str)
@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("at", ["expand", "depthwise"])
@pytest.mark.parametrize("norm", ["bn", "ln"])
def test_a_strided_block_is_the_equation(
    grid: tuple[int, int], pool: str, at: str, norm: str
) -> None:
    run = build_run(f"C1x8(stride_at={at};pool={pool};norm={norm})", grid, in_width=6)
    x = images(2, 6, *grid)
    expected = by_the_equation(run.blocks[0], x, 2, at_expand=at == "expand", pool=pool)
    out, token = run(x)
    torch.testing.assert_close(out, expected)
    assert token is None
    assert tuple(out.shape[2:]) == run.grid == (-(-grid[0] // 2), -(-grid[1] // 2))


@pytest.mark.parametrize(
    "options",
    ["kernel_size=5", "expand_ratio=2", "expand_ratio=1.5", "se_ratio=0", "se_ratio=1", "stride=4"],
)
def test_every_option_of_the_block_is_the_equation(options: str) -> None:
    run = build_run(f"C1x8({options})", (9, 6), in_width=8)
    stride = 4 if options == "stride=4" else 2
    x = images(2, 8, 9, 6)
    expected = by_the_equation(run.blocks[0], x, stride, at_expand=True, pool="max")
    torch.testing.assert_close(run(x)[0], expected)


def test_later_blocks_keep_grid_and_width_and_have_a_bare_shortcut() -> None:
    run = build_run("C3x8", (6, 6), in_width=4)
    assert [len(block.shortcut) for block in run.blocks] == [2, 0, 0]  # pool and 1x1, then nothing
    x = images(1, 4, 6, 6)
    expected = x
    for index, block in enumerate(run.blocks):
        stride = 2 if index == 0 else 1
        expected = by_the_equation(block, expected, stride, at_expand=True, pool="max")
    torch.testing.assert_close(run(x)[0], expected)


def test_the_shortcut_has_a_convolution_only_where_widths_differ() -> None:
    """CoAtNet-2 to 4 have S0 = S1: their first MBConv only pools."""
    same = build_run("C1x8", (6, 6), in_width=8).blocks[0].shortcut
    assert [type(layer) for layer in same] == [nn.MaxPool2d]


@pytest.mark.parametrize(("in_width", "width"), [(12, 16), (16, 16), (64, 96)])
def test_widths_and_parameters_follow_the_output_width(in_width: int, width: int) -> None:
    """Hidden width 4C and squeeze C/4, with C of the output; bias in SE, project, shortcut."""
    block = build_run(f"C1x{width}", (4, 4), in_width).blocks[0]
    m, r = 4 * width, width // 4
    assert (block.expand.out_channels, block.se.squeeze.out_channels) == (m, r)
    weights = in_width * m + 9 * m + m * width + width
    norms = 2 * in_width + 4 * m
    excitation = 2 * m * r + r + m
    shortcut = in_width * width + width if in_width != width else 0
    assert params(block) == weights + norms + excitation + shortcut


def test_layer_norm_has_the_parameters_of_batch_norm_and_no_buffers() -> None:
    batch, layer = (build_run(f"C2x8(norm={norm})", (4, 4), 8) for norm in ("bn", "ln"))
    assert params(batch) == params(layer)
    assert not list(layer.buffers())


def test_average_pool_leaves_the_padding_out_at_odd_grids() -> None:
    ones = torch.ones(1, 1, 5, 3)
    assert torch.equal(down_sample("avg", 2)(ones), torch.ones(1, 1, 3, 2))


def test_epsilon_reaches_every_norm() -> None:
    bn = build_run("C2x8(bn_eps=0.001)", (4, 4), 8)
    ln = build_run("C2x8(norm=ln;ln_eps=1e-06)", (4, 4), 8)
    assert {m.eps for m in bn.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert {m.eps for m in ln.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_drop_path_drops_whole_branches_and_keeps_the_mean() -> None:
    run = build_run("C1x8(stride=1)@drop_path_rate=0.5;drop_path_schedule=constant", (2, 2), 8)
    x = images(64, 8, 2, 2)
    with torch.no_grad():
        branch = run(x)[0] - x
        for module in run.modules():
            if not isinstance(module, nn.BatchNorm2d):
                module.training = True
        torch.manual_seed(0)
        found = run(x)[0] - x
    dropped = found.flatten(1).abs().amax(1) == 0
    assert 16 < dropped.sum() < 48
    torch.testing.assert_close(found[~dropped], 2 * branch[~dropped])
