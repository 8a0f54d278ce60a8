"""What a study's data turn out to be, and that another machine finds the same keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_trees import write_tree

import ablate
from ablate.errors import StudyError
from ablate.study.resolution import Resolved, look_up, recorded

STUDY = """
study: roots
model: "C1x8-C1x8@stem_stride=1;drop_path_rate=0"
factors:
  images:
    one: {{data.root: {one}}}
    two: {{data.root: {two}}}
data: {{name: image_folder, image_size: 8, cache: {cache}}}
"""


def study_of(tmp_path: Path, one: Path, two: Path) -> ablate.Study:
    path = tmp_path / "roots.yaml"
    path.write_text(STUDY.format(one=one, two=two, cache=tmp_path / "cache"))
    return ablate.load_study(str(path))


def keys(resolved: Resolved) -> list[str]:
    return [cell.key for cell in resolved.cells]


def test_two_roots_of_one_study_are_recorded_side_by_side(tmp_path: Path) -> None:
    one = write_tree(tmp_path / "one")
    two = write_tree(tmp_path / "two", classes=("cat", "dog", "owl"), train=8)
    study = study_of(tmp_path, one, two)
    found = look_up(study, tmp_path / "runs")
    assert {entry["classes"] for entry in found.record["data"].values()} == {2, 3}
    (tmp_path / "meta.json").write_text(json.dumps(found.record))
    again = recorded(study, tmp_path)
    assert keys(again) == keys(found)
    assert len(set(keys(found))) == len(found.cells)
    assert again.fingerprints == found.fingerprints


def test_one_root_is_recorded_by_name_so_that_it_may_lie_elsewhere(tmp_path: Path) -> None:
    study = ablate.load_study("studies/position_encoding.yaml")
    assert list(look_up(study, tmp_path).record["data"]) == ["digits-canvas"]


def test_two_trees_of_one_name_and_different_images_are_told(tmp_path: Path) -> None:
    one = write_tree(tmp_path / "a" / "pets")
    two = write_tree(tmp_path / "b" / "pets", train=7)
    with pytest.raises(StudyError, match=r"named 'pets'.*different images; rename a folder"):
        look_up(study_of(tmp_path, one, two), tmp_path / "runs")
