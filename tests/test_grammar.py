"""The grammar of arch strings: what parses, what it means, and what each mistake is told."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.errors import GrammarError, ModelError
from ablate.grammar import Arch, Run, canonical, override, parse, resolve
from ablate.kinds import KINDS
from ablate.options import NET_OPTIONS, OPTIONS, format_value
from ablate.presets import PRESETS, expand

EXAMPLES = {
    "act": ["relu", "silu"],
    "attn": ["global", "window", "factorized", "efficient"],
    "bn_eps": ["0.001"],
    "cls_token": ["true", "false"],
    "conv": ["plain", "separable"],
    "coscale": ["none", "cross"],
    "cpe": ["true", "false"],
    "crpe": ["true", "false"],
    "crpe_windows": ["3/5", "3:1/7:1"],
    "drop_path_rate": ["0", "0.1"],
    "drop_path_schedule": ["constant", "linear", "stage"],
    "embed": ["conv", "residual"],
    "expand_ratio": ["2", "6.5"],
    "ffn": ["linear", "separable", "residual"],
    "head": ["mlp", "linear"],
    "head_dim": ["8"],
    "kernel_size": ["5"],
    "kv_stride": ["1", "2"],
    "ln_eps": ["1e-06"],
    "mlp_ratio": ["2", "2.5"],
    "norm": ["bn", "ln"],
    "num_heads": ["2"],
    "patch_size": ["3", "7"],
    "pool": ["max", "avg"],
    "proj": ["linear", "separable", "residual"],
    "rel_attn": ["none", "pre", "post"],
    "scales": ["2/3/4", "3/4"],
    "se_ratio": ["0", "0.5"],
    "stem_stride": ["1", "4"],
    "stride": ["1", "2"],
    "stride_at": ["expand", "depthwise"],
    "window": ["4"],
}


@st.composite
def arch_texts(draw: st.DrawFn) -> str:
    """Texts that parse; whether their parts fit together is another question."""

    def options(names: list[str], most: int = 3) -> str:
        chosen = draw(st.lists(st.sampled_from(sorted(names)), unique=True, max_size=most))
        if "head_dim" in chosen and "num_heads" in chosen:
            chosen.remove("head_dim")
        return ";".join(f"{name}={draw(st.sampled_from(EXAMPLES[name]))}" for name in chosen)

    def run(letter: str, width: bool = True) -> str:
        depth = draw(st.sampled_from(["", "1", "3"])) if width else "2"
        size = draw(st.sampled_from(["", "x16", "x32"])) if width else ""
        kind = KINDS[letter]
        text = options([n for n in kind.options if n not in NET_OPTIONS and n not in kind.choices])
        return f"{letter}{depth}{size}" + (f"({text})" if text else "")

    stem = draw(st.sampled_from(["", "S", "E"]))
    count = draw(st.integers(1, 4))
    stages = [
        "+".join(run(draw(st.sampled_from("CTFVAR"))) for _ in range(draw(st.integers(1, 2))))
        for _ in range(count)
    ]
    group = "|" + run("P", width=False) if draw(st.booleans()) else ""
    net = options(["drop_path_rate", "drop_path_schedule", "stem_stride"])
    return (f"{run(stem)}:" if stem else "") + "-".join(stages) + group + (f"@{net}" if net else "")


def test_every_option_of_the_registry_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(OPTIONS)


@given(arch_texts())
@settings(max_examples=200, deadline=None)
def test_parse_and_format_are_inverse(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@given(arch_texts())
@settings(max_examples=200, deadline=None)
def test_canonical_is_a_fixed_point_that_means_the_same(text: str) -> None:
    try:
        before = resolve(text)
    except GrammarError:
        return
    short = canonical(text)
    assert canonical(short) == short
    after = resolve(short)
    assert [run.width for run in after.runs] == [run.width for run in before.runs]
    assert [run.num_heads for run in after.runs] == [run.num_heads for run in before.runs]
    for old, new in zip(before.runs, after.runs, strict=True):
        active = KINDS[old.kind].active
        effective = {
            name: value
            for name, value in old.options.items()
            if name not in active or active[name]({**old.options, "stride": old.stride})
        }
        assert effective.items() <= new.options.items()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_preset_is_a_canonical_string(preset) -> None:  # type: ignore[no-untyped-def]
    assert canonical(preset.arch) == preset.arch
    assert str(expand(preset.name)) == preset.arch


def test_no_two_presets_share_a_string() -> None:
    archs = [preset.arch for preset in PRESETS.values()]
    assert len(set(archs)) == len(archs)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("C-C-T-T", "S2x64:C2x64-C2x128-T2x256-T2x512"),
        ("F2x64-F2x128(crpe=false)@crpe=true", "F2x64-F2x128(crpe=false)"),
        ("F2x64(crpe=false)-F2x128(crpe=false)", "F2x64-F2x128@crpe=false"),
        ("F2x64(crpe_windows=3:2/5:3/7:3)", "F2x64"),
        ("F2x64@head_dim=8", "F2x64"),
        ("S2x64:T2x64(num_heads=2)", "S2x64:T2x64"),
        ("S2x64:T2x64(window=3)", "S2x64:T2x64"),
        ("S2x64:T2x64(attn=window;window=3)", "S2x64:T2x64@attn=window;window=3"),
        ("S2x64:C2x64(norm=ln;bn_eps=0.1)", "S2x64:C2x64@norm=ln"),
        ("S2x64:C2x64(stride=1;stride_at=depthwise)", "S2x64:C2x64(stride=1)"),
        ("F2x64@drop_path_schedule=linear", "F2x64"),
        ("F2x64@crpe=false;crpe_windows=3:8", "F2x64@crpe=false"),
        ("F2x64@head=cls;stem_stride=4", "F2x64"),
    ],
)
def test_canonical_drops_what_changes_nothing(text: str, short: str) -> None:
    assert canonical(text) == short


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "a block is missing; choose from C, T, F, V, A, R"),
        ("C2x64-", 7, "a block is missing"),
        ("C2x64-X3", 7, "unknown kind 'X'; choose from C, T"),
        ("C2x64-P3", 7, "kind 'P' is a group, here stands a block"),
        ("C2x64:C2x64", 1, "kind 'C' is a block, here stands a stem; choose from S, E"),
        ("C02x64", 2, "a number starts with 1 to 9"),
        ("C2x", 4, "a width follows 'x'"),
        ("C2xx64", 4, "a width follows 'x'"),
        ("C2x64)", 6, "unexpected ')'"),
        ("C2x64 -T2", 6, "unexpected ' '"),
        ("C2x64(norm=bn", 14, "expected ')'"),
        ("C2x64(norm)", 11, "expected '=', found ')'"),
        ("C2x64(norm=)", 12, "option 'norm' has no value"),
        ("C2x64()", 7, "an option is name=value"),
        ("C2x64(nrom=bn)", 7, "unknown option of kind C 'nrom' (did you mean 'norm'?)"),
        ("C2x64(norm=gn)", 7, "norm=gn: unknown value 'gn'"),
        ("C2x64(norm=bn;norm=ln)", 15, "option 'norm' stands twice"),
        ("C2x64(cpe=true)", 7, "unknown option of kind C 'cpe'"),
        ("C2x64(stem_stride=2)", 7, "it stands after '@'"),
        ("C2x64@stride=1", 7, "it stands in parentheses"),
        ("C2x64@cpe=true", 7, "option 'cpe' has no block here: it belongs to F"),
        ("T2x64(head_dim=8;num_heads=8)", 18, "one of head_dim and num_heads"),
        ("T2x64(attn=factorized)", 7, "choose from global, window"),
        ("C2x64(kernel_size=4)", 7, "needs an odd number"),
        ("C2x64(expand_ratio=0)", 7, "needs a number above 0"),
        ("F2x64@drop_path_rate=1", 7, "needs a number in [0, 1)"),
        ("F2x64(cpe=yes)", 7, "choose from true, false"),
        ("F2x64|P", 8, "a parallel group needs its depth"),
        ("F2x64|P6x64", 7, "has the width of its stages"),
    ],
)
def test_a_token_at_fault_is_shown_with_its_column(text: str, column: int, message: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(message)) as caught:
        parse(text)
    assert caught.value.column == column
    assert f"^ column {column}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("F2x64-F2x60", 7, "width=60, num_heads=8 in stage 2"),
        ("S:C2x64-T2x60", 9, "width must be divisible by head_dim, but got width=60, head_dim=32"),
        ("C2x64+C2x64(stride=2)", 7, "only the first run of a stage has a stride"),
        ("F2x64(stride=2)", 1, "the first stage reads the image: use @stem_stride"),
        ("F2x64(crpe_windows=3:2/5:2)", 1, "as many heads as the block has, but got 4 of 8"),
        ("F2x64(patch_size=3)", 1, "patch_size 3 needs stride 3, not 4; embed=conv overlaps"),
        ("C2x64@head=cls", 1, "head=cls needs a class token in the last stage"),
        ("F2x64@head=aggregate", 1, "head=aggregate needs a parallel group"),
        ("F2x64-F2x64-F2x64|P2", 19, "the last scale of the parallel group is the last stage, 3"),
        ("F2x64-F2x64-F2x64-F2x64|P2(scales=4/3)", 25, "scales of the parallel group rise"),
        ("F2x64-F2x64-F2x64-F2x128|P2", 26, "equal width, but got 64, 64, 128"),
        ("F2x64-C2x64-F2x64-F2x64|P2", 25, "needs stages of kind F, but got C, F, F"),
        ("F2x64-F2x64(cpe=false)-F2x64-F2x64|P2", 36, "equal cpe, but got False, True, True"),
    ],
)
def test_parts_that_do_not_fit_say_why(text: str, column: int, message: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(message)) as caught:
        resolve(text)
    assert caught.value.column == column


@pytest.mark.parametrize("letter", ["C", "T", "F", "V", "A", "R"])
def test_every_kind_stands_alone_and_in_any_order(letter: str) -> None:
    for other in "CTFVAR":
        blueprint = resolve(f"{letter}1x64-{other}1x64")
        assert [run.kind for run in blueprint.runs] == [letter, other]


def test_crpe_heads_are_split_for_any_head_count() -> None:
    for heads in range(1, 17):
        run = resolve(f"F1x{heads * 4}@num_heads={heads}").runs[0]
        assert sum(share for _, share in run.pairs("crpe_windows")) == heads
    assert resolve("F1x64").runs[0].pairs("crpe_windows") == ((3, 2), (5, 3), (7, 3))


def test_stochastic_depth_follows_the_papers_schedules() -> None:
    coat = resolve("F2x64-F2x64@drop_path_rate=0.2")
    assert [run.drop_path for run in coat.runs] == [(0.2, 0.2), (0.2, 0.2)]
    coatnet = resolve("C2x64-T3x64@drop_path_rate=0.4")
    flat = [rate for run in coatnet.runs for rate in run.drop_path]
    assert flat == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    cvt = resolve("V1x64-V2x64-V3x64@drop_path_rate=0.1")
    assert [run.drop_path for run in cvt.runs] == [
        (0.0,),
        (0.0, 0.0),
        pytest.approx((0, 0.05, 0.1)),
    ]


def test_override_sets_an_option_everywhere_and_clears_what_stood_there() -> None:
    arch = parse("S2x64:C2x96-T5x384(head_dim=64)-T2x768")
    assert str(override(arch, head_dim=48)) == "S2x64:C2x96-T5x384-T2x768@head_dim=48"
    assert str(override(arch, num_heads=4)) == "S2x64:C2x96-T5x384-T2x768@num_heads=4"


def test_override_changes_the_stages_and_keeps_what_still_applies() -> None:
    base = expand("coatnet-0@head_dim=64")
    assert str(override(base, layout="C-C-C-C")) == "S2x64:C2x96-C3x192-C5x384-C2x768"
    assert str(override(base, depths=[1, 1, 9, 1])).startswith("S2x64:C1x96-C1x192-T9x384-T1x768")
    assert str(override(base, widths="64/64/64/64")).startswith("S2x64:C2x64-C3x64-T5x64-T2x64")


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("coatnet-0", {"cpe": True}, "option 'cpe' has no block in"),
        ("coatnet-0", {"haed_dim": 32}, "unknown option 'haed_dim' (did you mean 'head_dim'?)"),
        ("coatnet-0", {"stride": 1}, "option 'stride' is of one run"),
        ("coatnet-0", {"rel_attn": "both"}, "rel_attn=both: unknown value 'both'"),
        ("coatnet-0", {"attn": "factorized"}, "unknown value for kind T 'factorized'"),
        ("coatnet-0", {"layout": "C-C-T"}, "layout needs one part for each of 4 stages"),
        ("coatnet-0", {"layout": "C-C-T-Q"}, "unknown kind in layout C-C-T-Q: 'Q'"),
        ("coatnet-0", {"depths": [2, 2, 0, 2]}, "numbers of at least 1, but got 2/2/0/2"),
        ("coatnet-0", {"depths": "2/a/2/2"}, "whole numbers, one a stage, but got 2/a/2/2"),
        ("coatnet-7", {"layout": "C-C-T-T"}, "layout needs one run a stage"),
    ],
)
def test_an_override_that_cannot_be_says_why(
    model: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        override(expand(model), **changes)


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'coat-lite-tiny'"):
        expand("coat-lite-tinny")
    with pytest.raises(ModelError, match="an option is name=value, but got 'cpe'"):
        expand("coat-tiny@cpe")


def test_values_format_as_they_parse() -> None:
    for name, texts in EXAMPLES.items():
        for text in texts:
            assert format_value(OPTIONS[name].parse(text)) == text


def test_an_arch_is_a_frozen_value() -> None:
    arch = Arch(stages=((Run(kind="C"),),))
    assert arch == parse("C")
    assert hash(arch) == hash(parse("C"))
