"""The registry of block kinds; knows no torch.

A kind is one letter of an arch string. Its entry holds the options that its blocks take, with
their defaults, and the import path of the class that builds a run of such blocks. Adding a block
is one file under `ablate/models/` and one entry here (or one call of `register` from outside).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ablate.errors import ConfigError, unknown
from ablate.options import OPTIONS, Option, Value


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One letter of the grammar.

    Args:
        title: what the block is called in the literature, with its source.
        role: "block", "stem" or "group".
        builder: "module:Class" of the torch module, imported when a network is built.
        defaults: the options it takes. A default of None is computed from the place (see
            `ablate.grammar.resolve`).
        native_heads: which of head_dim and num_heads the kind counts in, if it has heads.
        head: the classification head where the last run of a network is of this kind.
        drop_path_schedule: how stochastic depth is spread where the first run is of this kind.
        needs_stem: the block cannot read the image itself.
        entrance_stride: default of `stem_stride` where the kind reads the image.
        choices: values of an option that this kind takes, where it does not take all.
        active: when an option has an effect, from the effective options of the run ("stride"
            included); an option without effect never enters the canonical string.
    """

    title: str
    builder: str
    role: str = "block"
    defaults: Mapping[str, Value | None] = field(default_factory=dict)
    native_heads: str | None = None
    default_heads: int = 0
    head: str = "linear"
    drop_path_schedule: str = "linear"
    needs_stem: bool = False
    entrance_stride: int = 4
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    active: Mapping[str, Callable[[Mapping[str, Value]], bool]] = field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that a run of this kind takes, sorted."""
        heads = ("head_dim", "num_heads") if self.native_heads else ()
        stride = ("stride",) if self.role == "block" else ()
        return tuple(sorted({*self.defaults, *heads, *stride}))


def _when(option: str, *values: Value) -> Callable[[Mapping[str, Value]], bool]:
    return lambda options: options[option] in values


def _strided(options: Mapping[str, Value]) -> bool:
    return options["stride"] != 1


_CONV_TOKENS: dict[str, Value | None] = {
    "act": "quick_gelu",
    "bn_eps": 1e-5,
    "cls_token": False,
    "embed": "conv",
    "kv_stride": 2,
    "ln_eps": 1e-5,
    "mlp_ratio": 4.0,
    "patch_size": None,
}
_CONV_TOKENS_ACTIVE = {
    "kv_stride": _when("proj", "separable", "residual"),
    "mlp_ratio": _when("ffn", "linear", "separable"),
    "bn_eps": lambda options: (
        options["proj"] != "linear" or options["ffn"] != "linear" or options["embed"] == "residual"
    ),
}

_KINDS: dict[str, Kind] = {
    "C": Kind(
        title="MBConv: inverted bottleneck with squeeze-excitation (CoAtNet)",
        builder="ablate.models.mbconv:MBConvRun",
        defaults={
            "act": "gelu",
            "bn_eps": 1e-5,
            "expand_ratio": 4.0,
            "kernel_size": 3,
            "ln_eps": 1e-5,
            "norm": "bn",
            "pool": "max",
            "se_ratio": 0.25,
            "stride_at": "expand",
        },
        head="mlp",
        needs_stem=True,
        active={
            "bn_eps": _when("norm", "bn"),
            "ln_eps": _when("norm", "ln"),
            "pool": _strided,
            "stride_at": _strided,
        },
    ),
    "T": Kind(
        title="transformer with relative attention (CoAtNet, ViT_rel)",
        builder="ablate.models.relative_transformer:RelativeTransformerRun",
        defaults={
            "act": "gelu",
            "attn": "global",
            "ln_eps": 1e-5,
            "mlp_ratio": 4.0,
            "pool": "max",
            "rel_attn": "pre",
            "window": 7,
        },
        native_heads="head_dim",
        default_heads=32,
        head="mlp",
        needs_stem=True,
        choices={"attn": ("global", "window")},
        active={"pool": _strided, "window": _when("attn", "window")},
    ),
    "F": Kind(
        title="conv-attention: CPE, factorized attention with CRPE, FFN (CoaT serial block)",
        builder="ablate.models.conv_attention:ConvAttentionRun",
        defaults={
            "act": "gelu",
            "attn": "factorized",
            "cls_token": True,
            "cpe": True,
            "crpe": True,
            "crpe_windows": (3, 5, 7),
            "embed": "patch",
            "ln_eps": 1e-6,
            "mlp_ratio": 4.0,
            "patch_size": None,
        },
        native_heads="num_heads",
        default_heads=8,
        head="cls",
        drop_path_schedule="constant",
        choices={"attn": ("factorized", "efficient")},
        active={"crpe_windows": _when("crpe", True)},
    ),
    "V": Kind(
        title="transformer with convolutional projection (CvT)",
        builder="ablate.models.conv_projection:ConvProjectionRun",
        defaults={**_CONV_TOKENS, "ffn": "linear", "proj": "separable"},
        native_heads="head_dim",
        default_heads=64,
        head="linear",
        drop_path_schedule="stage",
        active=_CONV_TOKENS_ACTIVE,
    ),
    "A": Kind(
        title="attend-to-convolution block: Res units for projections and FFN (ATC)",
        builder="ablate.models.conv_projection:ConvProjectionRun",
        defaults={**_CONV_TOKENS, "act": "gelu", "ffn": "residual", "proj": "residual"},
        native_heads="head_dim",
        default_heads=64,
        head="linear",
        drop_path_schedule="stage",
        active=_CONV_TOKENS_ACTIVE,
    ),
    "R": Kind(
        title="residual convolution (ResNet basic block, ATC's Res*)",
        builder="ablate.models.residual:ResidualRun",
        defaults={
            "act": "relu",
            "bn_eps": 1e-5,
            "conv": "plain",
            "kernel_size": 3,
            "ln_eps": 1e-5,
            "norm": "bn",
        },
        head="linear",
        needs_stem=True,
        active={"bn_eps": _when("norm", "bn"), "ln_eps": _when("norm", "ln")},
    ),
    "S": Kind(
        title="convolutional stem (CoAtNet S0)",
        role="stem",
        builder="ablate.models.stems:ConvStem",
        defaults={"act": "gelu", "bn_eps": 1e-5, "kernel_size": 3},
        entrance_stride=2,
    ),
    "E": Kind(
        title="patch or conv embedding stem (ViT)",
        role="stem",
        builder="ablate.models.stems:EmbeddingStem",
        defaults={"patch_size": None},
        entrance_stride=16,
    ),
    "P": Kind(
        title="parallel group with co-scale attention (CoaT)",
        role="group",
        builder="ablate.models.parallel:ParallelGroup",
        defaults={
            "act": "gelu",
            "coscale": "interp",
            "ln_eps": 1e-6,
            "mlp_ratio": 4.0,
            "scales": (2, 3, 4),
        },
        head="aggregate",
    ),
}

KINDS: Mapping[str, Kind] = MappingProxyType(_KINDS)


def letters(role: str) -> list[str]:
    """The letters of one role ("block", "stem", "group"), in the order of the registry."""
    return [letter for letter, kind in KINDS.items() if kind.role == role]


def register(letter: str, kind: Kind, options: Mapping[str, Option] | None = None) -> None:
    """Add a kind of your own to the grammar, for this process.

    Args:
        letter: one capital letter that no kind has yet.
        kind: its options, defaults and builder.
        options: names that the grammar does not know yet.

    Raises:
        ConfigError: the letter or an option's name is taken, or a default has no option.
    """
    if len(letter) != 1 or not ("A" <= letter <= "Z"):
        raise ConfigError(f"a kind is one capital letter, but got {letter!r}")
    if letter in _KINDS and _KINDS[letter] != kind:
        raise ConfigError(f"kind {letter!r} is taken by: {_KINDS[letter].title}")
    for name, option in (options or {}).items():
        if name in OPTIONS and OPTIONS[name] != option:
            raise ConfigError(f"option {name!r} is taken: {OPTIONS[name].doc}")
        OPTIONS[name] = option
    for name in kind.defaults:
        if name not in OPTIONS:
            raise ConfigError(unknown("option", name, OPTIONS))
    _KINDS[letter] = kind
