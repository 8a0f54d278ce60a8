"""The executors' options: `cluster:` of a study, `--cluster FILE`, options of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.errors import ConfigError, StudyError
from ablate.study.cluster import OPTIONS, model_of, options_for, parse_options, read_cluster
from ablate.study.ray_options import RayOptions
from ablate.study.spec import load_study

STUDY = """\
study: a
model: coat-lite-micro
factors:
  cpe: [false, true]
cluster:
  ray:
    {line}
profiles:
  big:
    cluster:
      ray: {{gpus: 2}}
"""


def study_file(folder: Path, line: str = "gpus: 0.5") -> Path:
    path = folder / "a.yaml"
    path.write_text(STUDY.format(line=line))
    return path


def test_a_study_holds_options_for_each_executor(tmp_path: Path) -> None:
    assert load_study(study_file(tmp_path)).cluster == {"ray": {"gpus": 0.5}}


def test_a_profile_and_the_command_line_change_single_options(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    assert load_study(path, "big", ("cluster.ray.cpus=4",)).cluster == {
        "ray": {"gpus": 2, "cpus": 4}
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gpu: 1", r"a.yaml:7: in cluster.ray: unknown key 'gpu' \(did you mean 'gpus'\?\)"),
        ("gpus: -1", r"a.yaml:7: cluster.ray.gpus must be at least 0, but got -1"),
        ("cpus: many", r"a.yaml:7: cluster.ray.cpus must be a number, but got \"many\""),
        ("cpus: 0", r"a.yaml:7: cluster.ray.cpus must be above 0, but got 0"),
        ("resources: {a100: 0}", r"a.yaml:7: cluster.ray.resources.a100 must be above 0"),
    ],
)
def test_a_wrong_option_is_told_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(study_file(tmp_path, line))


def test_an_executor_without_options_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rai: {gpus: 1}\n")
    with pytest.raises(StudyError, match=r"c.yaml:1: unknown executor with options 'rai' \(did"):
        read_cluster(path)
    path.write_text("ray: 3\n")
    with pytest.raises(StudyError, match=r"c.yaml:1: ray must be a mapping, but got 3"):
        read_cluster(path)


def test_a_file_is_laid_over_the_study_and_the_command_line_over_both(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("ray:\n  gpus: 1\n  address: 'here:1'\n")
    study = {"ray": {"gpus": 0.5, "cpus": 2}}
    file = read_cluster(path)
    assert options_for("ray", study, file) == {"gpus": 1, "cpus": 2, "address": "here:1"}
    assert options_for("ray", study, file, address="there:2")["address"] == "there:2"
    assert options_for("local", study, file, address=None) == {}


def test_an_option_of_another_executor_is_refused() -> None:
    message = "--address is an option of --executor ray, but the executor is 'local'"
    with pytest.raises(ConfigError, match=message):
        options_for("local", {}, address="here:1")


def test_options_given_in_python_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'adress' \(did you mean 'address'\?\)"):
        parse_options(RayOptions, {"adress": "here:1"})
    with pytest.raises(ConfigError, match="options: wait_seconds must be at least 0, but got -1"):
        parse_options(RayOptions, {"wait_seconds": -1})
    assert parse_options(RayOptions, None) == RayOptions()


@pytest.mark.parametrize("executor", OPTIONS)
def test_the_options_of_an_executor_all_have_defaults(executor: str) -> None:
    model_of(executor)()
