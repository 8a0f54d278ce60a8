"""The keys of timm's CoAtNets (`coatnet_0_224` to `coatnet_5_224`)."""

from __future__ import annotations

import math

from torch import Tensor

from ablate.models.weights_layouts import Conversion, Layout, Rules

_CONV = r"stages\.(?P<i>\d+)\.0\.C\.blocks\.(?P<j>\d+)\."
_ENTRY = r"stages\.(?P<i>\d+)\.0\.T\.first\."
_LATER = r"stages\.(?P<i>\d+)\.0\.T\.blocks\.(?P<j>\d+)\."
_IN_CONV = "stages.{i}.blocks.{j}."
_IN_ENTRY = "stages.{i}.blocks.0."
_IN_LATER = "stages.{i}.blocks.{j_next}."

_CONV_PARTS: Rules = (
    (r"shortcut\.\d+\.", "shortcut.expand."),
    (r"(?P<part>pre_norm|norm1|norm2)\.", "{part}."),
    (r"expand\.", "conv1_1x1."),
    (r"depthwise\.", "conv2_kxk."),
    (r"se\.squeeze\.", "se.fc1."),
    (r"se\.expand\.", "se.fc2."),
    (r"project\.", "conv3_1x1."),
)
_TRANSFORMER_PARTS: Rules = (
    (r"attn\.(?P<part>qkv|proj)\.", "attn.{part}."),
    (r"attn\.position\.table$", "attn.rel_pos.relative_position_bias_table"),
    (r"norm2\.", "norm2."),
    (r"mlp\.expand\.", "mlp.fc1."),
    (r"mlp\.project\.", "mlp.fc2."),
)
_ENTRY_PARTS: Rules = (
    (r"shortcut\.", "shortcut.expand."),
    (r"norm1\.", "norm1.norm."),  # norm and pool stand together in timm's first block
    *_TRANSFORMER_PARTS,
)
_LATER_PARTS: Rules = ((r"norm1\.", "norm1."), *_TRANSFORMER_PARTS)

_RULES: Rules = (
    (r"stem\.layers\.0\.", "stem.conv1."),
    (r"stem\.layers\.1\.", "stem.norm1."),
    (r"stem\.layers\.3\.", "stem.conv2."),
    *((_CONV + ours, _IN_CONV + theirs) for ours, theirs in _CONV_PARTS),
    *((_ENTRY + ours, _IN_ENTRY + theirs) for ours, theirs in _ENTRY_PARTS),
    *((_LATER + ours, _IN_LATER + theirs) for ours, theirs in _LATER_PARTS),
    (r"head\.norm\.", "head.norm."),
    (r"head\.hidden\.", "head.pre_logits.fc."),
    (r"head\.fc\.", "head.fc."),
)


def _linear(tensor: Tensor, own: Tensor, heads: int) -> Tensor | None:
    """The weight of a 1x1 convolution (O, I, 1, 1) as that of a linear layer (O, I)."""
    return tensor.flatten(1) if tensor.shape[2:] == (1, 1) else None


def _conv(tensor: Tensor, heads: int) -> Tensor:
    return tensor[:, :, None, None]


def _qkv(tensor: Tensor, own: Tensor, heads: int) -> Tensor | None:
    """Rows (heads, 3, d) of theirs in our order (3, heads, d)."""
    if tensor.shape[0] != own.shape[0]:
        return None
    rows = tensor.reshape(heads, 3, -1, *tensor.shape[1:]).transpose(0, 1)
    return rows.reshape(own.shape) if rows.numel() == own.numel() else None


def _qkv_weight(tensor: Tensor, heads: int) -> Tensor:
    return _conv(_qkv_bias(tensor, heads), heads)


def _qkv_bias(tensor: Tensor, heads: int) -> Tensor:
    return tensor.reshape(3, heads, -1, *tensor.shape[1:]).transpose(0, 1).flatten(0, 2)


def _table(tensor: Tensor, own: Tensor, heads: int) -> Tensor | None:
    """(positions, heads) as (heads, 2H - 1, 2W - 1); a square grid where H and W are not ours."""
    if tensor.ndim != 2:
        return None
    positions, height, width = tensor.shape[0], *own.shape[1:]
    if positions != height * width:
        height = width = math.isqrt(positions)
    if positions != height * width:
        return None
    return tensor.t().reshape(-1, height, width)


def _positions(tensor: Tensor, heads: int) -> Tensor:
    return tensor.flatten(1).t()


COATNET_TIMM = Layout(
    name="timm",
    title="timm CoAtNet",
    marks=(r"stem\.conv1\.", r"stages\.\d+\.blocks\.\d+\."),
    rules=_RULES,
    head=r"head\.",
    conversions=(
        Conversion(pattern=r"attn\.qkv\.weight$", load=_qkv, export=_qkv_weight),
        Conversion(pattern=r"attn\.qkv\.bias$", load=_qkv, export=_qkv_bias),
        Conversion(pattern=r"position\.table$", load=_table, export=_positions),
        Conversion(
            pattern=r"(attn\.proj|mlp\.expand|mlp\.project|first\.shortcut)\.weight$",
            load=_linear,
            export=_conv,
        ),
    ),
)
