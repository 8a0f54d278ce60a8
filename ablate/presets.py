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
OURS = "ours: for CPUs and 32-pixel images"


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a paper prints of a network.

    Args:
        params: in millions, as printed.
        gflops: as printed, at `image_size`; None where nothing is printed.
        mismatch: why a build of ours does not round to the printed number, by "params"/"gflops".
    """

    params: float | None = None
    gflops: float | None = None
    image_size: int = 224
    mismatch: Mapping[str, str] = field(default_factory=dict)


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

    @property
    def ours(self) -> bool:
        """Whether the network is our own, not a published one."""
        return self.citation == OURS


def _coat(name: str, arch: str, params: float, gflops: float, reason: str = "") -> Preset:
    mismatch = {"gflops": reason} if reason else {}
    reported = Reported(params=params, gflops=gflops, mismatch=mismatch)
    return Preset(name=name, arch=arch, citation=COAT, reported=reported)


_NO_PARAMS_RULE = (
    "no uniform rule gives both this and CoAtNet-4: their difference is fixed by the weights"
)
_COATNET_FLOPS = "the paper's FLOPs also count elementwise work on attention maps and the stem"


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

_COATNET_REPORTED: dict[str, Reported] = {
    "coatnet-0": Reported(params=25, gflops=4.2),
    "coatnet-0-dagger": Reported(params=25, gflops=4.6),
    "coatnet-1": Reported(params=42, gflops=8.4),
    "coatnet-1-dagger": Reported(params=42, gflops=8.8),
    "coatnet-2": Reported(params=75, gflops=15.7),
    "coatnet-2-dagger": Reported(params=75, gflops=16.6),
    "coatnet-3": Reported(params=168, gflops=34.7, mismatch={"params": _NO_PARAMS_RULE}),
    "coatnet-4": Reported(params=275, gflops=360.9, image_size=512),
    "coatnet-5": Reported(params=688, gflops=812, image_size=512),
    "coatnet-6": Reported(
        params=1470,
        gflops=1521,
        image_size=512,
        mismatch={"params": "the printed S4 width of 2048 gives 1.35B; 3072 gives 1.47B"},
    ),
    "coatnet-6-s4-3072": Reported(params=1470, gflops=1521, image_size=512),
    "coatnet-7": Reported(params=2440, gflops=2586, image_size=512),
}


def _build_presets() -> dict[str, Preset]:
    coat = [
        _coat("coat-lite-tiny", "F2x64(mlp_ratio=8)-F2x128(mlp_ratio=8)-F2x256-F2x320", 5.7, 1.6),
        _coat("coat-lite-mini", "F2x64(mlp_ratio=8)-F2x128(mlp_ratio=8)-F2x320-F2x512", 11, 2.0),
        _coat("coat-lite-small", "F3x64(mlp_ratio=8)-F4x128(mlp_ratio=8)-F6x320-F3x512", 20, 4.0),
        _coat("coat-lite-medium", "F3x128-F6x256-F10x320-F8x512", 45, 9.8),
        _coat(
            "coat-tiny",
            "F2x152-F2x152-F2x152-F2x152|P6",
            5.5,
            4.4,
            "the exact total is 4.34999: 4.4 only by rounding twice",
        ),
        _coat("coat-mini", "F2x152-F2x216-F2x216-F2x216|P6", 10, 6.8),
        _coat("coat-small", "F2x152-F2x320-F2x320-F2x320|P6", 22, 12.6),
    ]
    coatnet = [
        Preset(
            name=name,
            arch=arch,
            citation=COATNET,
            image_size=_COATNET_REPORTED[name].image_size if name in _COATNET_REPORTED else 224,
            reported=_COATNET_REPORTED.get(name),
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
        ("cvt-13", "V1x64-V2x192-V10x384(cls_token=true)", 224, 20, 4.5),
        ("cvt-21", "V1x64-V4x192-V16x384(cls_token=true)", 224, 32, 7.1),
        ("cvt-w24", "V2x192-V2x768-V20x1024(cls_token=true)", 384, 277, 193.2),
    ]
    return [
        Preset(
            name=name,
            arch=arch,
            citation=CVT,
            image_size=size,
            reported=Reported(params=params, gflops=gflops, image_size=size),
        )
        for name, arch, size, params, gflops in rows
    ]


def _atcs() -> list[Preset]:
    last = "(cls_token=true)"
    rows = [
        ("atc-3", f"A1x64-A1x192-V1x384{last}", 2.9),
        ("atc-5-113", f"A1x64-A1x192-V3x384{last}", 6.4),
        ("atc-5-131", f"A1x64-A3x192-V1x384{last}", 3.3),
        ("atc-5-311", f"A3x64-A1x192-V1x384{last}", 2.9),
        ("atc-9", f"A1x64-A2x192-V6x384{last}", 12.0),
        ("atc-13", f"A1x64-A2x192-V10x384{last}", 19.2),
        ("atc-15", f"A1x64-A4x192-V10x384{last}", 19.7),
        ("atc-res-3", f"A1x64-A1x192-V1x384{last}@embed=residual", 3.3),
        ("atc-res-15", f"A1x64-A4x192-V10x384{last}@embed=residual", 20.1),
        ("atc-mlp-res", f"A1x64(proj=separable)-A1x192(proj=separable)-V1x384{last}", 2.9),
        ("atc-res-mlp", f"A1x64(ffn=linear)-A1x192(ffn=linear)-V1x384{last}", 3.9),
    ]
    mismatch = {
        "atc-res-mlp": {"params": "the fitted reading, which gives all other counts, has 3.11M"}
    }
    return [
        Preset(
            name=name,
            arch=arch,
            citation=ATC,
            image_size=32,
            num_classes=100,
            reported=Reported(params=params, image_size=32, mismatch=mismatch.get(name, {})),
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
