"""A study file becomes variants and trials."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.config import DataConfig
from ablate.errors import StudyError
from ablate.study.spec import Study, load_study

BASE = """\
# Do CPE and CRPE add up?  CoaT,
# arXiv 2104.06399, Table 6.
#
#   ablate run studies/position_encoding.yaml

study: position_encoding
paper: coat.table6
model: coat-lite-micro
factors:
  cpe:  [false, true]
  crpe: [false, true]
baseline: {cpe: false, crpe: false}
design: grid
seeds: 3
data:  {name: digits-canvas, image_size: 32, train_fraction: 1.0}
train: {epochs: 20, batch_size: 64, lr: 1e-3, precision: fp32}
profiles:
  cifar10: {data: {name: cifar10, root: data}, train: {epochs: 30}}
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


def names(study: Study) -> list[str]:
    return [variant.name for variant in study.variants]


def test_a_grid_has_every_combination_in_the_files_order(write: Write) -> None:
    study = load_study(write(BASE))
    assert names(study) == [
        "cpe=false crpe=false",
        "cpe=false crpe=true",
        "cpe=true crpe=false",
        "cpe=true crpe=true",
    ]
    assert [v.arch for v in study.variants] == [
        "F1x32-F1x64-F1x96-F2x128@cpe=false;crpe=false;stem_stride=2",
        "F1x32-F1x64-F1x96-F2x128@cpe=false;stem_stride=2",
        "F1x32-F1x64-F1x96-F2x128@crpe=false;stem_stride=2",
        "F1x32-F1x64-F1x96-F2x128@stem_stride=2",
    ]
    assert study.variants[1].levels == {"cpe": False, "crpe": True}
    assert study.baseline is study.variants[0]


def test_the_header_comment_is_the_question_unless_one_is_given(write: Write) -> None:
    study = load_study(write(BASE))
    assert study.question == "Do CPE and CRPE add up? CoaT, arXiv 2104.06399, Table 6."
    assert "ablate run studies/position_encoding.yaml" in study.header
    assert load_study(write(BASE + "question: Which?\n")).question == "Which?"


def test_trials_are_every_variant_with_every_seed_one_whole_comparison_after_the_other(
    write: Write,
) -> None:
    study = load_study(write(BASE))
    assert len(study.trials) == 12
    assert [trial.seed for trial in study.trials] == [0] * 4 + [1] * 4 + [2] * 4
    assert [t.arch for t in study.trials[:4]] == [v.arch for v in study.variants]
    assert len({trial.key for trial in study.trials}) == 12
    assert [t.key for t in load_study(study.path).trials] == [t.key for t in study.trials]
    assert study.trials[0].train.lr == 1e-3


def test_seeds_may_be_a_list(write: Write) -> None:
    assert load_study(write(BASE.replace("seeds: 3", "seeds: [7, 11]"))).seeds == (7, 11)


def test_a_profile_is_laid_over_the_study_key_by_key(write: Write) -> None:
    study = load_study(write(BASE), profile="cifar10")
    assert study.full_name == "position_encoding.cifar10"
    assert study.trials[0].data == DataConfig(name="cifar10", root="data", image_size=32)
    assert study.trials[0].train.epochs == 30
    assert study.trials[0].train.batch_size == 64


def test_set_overrides_the_profile_with_yaml_values(write: Write) -> None:
    study = load_study(
        write(BASE),
        profile="cifar10",
        overrides=[
            "train.epochs=5",
            "data.root=/some/where",
            "seeds=2",
            "factors.cpe=[true]",
            "baseline={crpe: true}",
            "options.mlp_ratio=2",
        ],
    )
    trial = study.trials[0]
    assert (trial.train.epochs, trial.data.root, study.seeds) == (5, "/some/where", (0, 1))
    assert names(study) == ["cpe=true crpe=false", "cpe=true crpe=true"]
    assert study.baseline.name == "cpe=true crpe=true"
    assert "mlp_ratio=2" in trial.arch


