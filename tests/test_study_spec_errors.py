"""Every mistake in a study: one clear message with file, line, value, choices, nearest."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.errors import StudyError
from ablate.study.spec import load_study

BASE = """\
study: s
model: coat-lite-micro
factors:
  cpe: [false, true]
  crpe: [false, true]
baseline: {cpe: false, crpe: false}
data:
  image_size: 32
train:
  epochs: 2
profiles:
  cifar10:
    data: {name: cifar10}
"""

_CPE = "  cpe: [false, true]\n  crpe: [false, true]\nbaseline: {cpe: false, crpe: false}\n"

BAD = [
    # what to replace, with what, the message
    ("study: s", "study: a/b", r":1: study must be letters, digits.*but got \"a/b\""),
    ("study: s\n", "", r": key 'study' is missing"),
    ("model: c", "modle: c", r":2: unknown key 'modle' \(did you mean 'model'\?\); choose from"),
    ("model: coat-lite-micro\n", "", r": key 'model' is missing: a preset such as"),
    ("coat-lite-micro", "coat-lite-mirco", r":2: model: unknown model .*'coat-lite-micro'\?"),
    ("coat-lite-micro", "12", r":2: model must be text, but got 12"),
    ("  epochs: 2", "  epohcs: 2", r":10: in train: unknown key 'epohcs' \(did you mean 'epochs'"),
    ("  epochs: 2", "  epochs: two", r":10: train.epochs must be a whole number, but got \"two\""),
    ("  epochs: 2", "  epochs: true", r":10: train.epochs must be a whole number, but got true"),
    ("  epochs: 2", "  epochs: 0", r":10: train.epochs must be at least 1, but got 0"),
    ("  epochs: 2", "  lr: .inf", r":10: train.lr must be a finite number"),
    ("  epochs: 2", "  optimizer: adam", r":10: train.optimizer: unknown value 'adam'.*'adamw'\?"),
    ("  epochs: 2", "  max_steps: 3", r":9: train: set one of `epochs` and `max_steps`"),
    ("  epochs: 2", "  precision: fp8", r"unknown value 'fp8' .*choose from fp32, bf16, fp16"),
    ("train:\n  epochs: 2", "train: 2", r":9: train must be a mapping of settings, but got 2"),
    ("  image_size: 32", "  train_fraction: 0", r":8: data.train_fraction must be above 0, but"),
    ("  image_size: 32", "  train_fraction: 1.5", r":8: data.train_fraction must be at most 1, bu"),
    ("  image_size: 32", "  imagesize: 32", r":8: in data: unknown key 'imagesize' .*'image_size'"),
    ("  cpe: [", "  cep: [", r":4: unknown factor 'cep' \(did you mean 'cpe'\?\)"),
    ("  cpe: [", "  train.ephocs: [", r":4: unknown factor 'train.ephocs' .*'train.epochs'"),
    ("  cpe: [", "  stride: [", r":4: unknown factor 'stride'"),
    ("  cpe: [false, true]", "  cpe: [false, yes]", r":4: cpe=yes: choose from true, false"),
    ("  cpe: [false, true]", "  cpe: [false, false]", r":4: factor 'cpe' has level false twice"),
    ("  cpe: [false, true]", "  cpe: []", r":4: factor 'cpe' has no levels"),
    ("  cpe: [false, true]", "  cpe: true", r":4: factor 'cpe' needs a list of levels or named"),
    ("  cpe: [false, true]", "  cpe: [{cpe: true}]", r":4: a level with several settings needs a"),
    ("  cpe: [false, true]", "  a: {x: {cep: true}}", r":4: unknown setting 'cep' .*'cpe'\?"),
    ("  cpe: [false, true]", "  a: {x: 3}", r":4: factors.a.x must be a mapping of settings"),
    ("  cpe: [false, true]", "  a: {x: {crpe: true}}", r":5: factors 'a' and 'crpe' both change"),
    ("  cpe: [false, true]", "  cpe: [false, null]", r":4: cpe=null: cpe needs a value, but got n"),
    (_CPE, "  rel_attn: [none, pre]\n", r":4: rel_attn=none: option 'rel_attn' has"),
    (_CPE, "  num_heads: [8, 5]\n", r":4: num_heads=5: width must be divisible by"),
    (_CPE, "  layout: [F-F-F-F, F-F-F-X]\n", r":4: layout=F-F-F-X: unknown kind in"),
    (_CPE, "  depths: [[1, 2]]\n", r":4: depths=1/2: depths needs one part for each"),
    (_CPE, "  data.train_fraction: [0.5, 2]\n", r":4: data.train_fraction must be a"),
    (_CPE, "  crpe: [false, true]\n  model: ['torchvision:resnet18', coat-micro]\n",
     r":4: torchvision:resnet18 is no arch of ours and takes no options, but got crpe=false"),
    ("{cpe: false, c", "{cep: false, c", r":6: in baseline: unknown factor 'cep' .*'cpe'\?"),
    ("{cpe: false, c", "{cpe: 1, c", r":6: unknown level of factor 'cpe': '1'; choose from false,"),
    ("baseline: {cpe: false, crpe: false}", "baseline: cpe", r":6: baseline must be a mapping, bu"),
    ("baseline:", "design: gird\nbaseline:", r":6: design: unknown value 'gird' .*'grid'\?"),
    ("baseline:", "design: search\nbaseline:", r":3: design search takes no factors"),
    ("baseline:", "design: leave_one_out\nbaseline:", r"leave_one_out starts from the complete.*c"),
    ("baseline: {cpe: false, crpe: false}", "design: add_one_in\nbaseline: {cpe: true}",
     r"add_one_in starts without the components, but the baseline has cpe=true"),
    ("baseline:", "exclude: [{cpe: false}]\nbaseline:", r":6: the baseline is excluded"),
    ("baseline:", "exclude: [{}]\nbaseline:", r":6: exclude: no variant has {}"),
    ("baseline:", "exclude: [{cpe: 3}]\nbaseline:", r":6: unknown level of factor 'cpe': '3'"),
    ("baseline:", "exclude: {cpe: true}\nbaseline:", r":6: exclude must be a list, but got"),
    ("baseline:", "include: [{cpe: true}]\nbaseline:", r":6: include: the design has .* already"),
    ("baseline:", "include: [{cep: true}]\nbaseline:", r":6: in include: unknown factor 'cep'"),
    ("baseline:", "seeds: 0\nbaseline:", r":6: seeds must be a number of at least 1 or a list"),
    ("baseline:", "seeds: [1, 1]\nbaseline:", r":6: seeds must differ, but got \[1, 1\]"),
    ("baseline:", "seeds: true\nbaseline:", r":6: seeds must be a number of at least 1 or a list"),
    ("baseline:", "alpha: 1\nbaseline:", r":6: alpha must be below 1, but got 1"),
    ("baseline:", "sd: 0\nbaseline:", r":6: sd must be above 0, but got 0"),
    ("baseline:", "variances: equal\nbaseline:", r":6: variances: unknown value 'equal'.*pooled"),
    ("baseline:", "match: {parms: 1%}\nbaseline:", r":6: unknown budget 'parms' .*'params'\?"),
    ("baseline:", "match: {params: 0}\nbaseline:", r":6: match.params needs a tolerance above 0%"),
    ("baseline:", "match: {params: 120%}\nbaseline:", r":6: match.params needs a tolerance above"),
    ("baseline:", "match: {params: 1%, macs: 1%}\nbaseline:", r":6: match takes one budget, but g"),
    ("baseline:", "tune: {train.rl: [1]}\nbaseline:", r":6: in tune: unknown setting 'train.rl'"),
    ("baseline:", "tune: {train.lr: [0]}\nbaseline:", r":6: train.lr must be above 0, but got 0"),
    ("baseline:", "tune: {train.lr: []}\nbaseline:", r":6: in tune: train.lr needs a list of cand"),
    ("  image_size: 32", "  val_fraction: 0\ntune: {train.lr: [1]}", r"tune chooses on the valid"),
    ("baseline:", "options: {cep: true}\nbaseline:", r":6: unknown setting 'cep' .*'cpe'\?"),
    ("baseline:", "options: {norm: bn}\nbaseline:", r":6: option 'norm' has no block in any varia"),
    ("baseline:", "options: {train.lr: 1}\nbaseline:", r":6: 'train.lr' is no option of an arch"),
    ("baseline:", "plugins: [no_such_module_xyz]\nbaseline:", r"plugin 'no_such_module_xyz' canno"),
    ("baseline:", "plugins: nothing\nbaseline:", r":6: plugins must be a list, but got"),
    ("{name: cifar10}", "{nmae: cifar10}", r":13: in profiles.cifar10.data: unknown key 'nmae'"),
    ("{name: cifar10}", "{val_fraction: 1}", r":13: data.val_fraction must be below 1, but got 1"),
    ("    data: {name", "    dta: {name", r":13: in profiles.cifar10: unknown key 'dta' .*'data'"),
    (_CPE, "", r":3: the study has no variants: give `factors:` with levels"),
    ("study: s", "study: s: t", r":1:9: not valid YAML: mapping values are not allowed"),
    ("study: s", "study: s\nstudy: t", r":2:1: not valid YAML: found duplicate key \"study\""),
    ("study: s", "study: [s", r":\d+:\d+: not valid YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[bad[1][:40] for bad in BAD])
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    assert old in BASE
    path.write_text(BASE.replace(old, new, 1))
    with pytest.raises(StudyError, match=message) as caught:
        load_study(path)
    assert "study.yaml" in str(caught.value) or "plugin" in message


def test_the_study_without_a_mistake_is_read(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(BASE)
    assert len(load_study(path).variants) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=5", r"--set epochs=5: unknown key 'epochs' \(did you mean 'train.epochs'\?\)"),
        ("train.epohcs=5", r"--set train.epohcs=5: in train: unknown key 'epohcs' .*'epochs'\?"),
        ("train.epochs=x", r"--set train.epochs=x: train.epochs must be a whole number, but got"),
        ("train.epochs", r"--set train.epochs: must be key=value"),
        ("train.=5", r"--set train.=5: a key must follow 'train.'"),
        ("cpe=true", r"unknown key 'cpe' \(did you mean 'options.cpe'\?\)"),
        ("options.cep=true", r"--set options.cep=true: unknown setting 'cep' .*'cpe'"),
        ("factors.cep=[true]", r"--set .*: unknown factor 'cep' .*'cpe'"),
        ("baseline.cep=true", r"--set .*: unknown factor 'cep' .*'cpe'"),
        ("factors.cpe=[1, 2", r"--set factors.cpe=\[1, 2:1:\d+: not valid YAML"),
        ("profiles.cifar10=3", r"--set .*: unknown key 'profiles.cifar10'"),
        ("seeds.x=3", r"--set seeds.x=3: seeds has no keys inside"),
        ("data.image_size=4", r"image size 4 is too small: stage 3 has stride 2 on a map of 1x1"),
    ],
)
def test_a_wrong_override_is_told(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(BASE)
    with pytest.raises(StudyError, match=message):
        load_study(path, overrides=[override])


def test_an_unknown_profile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(BASE)
    with pytest.raises(StudyError, match=r":11: unknown profile 'cifar01' .did you mean 'cifar10'"):
        load_study(path, profile="cifar01")


def test_several_mistakes_are_told_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("study: s\nmodle: x\ntrain: {epohcs: 1}\nseedz: 3\n")
    with pytest.raises(StudyError) as caught:
        load_study(path)
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(str(path)).split(":")[1] for line in lines] == ["2", "3", "4"]


def test_a_level_that_changes_nothing_names_both_levels(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = "study: s\nmodel: coat-lite-micro\nfactors:\n  crpe_windows: [3/5/7, 3:2/5:3/7:3]\n"
    path.write_text(text)
    with pytest.raises(
        StudyError, match=r":4: factor 'crpe_windows': level 3:2/5:3/7:3 changes no"
    ):
        load_study(path)
    path.write_text(text.replace("3:2/5:3/7:3", "3:4/5:2/7:2"))
    assert len(load_study(path).variants) == 2


def test_a_level_without_effect_in_one_row_asks_for_its_exclusion(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = (
        "study: s\nmodel: coat-lite-micro\nfactors:\n"
        "  crpe: [true, false]\n  crpe_windows: [3/5/7, 5]\n"
    )
    path.write_text(text)
    with pytest.raises(StudyError, match=r"changes nothing against .* where crpe=false.*exclude"):
        load_study(path)
    path.write_text(text + 'exclude: [{crpe: false, crpe_windows: "5"}]\n')
    with pytest.raises(StudyError, match="unknown level of factor 'crpe_windows': '5'"):
        load_study(path)
    path.write_text(text + "exclude: [{crpe: false, crpe_windows: 5}]\n")
    assert len(load_study(path).variants) == 3


def test_execution_settings_are_no_factor(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("study: s\nmodel: coat-micro\nfactors: {data.workers: [0, 2]}\n")
    with pytest.raises(
        StudyError, match=r"'data.workers': level 2 changes nothing against level 0"
    ):
        load_study(path)


@pytest.mark.parametrize(
    ("factor", "place"),
    [
        ("cpe: [true, false]", "F blocks of stage 4 would see 1 token"),
        ("crpe: [true, false]", "F blocks of stage 4 would see 1 token"),
        ("mlp_ratio: [2, 4]", ""),
        ("cpe: [true, false]\noptions: {stem_stride: 2}", ""),
        ("cpe: [true, false]\ndata: {image_size: 64}", ""),
    ],
)
def test_a_factor_needs_blocks_with_four_tokens(tmp_path: Path, factor: str, place: str) -> None:
    """At 32 pixels the default strides leave one token in the last stage."""
    path = tmp_path / "study.yaml"
    path.write_text(f"study: s\nmodel: coat-lite-tiny\nfactors:\n  {factor}\n")
    if place:
        with pytest.raises(StudyError, match=f":4: factor .*{place}.*at least 4.*stem_stride"):
            load_study(path)
    else:
        assert len(load_study(path).variants) == 2


def test_a_layout_needs_attention_blocks_with_four_tokens(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = "study: s\nmodel: coatnet-0\nfactors: {layout: [C-C-C-C, C-C-T-T]}\n"
    path.write_text(text)
    with pytest.raises(StudyError, match="T blocks of stage 4 would see 1 token at image size 32"):
        load_study(path)
    path.write_text(text + "options: {stem_stride: 1}\n")
    assert len(load_study(path).variants) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"- a\n- b\n", ":1: a study is a mapping"),
        (b"study: \xff\n", "is not UTF-8 text"),
        (b"a: *a\n", ":1:4: not valid YAML: found undefined alias 'a'"),
        (b"? [1, 2]\n: 3\n", "but got CommentedKeySeq"),
        (b"study: s\n---\nstudy: t\n", "not valid YAML: but found another document"),
        (b"a: !!python/object:os.system x\n", ":1: a study holds numbers, texts"),
    ],
)
def test_what_is_no_study_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=message):
        load_study(path)


def test_a_folder_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is a folder; a study is a YAML file"):
        load_study(tmp_path)
