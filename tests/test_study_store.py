"""Results as they are read: from run folders, from committed rows, and what contradicts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_fakes import FakeStudy, fake_study, instant, raises

from ablate.config import DataConfig, TrialConfig, TrialResult
from ablate.errors import ResultsError
from ablate.study.audit import check_results
from ablate.study.curves import CURVE_COLUMNS
from ablate.study.engine import run
from ablate.study.folder import RunFolder
from ablate.study.meta import read_meta
from ablate.study.owner import Ownership
from ablate.study.rows import COLUMNS, read_rows, write_rows
from ablate.study.settings import Settings
from ablate.study.status import status
from ablate.study.store import load_curves, load_predictions, load_results


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        runs=tmp_path / "runs", results=tmp_path / "results", executor="serial", fit=instant
    )


def places(settings: Settings) -> dict[str, Path]:
    return {"runs": settings.runs, "results": settings.results}


def predicts(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    np.savez(
        folder / "predictions.npz",
        label=np.arange(300), prediction=np.arange(300)[::-1],
        confidence=np.linspace(0, 1, 300, dtype=np.float32),
    )  # fmt: skip
    return instant(trial, folder, **keywords)


def interrupts(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    from ablate.training.outcomes import Interrupted

    instant(trial, folder, **keywords)
    raise Interrupted(2)


def test_every_trial_has_a_row_whatever_became_of_it(settings: Settings) -> None:
    run(fake_study(2, 2), replace(settings, fit=raises))
    rows = load_results(fake_study(2, 3), **places(settings))
    assert tuple(rows.columns) == COLUMNS
    assert rows["key"].is_monotonic_increasing
    assert rows["status"].value_counts().to_dict() == {"done": 2, "failed": 2, "missing": 2}
    assert rows["variant"].iloc[0] in ({"level": 0}, {"level": 1})
    failed = rows[rows["status"] == "failed"].iloc[0]
    assert failed["failure"] == "error"
    assert failed["failure_message"].startswith("KeyError: ")


def test_run_folders_and_committed_rows_read_the_same(settings: Settings, tmp_path: Path) -> None:
    study = fake_study()
    run(study, settings)
    from_runs = load_results(study, runs=settings.runs, results=tmp_path / "none")
    from_rows = load_results(study, runs=tmp_path / "none", results=settings.results)
    by_name = load_results("fake", results=settings.results)
    by_path = load_results(settings.results / "fake", results=tmp_path / "none")
    for other in (from_rows, by_name, by_path):
        assert from_runs.equals(other)
        assert (from_runs.dtypes == other.dtypes).all()


def test_a_later_result_of_a_run_folder_stands_before_a_committed_row(settings: Settings) -> None:
    study = fake_study(1, 1)
    run(study, settings)
    folder = RunFolder(settings.runs / study.raw[0].trials[0].key)
    result = folder.result()
    assert result is not None
    later = time.time() + 5
    folder.write_result(result.model_copy(update={"top1": 12.5}))
    os.utime(folder.path / "result.json", (later, later))
    assert load_results(study, **places(settings))["top1"].tolist() == [12.5]
    os.utime(folder.path / "result.json", (1, 1))
    assert load_results(study, **places(settings))["top1"].tolist() == [result.top1]


def test_results_that_are_not_there_are_told_with_those_that_are(settings: Settings) -> None:
    run(fake_study(), settings)
    with pytest.raises(ResultsError, match=r"unknown results 'fke' \(did you mean 'fake'\?\)"):
        load_results("fke", results=settings.results)


def test_reading_results_loads_no_torch(settings: Settings) -> None:
    run(fake_study(), settings)
    code = (
        "import sys; from ablate.study.store import load_results, load_curves; "
        "from ablate.study import status, audit; "
        f"load_results('fake', {str(settings.results)!r}); "
        f"load_curves('fake', {str(settings.results)!r}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_curves_have_a_row_an_epoch(settings: Settings) -> None:
    study = fake_study()
    run(study, settings)
    curves = load_curves(study, **places(settings))
    assert tuple(curves.columns) == CURVE_COLUMNS
    assert len(curves) == 8
    assert curves["epoch"].tolist() == [1, 2] * 4
    assert curves["val_top1"].isna().all()
    assert curves.equals(load_curves("fake", results=settings.results))


def test_a_torn_line_of_metrics_is_left_out(settings: Settings) -> None:
    study = fake_study(1, 1)
    run(study, settings)
    metrics = settings.runs / study.raw[0].trials[0].key / "metrics.csv"
    metrics.write_text(metrics.read_text() + "3,2.0,1.")
    assert load_curves(study, **places(settings))["epoch"].tolist() == [1, 2]


def test_predictions_travel_in_a_compact_file_a_trial(settings: Settings, tmp_path: Path) -> None:
    study = fake_study(1, 1)
    run(study, replace(settings, fit=predicts))
    key = study.raw[0].trials[0].key
    here = load_predictions(key, **places(settings))
    travelled = load_predictions(key, runs=tmp_path / "none", results=settings.results)
    assert travelled["label"].dtype == np.uint16
    np.testing.assert_array_equal(here["prediction"], travelled["prediction"])
    np.testing.assert_allclose(here["confidence"], travelled["confidence"], atol=1e-3)
    with pytest.raises(ResultsError, match="no predictions of 0000"):
        load_predictions("0000", **places(settings))


def test_rows_that_a_study_no_longer_asks_for_are_kept_aside(settings: Settings) -> None:
    """A quick try with another setting loses nothing, and mixes nothing."""
    run(fake_study(epochs=20), settings)
    before = (settings.results / "fake" / "trials.csv").read_bytes()
    run(fake_study(epochs=1), settings)
    assert set(load_results("fake", results=settings.results)["epochs"]) == {1}
    elsewhere = replace(settings, runs=settings.runs / "none")
    assert run(fake_study(epochs=20), elsewhere).trained == 0
    assert (settings.results / "fake" / "trials.csv").read_bytes() == before


def test_meta_says_what_the_results_were_made_with(settings: Settings) -> None:
    run(fake_study(), settings)
    meta = read_meta(settings.results / "fake")
    assert meta["study"] == "fake"
    assert meta["devices"] == ["cpu"]
    assert {"commit", "dirty", "study_hash", "versions", "date", "code", "data"} <= meta.keys()


def test_two_metas_in_one_by_a_union_merge_are_still_read(settings: Settings) -> None:
    run(fake_study(), settings)
    path = settings.results / "fake" / "meta.json"
    lines = path.read_text().splitlines()
    other = [line.replace('"date": "', '"date": "1') for line in lines[1:-2]]
    path.write_text("\n".join([lines[0], *lines[1:-2], *other, *lines[-2:]]))
    assert read_meta(path.parent)["date"].startswith("12")


# Where a study stands.


def test_status_tells_the_state_of_every_trial(settings: Settings) -> None:
    study = fake_study(1, 4)
    trials = study.raw[0].trials
    some = replace(study, raw=(replace(study.raw[0], seeds=(0, 1)),))
    run(some, replace(settings, fit=raises))
    begun = RunFolder(settings.runs / trials[2].key)
    begun.path.mkdir()
    with Ownership(begun.path):
        instant(trials[2], begun.path)
        found = status(study, **places(settings))
    assert [trial.status for trial in found.trials] == ["failed", "done", "running", "missing"]
    assert found.counts == {"done": 1, "running": 1, "started": 0, "failed": 1, "missing": 1}
    assert found.failures == {"error": 1}
    failed, _, running, _ = found.trials
    assert failed.message is not None
    assert failed.message.startswith("KeyError")
    assert running.owner is not None
    assert running.epoch == 2
    assert status(study, **places(settings)).counts["started"] == 1


def test_status_shows_what_changed_under_a_finished_trial(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = fake_study(1, 1)
    run(study, settings)
    assert status(study, **places(settings)).stale == 0
    folder = RunFolder(settings.runs / study.raw[0].trials[0].key)
    changed = {**folder.environment()["code"], "training": "changed"}
    monkeypatch.setattr("ablate.study.status.code", lambda plugins: changed)
    (trial,) = status(study, **places(settings)).trials
    assert (trial.status, trial.stale) == ("done", ("code: training",))
    (trial,) = status(study, runs=tmp_path / "none", results=settings.results).trials
    assert trial.stale[0].startswith("code: since commit ")


def test_status_shows_changed_images(settings: Settings) -> None:
    study = fake_study(1, 1)
    run(study, settings)
    path = settings.results / "fake" / "trials.csv"
    write_rows(path, [{**row, "fingerprint": "0" * 64} for row in read_rows(path)])
    (trial,) = status(study, **places(settings)).trials
    assert trial.stale[0].startswith("data: fingerprint 000000000000 is now ")


def test_status_tells_unknown_and_damaged_files(settings: Settings) -> None:
    study = fake_study(1, 1)
    run(study, replace(settings, fit=interrupts))
    folder = RunFolder(settings.runs / study.raw[0].trials[0].key)
    (folder.path / "notes.md").write_text("mine")
    (folder.path / "failure.json").write_text("[]")
    complaints = status(study, **places(settings)).complaints
    assert complaints[0].startswith(f"damaged {folder.path / 'failure.json'}: ")
    assert complaints[1] == f"unknown file {folder.path / 'notes.md'}"
    assert (folder.path / "notes.md").exists()


def test_a_study_of_a_folder_of_images_is_read_without_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys hash the images' fingerprint, which `meta.json` remembers."""
    from ablate.data import DatasetInfo

    study = fake_study(1, 1)
    asked = DataConfig(name="folder", root="images")
    study = replace(study, raw=(replace(study.raw[0], data=asked),))

    def resolve(data: DataConfig) -> tuple[DataConfig, DatasetInfo]:
        found = data.model_copy(update={"name": "pets", "fingerprint": "f" * 64})
        info = DatasetInfo(
            name="pets", num_classes=3, class_names=("a", "b", "c"), train_images=9, val_images=3,
            test_images=3, fingerprint="f" * 64, image_shape=(3, 32, 32),
        )  # fmt: skip
        return found, info

    with monkeypatch.context() as patched:
        patched.setattr("ablate.data.resolve", resolve)
        run(study, settings)
    assert status(study, **places(settings)).counts["done"] == 1
    rows = load_results(study, **places(settings))
    assert rows["dataset"].tolist() == ["pets"]


