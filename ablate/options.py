"""Options of the grammar: what may stand in parentheses or after `@`; knows no torch.

A new option is one entry of `OPTIONS`: its parser, which checks the value, and one line of
documentation. Which kinds take it, and with which default, stands in `ablate.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ablate.errors import unknown

Value = bool | int | float | str | tuple[int, ...] | tuple[tuple[int, int], ...]


def parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("choose from true, false")
    return text == "true"


def parse_count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("needs a whole number of at least 1")
    return int(text)


def parse_positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise ValueError("needs a number above 0")
    return number


def parse_rate(text: str) -> float:
    number = _number(text)
    if not 0 <= number < 1:
        raise ValueError("needs a number in [0, 1)")
    return number


def parse_ratio_or_zero(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        raise ValueError("needs a number in [0, 1]")
    return number


def parse_counts(text: str) -> tuple[int, ...]:
    return tuple(parse_count(part) for part in text.split("/"))


def parse_odd(text: str) -> int:
    number = parse_count(text)
    if number % 2 == 0:
        raise ValueError("needs an odd number, so that the grid keeps its size")
    return number


def parse_windows(text: str) -> tuple[int, ...] | tuple[tuple[int, int], ...]:
    """`3:2/5:3/7:3` (window:heads) or `3/5/7` (heads are split evenly, the rest to the last)."""
    parts = text.split("/")
    if not any(":" in part for part in parts):
        return tuple(parse_odd(part) for part in parts)
    pairs = []
    for part in parts:
        window, colon, heads = part.partition(":")
        if not colon:
            raise ValueError("needs window:heads in every part, or in none")
        pairs.append((parse_odd(window), parse_count(heads)))
    return tuple(pairs)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("needs a number") from None


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(unknown("value", text, choices))
        return text

    return parse


def format_value(value: object) -> str:
    """The text of an option's value in an arch string; the inverse of the option's parser."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, (tuple, list)):
        return "/".join(
            ":".join(map(str, part)) if isinstance(part, (tuple, list)) else str(part)
            for part in value
        )
    return str(value)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One name that may stand in parentheses or after `@`.

    `local` options describe one place (such as `stride`) and may not stand after `@`.
    """

    parse: Callable[[str], Value]
    doc: str
    local: bool = False


OPTIONS: dict[str, Option] = {
    "act": Option(
        parse=one_of("gelu", "gelu_tanh", "quick_gelu", "silu", "relu"),
        doc="activation of the block",
    ),
    "attn": Option(
        parse=one_of("global", "window", "factorized", "efficient"),
        doc="T: global or window; F: factorized (softmax over keys) or efficient (on both sides)",
    ),
    "bn_eps": Option(parse=parse_positive, doc="epsilon of BatchNorm"),
    "cls_token": Option(parse=parse_bool, doc="a learned class token in front of the tokens"),
    "conv": Option(parse=one_of("plain", "separable"), doc="convolution of a residual block (R)"),
    "coscale": Option(
        parse=one_of("none", "cross", "interp"),
        doc="parallel group: none, direct cross-layer attention, feature interpolation",
    ),
    "cpe": Option(parse=parse_bool, doc="convolutional position encoding (CoaT)"),
    "crpe": Option(parse=parse_bool, doc="convolutional relative position encoding (CoaT)"),
    "crpe_windows": Option(
        parse=parse_windows, doc="windows of CRPE, with heads (3:2/5:3/7:3) or without (3/5/7)"
    ),
    "drop_path_rate": Option(parse=parse_rate, doc="maximum rate of stochastic depth"),
    "drop_path_schedule": Option(
        parse=one_of("constant", "linear", "stage"),
        doc="constant (CoaT), linear over all blocks (CoAtNet), linear inside a stage (CvT)",
    ),
    "embed": Option(
        parse=one_of("patch", "conv", "residual"),
        doc="token embedding: non-overlapping patches, overlapping conv, ResBlock (ATC)",
    ),
    "expand_ratio": Option(parse=parse_positive, doc="hidden width of MBConv / output width"),
    "ffn": Option(
        parse=one_of("linear", "separable", "residual"), doc="feed-forward layers (ATC Table 2)"
    ),
    "head": Option(
        parse=one_of("mlp", "linear", "cls", "aggregate"),
        doc="mlp: mean, norm, hidden tanh layer (CoAtNet); linear: mean, norm; "
        "cls: class token; aggregate: class tokens of the parallel scales",
    ),
    "head_dim": Option(parse=parse_count, doc="width of one attention head"),
    "kernel_size": Option(parse=parse_odd, doc="kernel of the block's spatial convolution"),
    "kv_stride": Option(parse=parse_count, doc="stride of the key and value projections (CvT)"),
    "ln_eps": Option(parse=parse_positive, doc="epsilon of LayerNorm"),
    "mlp_ratio": Option(parse=parse_positive, doc="hidden width of the FFN / width"),
    "norm": Option(parse=one_of("bn", "ln"), doc="normalisation of convolutional blocks"),
    "num_heads": Option(parse=parse_count, doc="number of attention heads"),
    "patch_size": Option(parse=parse_count, doc="kernel of the token embedding"),
    "pool": Option(parse=one_of("max", "avg"), doc="down-sampling of shortcut and attention"),
    "proj": Option(
        parse=one_of("linear", "separable", "residual"),
        doc="projections of q, k, v: linear, conv + linear (CvT), Res unit (ATC)",
    ),
    "rel_attn": Option(
        parse=one_of("none", "pre", "post"),
        doc="relative attention bias: none, before or after the softmax (CoAtNet)",
    ),
    "scales": Option(parse=parse_counts, doc="stages that the parallel group works on"),
    "se_ratio": Option(
        parse=parse_ratio_or_zero, doc="squeeze-excitation width / block width; 0 is without SE"
    ),
    "stem_stride": Option(parse=parse_count, doc="stride of the stem, or of the first embedding"),
    "stride": Option(parse=parse_count, doc="down-sampling at this stage's entrance", local=True),
    "stride_at": Option(
        parse=one_of("expand", "depthwise"), doc="which MBConv convolution carries the stride"
    ),
    "window": Option(parse=parse_count, doc="side of an attention window, in tokens"),
}

NET_OPTIONS = ("drop_path_rate", "drop_path_schedule", "head", "stem_stride")
"""Options of the whole network: they stand after `@` only."""
