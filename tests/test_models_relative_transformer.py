"""Kind T: CoAtNet's relative attention, against its equations written as loops."""

from __future__ import annotations

import math

import pytest
import torch
from model_parts import build_run, images, params
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.models import create_model
from ablate.models.relative_transformer import RelativeAttention, resize_table

GRIDS = [(3, 3), (2, 4), (4, 1)]


def attention_by_loops(attn: RelativeAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Eqn 3 and its post-softmax form for one sample (L, C), pair by pair of tokens."""
    heads, dim = attn.num_heads, attn.head_dim
    height, width = grid
    places = [(i, j) for i in range(height) for j in range(width)]
    rows = x @ attn.qkv.weight.T + attn.qkv.bias
    q, k, v = rows.chunk(3, dim=1)
    out = torch.zeros(len(places), heads * dim)
    for h in range(heads):
        part = slice(h * dim, (h + 1) * dim)
        for a, (i, j) in enumerate(places):
            scores, biases = [], []
            for b, (i2, j2) in enumerate(places):
                table = attn.position.table if attn.position is not None else None
                scores.append(q[a, part] @ k[b, part] / math.sqrt(dim))
                biases.append(
                    torch.zeros(())
                    if table is None
                    else table[h, i - i2 + height - 1, j - j2 + width - 1]
                )
            score, bias = torch.stack(scores), torch.stack(biases)
            if attn.mode == "post":
                weights = torch.exp(score) / torch.exp(score).sum() + bias
            else:
                weights = torch.exp(score + bias) / torch.exp(score + bias).sum()
            out[a, part] = sum(weights[b] * v[b, part] for b in range(len(places)))
    return out @ attn.proj.weight.T + attn.proj.bias


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("mode", ["pre", "post", "none"])
@pytest.mark.parametrize("head_dim", [2, 3, 6])
def test_attention_equals_the_equation_written_as_loops(
    grid: tuple[int, int], mode: str, head_dim: int
) -> None:
    attn = build_run(f"T1x6(rel_attn={mode};head_dim={head_dim};stride=1)", grid, 4).first.attn
    x = images(2, grid[0] * grid[1], 4)
    with torch.no_grad():
        expected = torch.stack([attention_by_loops(attn, one, grid) for one in x])
        torch.testing.assert_close(attn(x, grid), expected)


def test_the_bias_is_read_at_query_minus_key() -> None:
    """A single raised entry, one row down and two columns left, joins the pairs that far apart."""
    position = build_run("T1x4(head_dim=2;stride=1)", (2, 3), 4).first.attn.position
    with torch.no_grad():
        position.table.zero_()
        position.table[1, 1 + 1, -2 + 2] = 1  # i - i' = 1, j - j' = -2
    bias = position((2, 3))[0]
    assert bias[0].abs().max() == 0
    assert [tuple(pair) for pair in bias[1].nonzero().tolist()] == [(3, 2)]  # (1, 0) and (0, 2)


def test_post_softmax_starts_as_attention_without_bias() -> None:
    torch.manual_seed(0)
    post = create_model("T2x16@rel_attn=post;head_dim=8", num_classes=3, image_size=16).eval()
    none = create_model("T2x16@rel_attn=none;head_dim=8", num_classes=3, image_size=16).eval()
    none.load_state_dict(
        {key: value for key, value in post.state_dict().items() if not key.endswith("table")}
    )
    x = images(2, 3, 16, 16)
    torch.testing.assert_close(post(x), none(x))


def test_every_block_and_head_has_its_own_table_at_the_grid_after_the_pool() -> None:
    run = build_run("T3x8(head_dim=2)", (6, 8), 4)
    tables = {name: p for name, p in run.named_parameters() if name.endswith("table")}
    assert [tuple(p.shape) for p in tables.values()] == [(4, 2 * 3 - 1, 2 * 4 - 1)] * 3


def test_tables_and_linears_start_from_a_truncated_normal() -> None:
    torch.manual_seed(0)
    run = create_model("T1x256(head_dim=8)", num_classes=3, image_size=64).stages[0][0]
    for weight in (run.first.attn.position.table, run.first.attn.qkv.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert weight.abs().max() < 2.5
    assert not run.first.mlp.expand.bias.any()


def block_by_hand(block: nn.Module, x: Tensor, pool: nn.Module | None) -> Tensor:
    """x + Att(LN(x)), then x + FFN(LN(x)); the entrance pools after the norm."""
    width = x.shape[1]
    normed = F.layer_norm(
        x.permute(0, 2, 3, 1), (width,), block.norm1.weight, block.norm1.bias, block.norm1.eps
    ).permute(0, 3, 1, 2)
    if pool is not None:
        normed, x = pool(normed), pool(x)
    rows = x.flatten(2).transpose(1, 2)
    shortcut = getattr(block, "shortcut", nn.Identity())
    if isinstance(shortcut, nn.Linear):
        rows = rows @ shortcut.weight.T + shortcut.bias
    y = rows + block.attn(normed.flatten(2).transpose(1, 2), tuple(normed.shape[2:]))
    mlp = block.mlp
    z = F.layer_norm(y, y.shape[2:], block.norm2.weight, block.norm2.bias, block.norm2.eps)
    hidden = F.gelu(z @ mlp.expand.weight.T + mlp.expand.bias)
    return y + hidden @ mlp.project.weight.T + mlp.project.bias


def test_the_identity_s_projection_keeps_the_signal_of_narrow_networks() -> None:
    """Of deviation 0.02 it would leave a tenth of it at 24 channels, at each stage."""
    torch.manual_seed(0)
    run = create_model("C1x24-T1x64(head_dim=16)", num_classes=3, image_size=64).stages[1][0]
    x = images(1000, 24)
    assert 0.5 < run.first.shortcut(x).std() / x.std() < 1.5


@pytest.mark.parametrize("grid", [(4, 6), (5, 3)], ids=str)
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_the_entrance_pools_after_its_norm_and_projects_the_identity(
    grid: tuple[int, int], pool: str
) -> None:
    run = build_run(f"T2x8(head_dim=4;pool={pool})", grid, 6)
    layer = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[pool](2, 2, ceil_mode=True)
    x = images(2, 6, *grid)
    expected = block_by_hand(run.first, x, layer)
    small = expected.transpose(1, 2).unflatten(2, run.grid)
    expected = block_by_hand(run.blocks[0], small, None)
    out, token = run(x)
    torch.testing.assert_close(out.flatten(2).transpose(1, 2), expected)
    assert token is None
    assert run.grid == (-(-grid[0] // 2), -(-grid[1] // 2))


def test_a_second_run_of_a_stage_projects_its_identity_at_stride_1() -> None:
    """As in CoAtNet-6 and 7, where transformers follow MBConvs in the third stage."""
    run = build_run("C1x4+T1x8(head_dim=4)", (3, 3))
    assert isinstance(run.first.shortcut, nn.Linear)
    assert isinstance(run.first.pool, nn.Identity)
    x = images(2, 4, 3, 3)
    expected = block_by_hand(run.first, x, None)
    torch.testing.assert_close(run(x)[0].flatten(2).transpose(1, 2), expected)


def test_a_second_run_of_equal_width_is_a_plain_block() -> None:
    run = build_run("C1x8+T1x8(head_dim=4)", (3, 3))
    assert isinstance(run.first.shortcut, nn.Identity)


@pytest.mark.parametrize(("in_width", "width", "head_dim"), [(8, 16, 4), (16, 16, 8)])
def test_parameters_are_the_closed_form(in_width: int, width: int, head_dim: int) -> None:
    """Attention at the output width from the first block, FFN of four times the output."""
    first = build_run(f"T1x{width}(head_dim={head_dim})", (6, 4), in_width).first
    qkv, out = 3 * (in_width * width + width), width**2 + width
    tables = width // head_dim * 5 * 3
    mlp = 8 * width**2 + 5 * width
    shortcut = in_width * width + width if in_width != width else 0
    assert params(first) == 2 * in_width + qkv + out + tables + 2 * width + mlp + shortcut


@pytest.mark.parametrize("mode", ["pre", "post", "none"])
@pytest.mark.parametrize(
    ("grid", "window"), [((4, 6), (2, 2)), ((5, 3), (2, 2)), ((5, 7), (3, 3)), ((2, 5), (2, 4))]
)
def test_window_attention_is_attention_inside_each_window(
    mode: str, grid: tuple[int, int], window: tuple[int, int]
) -> None:
    """Padded tokens are no keys; a window larger than the grid is cut to it."""
    side = max(window)
    attn = build_run(
        f"T1x4(attn=window;window={side};rel_attn={mode};head_dim=2;stride=1)", grid, 3
    ).first.attn
    assert attn.window == window
    x = images(2, *grid, 3)
    expected = torch.zeros(2, *grid, 4)
    with torch.no_grad():
        for sample in range(2):
            for top in range(0, grid[0], window[0]):
                for left in range(0, grid[1], window[1]):
                    cell = (
                        sample,
                        slice(top, top + window[0]),
                        slice(left, left + window[1]),
                    )
                    expected[cell] = one_window(attn.attn, x[cell], window)
        found = attn(x.flatten(1, 2), grid).unflatten(1, grid)
    torch.testing.assert_close(found, expected)


def one_window(attn: RelativeAttention, cell: Tensor, window: tuple[int, int]) -> Tensor:
    """Attention by loops over the tokens that exist, with the table of the whole window."""
    height, width = cell.shape[:2]
    rows, columns = window
    if attn.position is None:
        return attention_by_loops(attn, cell.flatten(0, 1), (height, width)).unflatten(
            0, (height, width)
        )
    table = attn.position.table.data
    top, left = rows - height, columns - width
    attn.position.table.data = table[:, top : 2 * rows - 1 - top, left : 2 * columns - 1 - left]
    out = attention_by_loops(attn, cell.flatten(0, 1), (height, width))
    attn.position.table.data = table
    return out.unflatten(0, (height, width))


def test_one_window_over_the_grid_is_global_attention() -> None:
    windowed = build_run("T2x8(attn=window;window=7;head_dim=4)", (6, 8), 4)
    whole = build_run("T2x8(head_dim=4)", (6, 8), 4)
    whole.load_state_dict(
        {key.replace("attn.attn.", "attn."): v for key, v in windowed.state_dict().items()}
    )
    x = images(2, 4, 6, 8)
    torch.testing.assert_close(windowed(x)[0], whole(x)[0])


def test_windows_have_tables_of_their_own_size() -> None:
    run = build_run("T1x8(attn=window;window=3;head_dim=4;stride=1)", (9, 9), 8)
    assert tuple(run.first.attn.attn.position.table.shape) == (2, 5, 5)


def test_resizing_a_table_is_bilinear_and_each_heads_own() -> None:
    """Half-pixel centres, the border repeated: output y reads the input at (y + 1/2) / s - 1/2."""
    table = images(2, 2 * 2 - 1, 2 * 3 - 1)  # grid (2, 3)
    out = resize_table(table, (4, 2))
    assert tuple(out.shape) == (2, 7, 3)

    def corners(position: int, size: int, new: int) -> tuple[int, int, float]:
        place = min(max((position + 0.5) * size / new - 0.5, 0), size - 1)
        low = int(place)
        return low, min(low + 1, size - 1), place - low

    for y in range(7):
        top, bottom, down = corners(y, 3, 7)
        for x in range(3):
            left, right, across = corners(x, 5, 3)
            upper = table[:, top, left] * (1 - across) + table[:, top, right] * across
            lower = table[:, bottom, left] * (1 - across) + table[:, bottom, right] * across
            torch.testing.assert_close(out[:, y, x], upper * (1 - down) + lower * down)


def test_a_table_at_its_own_grid_is_left_as_it_is() -> None:
    table = images(2, 13, 9)
    assert torch.equal(resize_table(table, (7, 5)), table)


@pytest.mark.parametrize(
    ("options", "built", "given"),
    [
        ("", (4, 4), (6, 8)),
        ("rel_attn=post;", (6, 8), (5, 3)),
        ("rel_attn=none;", (4, 4), (5, 7)),
        ("attn=window;window=3;", (6, 6), (11, 4)),
    ],
)
def test_maps_of_another_size_read_the_tables_resized(
    options: str, built: tuple[int, int], given: tuple[int, int]
) -> None:
    """As a network would that was built for them and took the weights (or whole windows)."""
    arch = f"T2x8({options}head_dim=4)"
    small, large = build_run(arch, built, 4), build_run(arch, given, 4)
    state = small.state_dict()
    if "window" not in options:
        for key in state:
            if key.endswith("table"):
                state[key] = resize_table(state[key], large.grid)
        large.load_state_dict(state)
        x = images(2, 4, *given)
        torch.testing.assert_close(small(x)[0], large(x)[0])
    assert tuple(small(images(1, 4, *given))[0].shape[2:]) == large.grid
