"""Published networks by name: each is one arch string with its citation; knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ablate.errors import ModelError, unknown
from ablate.grammar import Arch, override, parse

COAT = "CoaT, arXiv 2104.06399, Table 1"
COATNET = "CoAtNet, arXiv 2106.04803, Tables 3 and 12"
CVT = "CvT, arXiv 2103.15808, Table 2"
ATC = "ATC (course project, 2023), Tables 1 and 3-6; reading fitted to its parameter counts"
_COAT_FLOPS = "the paper counts by fvcore: LayerNorm at 5 and resizing at 4 an element are included"
_COATNET_FLOPS = "the paper also counts elementwise work on attention maps and in the stem"
_CVT_FLOPS = "the paper also counts biases and BatchNorm, and truncates"
OURS = "ours: for CPUs and 32-pixel images"


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a paper prints of a network.

    Args:
        params: as printed, with its unit (`5.7M`).
        flops: as printed, with its unit (`4.4G`), at the preset's image size; None where nothing
            is printed. Papers count multiply-adds, and some also elementwise work.
        reasons: why an exact build does not round to a printed figure, by "params" / "flops".
    """

    params: str | None = None
    flops: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named network.

    Args:
        name: what a study's `model:` says.
        arch: the arch string, canonical.
        citation: paper and table, or that it is ours.
        image_size: input size of the reported costs, in pixels.
        num_classes: classes of the reported counts.
        reported: what the paper prints; None for ours.
    """

    name: str
    arch: str
    citation: str
    image_size: int = 224
    num_classes: int = 1000
    reported: Reported | None = None

    def disagreements(self, *, params: int, macs: int) -> dict[str, str]:
        """Printed figures that a build does not round to, with the reason.

        Args:
            params: of the build.
            macs: multiply-adds of the build, one image of `image_size`, forward.
        """
        if self.reported is None:
            return {}
        figures = {"params": (self.reported.params, params), "flops": (self.reported.flops, macs)}
        return {
            figure: self.reported.reasons.get(figure, "not explained")
            for figure, (printed, built) in figures.items()
            if printed is not None and not rounds_to(built, printed)
        }

    @property
    def ours(self) -> bool:
        """Whether the network is our own, not a published one."""
        return self.citation == OURS


_UNITS = {"M": 1e6, "G": 1e9, "B": 1e9}


def rounds_to(count: float, printed: str) -> bool:
    """Whether a count, rounded as the printed figure is, gives that figure.

    >>> rounds_to(5_722_856, "5.7M"), rounds_to(166_966_264, "168M")
    (True, False)
    """
    digits, unit = printed[:-1], printed[-1]
    decimals = len(digits.partition(".")[2])
    return round(count / _UNITS[unit], decimals) == float(digits)


def _coat(name: str, arch: str, params: str, flops: str, reason: str = _COAT_FLOPS) -> Preset:
    reported = Reported(params=params, flops=flops, reasons={"flops": reason})
    return Preset(name=name, arch=arch, citation=COAT, reported=reported)


def _coatnet(size: str, stages: str, options: str = "") -> dict[str, str]:
    """The arch of a CoAtNet, of its strided-depthwise (dagger) form and of timm's form."""
    dagger = f"{options};stride_at=depthwise" if options else "stride_at=depthwise"
    forms = {
        f"coatnet-{size}": f"{stages}@{options}" if options else stages,
        f"coatnet-{size}-dagger": f"{stages}@{dagger}",
    }
    if size in "012345":
        forms[f"coatnet-{size}-timm"] = f"{stages}@ln_eps=1e-06;pool=avg;stride_at=depthwise"
    return forms


_COATNETS: dict[str, str] = {
    **_coatnet("0", "S2x64:C2x96-C3x192-T5x384-T2x768"),
    **_coatnet("1", "S2x64:C2x96-C6x192-T14x384-T2x768"),
    **_coatnet("2", "S2x128:C2x128-C6x256-T14x512-T2x1024"),
    **_coatnet("3", "S2x192:C2x192-C6x384-T14x768-T2x1536"),
    **_coatnet("4", "S2x192:C2x192-C12x384-T28x768-T2x1536"),
    **_coatnet("5", "S2x192:C2x256-C12x512-T28x1280-T2x2048", "head_dim=64"),
    **_coatnet("6", "S2x192:C2x192-C4x384-C8x768+T42x1536-T2x2048", "head_dim=128"),
    **_coatnet("6-s4-3072", "S2x192:C2x192-C4x384-C8x768+T42x1536-T2x3072", "head_dim=128"),
    **_coatnet("7", "S2x192:C2x256-C4x512-C8x1024+T42x2048-T2x3072", "head_dim=128"),
}