@pytest.mark.parametrize("given", ["", "match: {params: 1%}\n", "match: {macs: 5%}\n"])
def test_set_replaces_the_budget_to_match(write: Write, given: str) -> None:
    study = load_study(write(BASE + given), overrides=["match.macs=2%"])
    assert str(study.match) == "macs within 2%"


@pytest.mark.parametrize(
    ("design", "baseline", "expected"),
    [
        ("one_at_a_time", "{cpe: true, crpe: false}", ["TF", "FF", "TT"]),
        ("leave_one_out", "{}", ["TT", "FT", "TF"]),
        ("leave_one_out", "{cpe: true, crpe: true}", ["TT", "FT", "TF"]),
        ("add_one_in", "{cpe: false, crpe: false}", ["FF", "TF", "FT"]),
        ("add_one_in", "{}", ["FF", "TF", "FT"]),
        ("grid", "{}", ["FF", "FT", "TF", "TT"]),
    ],
)
def test_designs(write: Write, design: str, baseline: str, expected: list[str]) -> None:
    study = load_study(write(BASE), overrides=[f"design={design}", f"baseline={baseline}"])
    shown = ["".join(str(level)[0] for level in v.levels.values()) for v in study.variants]
    assert shown == expected
    first = {"grid": "FF"}.get(design, expected[0])
    assert shown[study.baseline_index] == first


def test_rows_are_excluded_and_included(write: Write) -> None:
    text = BASE + "exclude:\n  - {cpe: true, crpe: true}\ninclude:\n  - {crpe: true, cpe: true}\n"
    assert names(load_study(write(text)))[-1] == "cpe=true crpe=true"
    without = load_study(write(BASE), overrides=["exclude=[{cpe: true}]"])
    assert names(without) == ["cpe=false crpe=false", "cpe=false crpe=true"]


def test_an_included_comparison_stands_as_published(write: Write) -> None:
    study = load_study(
        write(BASE + "include:\n  - {model: 'torchvision:resnet18', train.lr: 5e-4}\n")
    )
    row = study.variants[-1]
    assert row.arch == "torchvision:resnet18"
    assert row.is_comparison
    assert row.levels == {"model": "torchvision:resnet18", "train.lr": 5e-4}
    assert row.train.lr == 5e-4


def test_named_levels_change_several_settings_at_once(write: Write) -> None:
    study = load_study(
        write("""\
study: layout
model: coatnet-micro
factors:
  layout:
    C-C-T-T: {}
    C-C-C-T: {layout: C-C-C-T, depths: [2, 2, 3, 2]}
    ViT_rel: {model: vit-rel-micro, train: {lr: 5e-4}, options: {mlp_ratio: 2}}
  data.train_fraction: [0.5, 1.0]
options: {drop_path_rate: 0.1}
""")
    )
    assert names(study) == [
        "C-C-T-T train_fraction=0.5",
        "C-C-T-T train_fraction=1",
        "C-C-C-T train_fraction=0.5",
        "C-C-C-T train_fraction=1",
        "ViT_rel train_fraction=0.5",
        "ViT_rel train_fraction=1",
    ]
    vit = study.variants[4]
    assert vit.levels == {"layout": "ViT_rel", "data.train_fraction": 0.5}
    assert (vit.data.train_fraction, vit.train.lr) == (0.5, 5e-4)
    assert vit.arch == "E1x96:T6x96(stride=1)@drop_path_rate=0.1;mlp_ratio=2;stem_stride=4"
    assert study.variants[2].arch.startswith("S2x16:C2x32-C2x64-C3x96-T2x128")
    assert study.baseline.name == "C-C-T-T train_fraction=0.5"


def test_shapes_are_factors(write: Write) -> None:
    study = load_study(
        write("""\
study: shapes
model: coatnet-micro
factors:
  layout: [C-C-T-T, C-T-T-T]
  depths: [[2, 2, 2, 2], [1, 2, 2, 2]]
""")
    )
    assert names(study) == [
        "C-C-T-T depths=2/2/2/2",
        "C-C-T-T depths=1/2/2/2",
        "C-T-T-T depths=2/2/2/2",
        "C-T-T-T depths=1/2/2/2",
    ]
    assert study.variants[3].arch.startswith("S2x16:C1x32-T2x64-T2x96-T2x128")


