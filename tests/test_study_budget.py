"""`match:` resizes every variant to the baseline's budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.cost import profile
from ablate.errors import StudyError
from ablate.study.plan import plan
from ablate.study.plan_table import plan_columns, plan_rows
from ablate.study.spec import Study, load_study

STUDY = """\
study: matched
model: F1x64-F2x128@stem_stride=2
factors:
  mlp_ratio: [4, 6, 8]
match: {params: 2%}
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return load_study(path)


def test_every_variant_has_the_baselines_params_within_the_tolerance(study: Study) -> None:
    costs = [profile(v.arch, image_size=32, num_classes=10).params for v in study.variants]
    assert all(abs(cost - costs[0]) <= 0.02 * costs[0] for cost in costs)
    raw = [profile(v.raw_arch, image_size=32, num_classes=10).params for v in study.variants]
    assert raw[2] > 1.3 * raw[0]
    assert study.baseline.matched == ""
    assert study.baseline.arch == study.raw[0].arch
    assert study.variants[2].matched.startswith("widths 64/128 -> ")
    assert [t.arch for t in study.trials] == [v.arch for v in study.variants]


def test_the_budget_is_that_of_the_datas_classes(study: Study) -> None:
    asked = study.raw[0].data
    hundred = asked.model_copy(update={"name": "hundred", "fingerprint": "0" * 8})
    resolved = study.with_data({asked: hundred}, {"hundred": 100})
    costs = [profile(v.arch, image_size=32, num_classes=100).params for v in resolved.variants]
    assert all(abs(cost - costs[0]) <= 0.02 * costs[0] for cost in costs)


def test_comparison_rows_stand_as_published(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY + "include: [{model: 'torchvision:resnet18'}]\n")
    row = load_study(path).variants[-1]
    assert (row.arch, row.matched) == ("torchvision:resnet18", "")


def test_the_plan_shows_raw_and_matched(study: Study, tmp_path: Path) -> None:
    found = plan(study, runs=tmp_path / "runs", results=tmp_path / "results", probe="none")
    last = found.variants[2]
    assert last.raw_params is not None
    assert last.raw_params > 1.3 * last.params
    assert abs(last.params_change) <= 0.02
    assert not any("params" in text or "widths" in text for text in last.warnings)
    row = dict(zip(plan_columns(found), plan_rows(found)[2], strict=True))
    assert row["before matching"].startswith(f"{last.raw_params:,} params")


def test_resizing_that_undoes_the_factor_is_told(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: s\nmodel: F1x32-F1x64@stem_stride=2\nfactors: {depths: [[1, 1], [2, 2]]}\n"
        "match: {params: 0.5%}\n"
    )
    with pytest.raises(StudyError, match=r"undoes a factor.*level 2/2 changes nothing"):
        load_study(path).variants  # noqa: B018


def test_a_budget_out_of_reach_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("8]", "8.1]").replace("2%", "0.001%"))
    study = load_study(path)
    with pytest.raises(StudyError, match=r"study.yaml: match: variant 'mlp_ratio=.*the nearest is"):
        study.trials  # noqa: B018  (matching happens when the variants are asked for)