# Contradictions.


@pytest.fixture
def checked(settings: Settings) -> tuple[FakeStudy, Path, Settings]:
    study = fake_study()
    run(study, settings)
    return study, settings.results / "fake" / "trials.csv", settings


def kinds(study: FakeStudy, settings: Settings) -> list[str]:
    return [found.kind for found in check_results(study, **places(settings))]


def test_results_of_one_run_contradict_nothing(
    checked: tuple[FakeStudy, Path, Settings],
) -> None:
    study, _, settings = checked
    assert kinds(study, settings) == []


def test_one_key_with_two_numbers_is_found(
    checked: tuple[FakeStudy, Path, Settings],
) -> None:
    study, path, settings = checked
    rows = read_rows(path)
    write_rows(path, [{**rows[0], "top1": 12.5, "device": "cuda"}, *rows[1:]])
    (found,) = check_results(study, **places(settings))
    assert found.kind == "numbers"
    assert f"{rows[0]['key'][:12]}: top1=12.5 in {path} (cuda, commit " in found.message


def test_the_time_that_a_trial_took_is_no_contradiction(
    checked: tuple[FakeStudy, Path, Settings],
) -> None:
    study, path, settings = checked
    write_rows(path, [{**row, "seconds": 7.0, "device": "cuda"} for row in read_rows(path)])
    assert kinds(study, settings) == []


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"variant_name": "level=9"}, "variant", "variant 'level=9' is not in the study"),
        ({"key": "0" * 64}, "key", "is no trial of the study: its key is "),
        ({"key": "0" * 64, "seed": 77}, "key", "the study has no such seed"),
        ({"arch": "other"}, "key", "arch=other of .* should be fake"),
        ({"variant": {"level": 8}}, "key", r"variant=\{'level': 8\} of .* should be"),
        ({"top1": 101.0}, "range", "top1=101.0 of .* is no percentage"),
        ({"top1": None}, "range", "top1=nan of .* is no percentage"),
        ({"study": "another"}, "study", "says it belongs to 'another'"),
    ],
    ids=str,
)
def test_a_row_that_fits_no_trial_is_found(
    checked: tuple[FakeStudy, Path, Settings], change: dict[str, Any], kind: str, message: str
) -> None:
    study, path, settings = checked
    rows = read_rows(path)
    write_rows(path, [{**rows[0], **change}, *rows[1:]])
    found = check_results(study, runs=settings.runs / "none", results=settings.results)
    assert kind in [one.kind for one in found]
    (told,) = [one.message for one in found if one.kind == kind]
    assert re.search(message, told)


def test_a_damaged_file_is_found_and_the_others_are_still_checked(
    checked: tuple[FakeStudy, Path, Settings],
) -> None:
    study, path, settings = checked
    run(fake_study(name="two"), settings)
    path.write_text(path.read_text() + "torn\n")
    curves = settings.results / "two" / "curves.csv"
    lines = curves.read_text().splitlines()
    curves.write_text("\n".join([*lines, lines[-1].replace("2.0", "9.0")]) + "\n")
    assert kinds(study, settings) == ["damaged", "curve"]


def test_two_different_failures_of_one_key_are_no_contradiction(settings: Settings) -> None:
    run(fake_study(), replace(settings, fit=raises))
    path = settings.results / "fake" / "trials.csv"
    rows = read_rows(path)
    other = [{**row, "failure_message": "another"} for row in rows if row["status"] == "failed"]
    write_rows(path, [*rows, *other])
    assert kinds(fake_study(), settings) == []