_COATNET_REPORTED: dict[str, tuple[str, str, int]] = {
    "coatnet-0": ("25M", "4.2G", 224),
    "coatnet-0-dagger": ("25M", "4.6G", 224),
    "coatnet-1": ("42M", "8.4G", 224),
    "coatnet-1-dagger": ("42M", "8.8G", 224),
    "coatnet-2": ("75M", "15.7G", 224),
    "coatnet-2-dagger": ("75M", "16.6G", 224),
    "coatnet-3": ("168M", "34.7G", 224),
    "coatnet-3-dagger": ("168M", "114G", 384),
    "coatnet-4": ("275M", "360.9G", 512),
    "coatnet-5": ("688M", "812G", 512),
    "coatnet-6": ("1.47B", "1521G", 512),
    "coatnet-6-s4-3072": ("1.47B", "1521G", 512),
    "coatnet-7": ("2.44B", "2586G", 512),
}

_ONLY_168_OR_275 = (
    "no uniform rule gives both 168M and CoAtNet-4's 275M: their difference is 108.0M from the "
    "weight matrices alone"
)
_COATNET_PARAMS = {
    "coatnet-3": _ONLY_168_OR_275,
    "coatnet-3-dagger": _ONLY_168_OR_275,
    "coatnet-4": "275.43M with the tables of 224 pixels, 277.68M with those of 512",
    "coatnet-5": "687.05M with the tables of 224 pixels, 688.92M with those of 512",
    "coatnet-6": "the printed S4 width of 2048 gives 1.35B; 3072 gives the printed 1.47B",
}


def _coatnet_reported(name: str) -> Reported | None:
    if name not in _COATNET_REPORTED:
        return None
    params, flops, _ = _COATNET_REPORTED[name]
    reasons = {"flops": _COATNET_FLOPS, "params": _COATNET_PARAMS.get(name, "")}
    return Reported(params=params, flops=flops, reasons=reasons)


def _build_presets() -> dict[str, Preset]:
    coat = [
        _coat(
            "coat-lite-tiny", "F2x64(mlp_ratio=8)-F2x128(mlp_ratio=8)-F2x256-F2x320", "5.7M", "1.6G"
        ),
        _coat(
            "coat-lite-mini", "F2x64(mlp_ratio=8)-F2x128(mlp_ratio=8)-F2x320-F2x512", "11M", "2.0G"
        ),
        _coat(
            "coat-lite-small", "F3x64(mlp_ratio=8)-F4x128(mlp_ratio=8)-F6x320-F3x512", "20M", "4.0G"
        ),
        _coat("coat-lite-medium", "F3x128-F6x256-F10x320-F8x512", "45M", "9.8G"),
        _coat(
            "coat-tiny",
            "F2x152-F2x152-F2x152-F2x152|P6",
            "5.5M",
            "4.4G",
            "the exact fvcore total is 4.34999: 4.4 only by rounding twice",
        ),
        _coat("coat-mini", "F2x152-F2x216-F2x216-F2x216|P6", "10M", "6.8G"),
        _coat("coat-small", "F2x152-F2x320-F2x320-F2x320|P6", "22M", "12.6G"),
    ]
    coatnet = [
        Preset(
            name=name,
            arch=arch,
            citation=COATNET,
            image_size=_COATNET_REPORTED[name][2] if name in _COATNET_REPORTED else 224,
            reported=_coatnet_reported(name),
        )
        for name, arch in _COATNETS.items()
    ]
    vit = Preset(
        name="vit-rel",
        arch="E1x384:T12x384(stride=1)",
        citation="ViT_rel of CoAtNet, arXiv 2106.04803, Figure 1; its size is not given, ours",
        reported=None,
    )
    return {p.name: p for p in [*coat, *coatnet, vit, *_cvts(), *_atcs(), *_micros()]}