def test_the_studys_options_hold_where_a_block_takes_them(write: Write) -> None:
    text = "study: s\noptions: {rel_attn: post}\nfactors: {model: [coatnet-micro, coat-micro]}\n"
    first, second = load_study(write(text)).variants
    assert "rel_attn=post" in first.arch
    assert "rel_attn" not in second.arch


def test_auto_factors_leave_out_a_presets_own_components(write: Write) -> None:
    text = "study: s\nmodel: coat-micro\nfactors: auto\ndesign: leave_one_out\n"
    study = load_study(write(text))
    assert names(study) == [
        "coscale=interp cpe=true crpe=true",
        "coscale=none cpe=true crpe=true",
        "coscale=interp cpe=false crpe=true",
        "coscale=interp cpe=true crpe=false",
    ]
    assert study.baseline.arch == "F1x64-F1x64-F1x64-F1x64|P2@stem_stride=2"
    coatnet = load_study(study.path, overrides=["model=coatnet-micro"])
    assert sorted(coatnet.factors) == ["rel_attn", "se_ratio"]
    added = load_study(study.path, overrides=["design=add_one_in"])
    assert added.baseline.levels == {"coscale": "none", "cpe": False, "crpe": False}


def test_tune_offers_every_candidate(write: Write) -> None:
    study = load_study(write(BASE + "tune: {train.lr: [5.0e-4, 1.0e-3]}\n"))
    found = study.candidates(study.baseline)
    assert [settings for settings, _ in found] == [{"train.lr": 5e-4}, {"train.lr": 1e-3}]
    assert [variant.train.lr for _, variant in found] == [5e-4, 1e-3]


def test_resolved_data_replaces_what_was_asked_for(write: Write) -> None:
    study = load_study(write(BASE))
    asked = study.trials[0].data
    own = asked.model_copy(update={"name": "cifar10-jpeg", "fingerprint": "f" * 8})
    resolved = study.with_data({asked: own}, {"cifar10-jpeg": 10})
    assert resolved.trials[0].data == own
    assert resolved.num_classes(own) == 10
    assert study.trials[0].data == asked


def test_two_folders_with_the_same_images_are_one_variant(write: Write) -> None:
    text = BASE.replace("crpe: [false, true]", "data.root: [a, b]").replace(", crpe: false", "")
    study = load_study(write(text), overrides=["data.name=image_folder"])
    same = {
        trial.data: trial.data.model_copy(update={"name": "x", "fingerprint": "same"})
        for trial in study.trials
    }
    with pytest.raises(StudyError, match=r"'data.root': level b changes nothing against level a"):
        study.with_data(same, {"x": 10})


def test_a_bare_name_is_looked_up_in_studies(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "my_question.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    assert load_study("my_question").name == "position_encoding"
    with pytest.raises(StudyError, match=r"unknown study 'my_qestion' .did you mean 'my_question'"):
        load_study("my_qestion")
    with pytest.raises(StudyError, match=r"no such file; unknown study .*studies/my_question.yaml"):
        load_study("studies/my_quest.yaml")


def test_a_plugin_registers_a_kind_before_the_study_is_read(write: Write, tmp_path: Path) -> None:
    (tmp_path / "own_block_plugin.py").write_text(
        "from ablate.kinds import Kind, register\n"
        "kind = Kind(title='mine', builder='own_block_plugin:Run', defaults={'cpe': True})\n"
        "register('Q', kind)\n"
    )
    path = write(
        "study: s\nmodel: Q2x32-Q2x64\nplugins: [own_block_plugin.py]\n"
        "factors: {cpe: [true, false]}\n"
    )
    code = (
        "from ablate.study.spec import load_study; s = load_study(__import__('sys').argv[1]); "
        "print(s.variants[1].arch, s.plugins[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["Q2x32-Q2x64@cpe=false", str(tmp_path / "own_block_plugin.py")]


def test_reading_a_study_loads_no_torch(write: Write) -> None:
    code = (
        "import sys; from ablate.study.spec import load_study; load_study(sys.argv[1]).trials; "
        "print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write(BASE))], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
