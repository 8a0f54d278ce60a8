"""Where a comparison is of more than the factor that it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ablate.config import DataConfig, TrainConfig
from ablate.study.built import build
from ablate.study.confounds import Side, confounds
from ablate.study.spec import load_study
from ablate.study.variants import Variant

MODEL = "F1x16-F1x32@stem_stride=2"


def warnings(tmp_path: Path, factors: str, *, tolerance: float = 0.1) -> tuple[str, ...]:
    """Of the second variant against the first."""
    path = tmp_path / "study.yaml"
    path.write_text(f"study: s\nmodel: {MODEL}\nfactors:\n  {factors}\n")
    study = load_study(path)
    sides = [
        Side(variant=v, built=build(v.arch, image_size=v.data.image_size, num_classes=10))
        for v in study.variants
    ]
    return confounds(sides[1], sides[0], study.factors, tolerance=tolerance)


@pytest.mark.parametrize(
    "factors",
    [
        "cpe: [true, false]",
        "position: {both: {}, none: {cpe: false}}",
        "train.lr: [1e-3, 2e-3]",
        "train.label_smoothing: [0.0, 0.1]",
        "drop_path_rate: [0, 0.1]",
        "crpe_windows: [3/5/7, 3]",
        "num_heads: [8, 4]",
    ],
)
def test_a_factor_that_changes_only_itself_has_no_confound(tmp_path: Path, factors: str) -> None:
    assert warnings(tmp_path, factors, tolerance=0.2) == ()


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ("mlp_ratio: [4, 8]", ["params +", "MACs +"]),
        ("cpe: {in: {}, out: {cpe: false, crpe: false}}", ["MACs -", "crpe false against true"]),
        ("e: {in: {}, out: {cpe: false, crpe: false}}", ["MACs -", "cpe f", "crpe f"]),
        ("cpe: {in: {}, out: {cpe: false, train.lr: 2e-3}}", ["learning rate 0.002 against 0.001"]),
        ("cpe: {in: {}, out: {cpe: false, train.lr_base_batch: 32}}", ["learning rate 0.002 agai"]),
        ("cpe: {in: {}, out: {cpe: false, drop_path_rate: 0.1}}", ["drop-path 0.1 against 0"]),
        ("cpe: {in: {}, out: {cpe: false, train.epochs: 9}}", ["train.epochs 9 against 20"]),
        ("data.train_fraction: [1.0, 0.25]", ["0.25 times the optimizer steps"]),
        ("cpe: {in: {}, out: {cpe: false, depths: [1, 2]}}", ["params +", "MACs +", "depths 1-2"]),
        ("model: [F1x16-F1x32, F1x16-F1x32-F1x32@stem_stride=1]", ["params +", "MACs +", None]),
    ],
)  # fmt: skip
def test_what_changes_beside_the_factor_is_told(
    tmp_path: Path, factors: str, expected: list[str | None]
) -> None:
    found = warnings(tmp_path, factors)
    for text in expected:
        if text is not None:
            assert any(warning.startswith(text) for warning in found), (text, found)
    assert len(found) == len(expected) or None in expected


def test_equal_steps_are_no_confound(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"study: s\nmodel: {MODEL}\nfactors: {{data.train_fraction: [1.0, 0.25]}}\n"
        "train: {epochs: null, max_steps: 100}\n"
    )
    study = load_study(path)
    built = build(study.baseline.arch, image_size=32, num_classes=10)
    sides = [Side(variant=variant, built=built) for variant in study.variants]
    assert confounds(sides[1], sides[0], study.factors, tolerance=0.05) == ()


def test_blocks_without_the_factor_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: s\nmodel: S1x16:F1x16-F2x32+V1x64@stem_stride=1\nfactors: {cpe: [true, false]}\n"
    )
    study = load_study(path)
    built = build(MODEL, image_size=32, num_classes=10)
    sides = [Side(variant=variant, built=built) for variant in study.variants]
    found = confounds(sides[1], sides[0], study.factors, tolerance=0.05)
    assert found == ("1 of 4 blocks are without cpe (V of stage 2)",)


def test_a_comparison_row_is_told_to_be_another_code_base(tmp_path: Path) -> None:
    found = warnings(tmp_path, "model: [coat-lite-micro, 'torchvision:resnet18']")
    assert any(text.startswith("another code base") for text in found)


def test_initialisation_and_weight_decay_of_shared_parameters_are_compared() -> None:
    built = build(MODEL, image_size=32, num_classes=10)
    name = next(n for n in built.initial if n.endswith("qkv.weight"))
    other = replace(
        built,
        initial={**built.initial, name: "normal_(0, 1)"},
        decays={**built.decays, name: False},
    )
    variant = Variant(
        name="v", levels={}, arch=MODEL, raw_arch=MODEL, data=DataConfig(), train=TrainConfig(),
        seeds=(0,),
    )  # fmt: skip
    side, base = Side(variant=variant, built=other), Side(variant=variant, built=built)
    assert confounds(side, base, {}, tolerance=0.05) == (
        f"initialisation of 1 shared parameters ({name}: normal_(0, 1) against "
        "trunc_normal_(0, 0.02))",
        f"weight decay acts on other shared parameters ({name})",
    )
    assert confounds(base, base, {}, tolerance=0.05) == ()


def test_attention_over_fewer_than_four_tokens_is_told_where_no_factor_is_about_it(
    tmp_path: Path,
) -> None:
    found = warnings(tmp_path, "model: [F1x16-F1x32@stem_stride=2, F1x16-F1x32@stem_stride=16]")
    assert any(text == "attention sees fewer than 4 tokens (stage 2)" for text in found)