def _cvts() -> list[Preset]:
    rows = [
        ("cvt-13", "V1x64-V2x192-V10x384(cls_token=true)", 224, "20M", "4.5G"),
        ("cvt-21", "V1x64-V4x192-V16x384(cls_token=true)", 224, "32M", "7.1G"),
        ("cvt-w24", "V2x192-V2x768-V20x1024(cls_token=true)", 384, "277M", "193.2G"),
    ]
    return [
        Preset(
            name=name,
            arch=arch,
            citation=CVT,
            image_size=size,
            reported=Reported(params=params, flops=flops, reasons={"flops": _CVT_FLOPS}),
        )
        for name, arch, size, params, flops in rows
    ]


def _atcs() -> list[Preset]:
    last = "(cls_token=true)"
    rows = [
        ("atc-3", f"A1x64-A1x192-V1x384{last}", "2.9M"),
        ("atc-5-113", f"A1x64-A1x192-V3x384{last}", "6.4M"),
        ("atc-5-131", f"A1x64-A3x192-V1x384{last}", "3.3M"),
        ("atc-5-311", f"A3x64-A1x192-V1x384{last}", "2.9M"),
        ("atc-9", f"A1x64-A2x192-V6x384{last}", "12.0M"),
        ("atc-13", f"A1x64-A2x192-V10x384{last}", "19.2M"),
        ("atc-15", f"A1x64-A4x192-V10x384{last}", "19.7M"),
        ("atc-res-3", f"A1x64-A1x192-V1x384{last}@embed=residual", "3.3M"),
        ("atc-res-15", f"A1x64-A4x192-V10x384{last}@embed=residual", "20.1M"),
        ("atc-mlp-res", f"A1x64(proj=separable)-A1x192(proj=separable)-V1x384{last}", "2.9M"),
        ("atc-res-mlp", f"A1x64(ffn=linear)-A1x192(ffn=linear)-V1x384{last}", "3.9M"),
    ]
    reasons = {"params": "the one reading that gives all other counts of the paper has 3.11M"}
    return [
        Preset(
            name=name,
            arch=arch,
            citation=ATC,
            image_size=32,
            num_classes=100,
            reported=Reported(params=params, reasons=reasons),
        )
        for name, arch, params in rows
    ]


def _micros() -> list[Preset]:
    rows = [
        ("coat-lite-micro", "F1x32-F1x64-F1x96-F2x128@stem_stride=2"),
        ("coat-micro", "F1x64-F1x64-F1x64-F1x64|P2@stem_stride=2"),
        ("coatnet-micro", "S2x16:C2x32-C2x64-T2x96-T2x128(stride=1)@stem_stride=1"),
        ("cvt-micro", "V1x32-V1x64-V2x128(cls_token=true)@head_dim=32;stem_stride=2"),
        ("atc-micro", "A1x32-A1x64-V1x128(cls_token=true)@head_dim=32;stem_stride=2"),
        ("vit-rel-micro", "E1x96:T6x96(stride=1)@stem_stride=4"),
    ]
    return [
        Preset(name=name, arch=arch, citation=OURS, image_size=32, num_classes=10)
        for name, arch in rows
    ]


PRESETS: Mapping[str, Preset] = MappingProxyType(_build_presets())


def expand(text: str) -> Arch:
    """The arch of a preset's name, of a name with options, or of an arch string.

    Raises:
        ModelError: no preset has this name.
        GrammarError: the arch string or the options do not parse.

    >>> str(expand("coat-lite-micro@cpe=false"))
    'F1x32-F1x64-F1x96-F2x128@stem_stride=2;cpe=false'
    """
    name, _, options = text.partition("@")
    if name in PRESETS:
        return override(parse(PRESETS[name].arch), **_pairs(text, options))
    if name[:1].isupper():
        return parse(text)
    raise ModelError(
        unknown("model", name, PRESETS)
        + ", an arch string such as S2x64:C2x96-C3x192-T5x384-T2x768, "
        "torchvision:NAME or timm:NAME"
    )


def _pairs(text: str, options: str) -> dict[str, str]:
    """The options after a preset's name."""
    pairs = [part.partition("=") for part in options.split(";")] if options else []
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise ModelError(f"an option is name=value, but got {name + equals!r} in {text!r}")
    return {name: value for name, _, value in pairs}
