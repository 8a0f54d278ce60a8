"""Mistakes in a search are told with their place, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_examples import search_settings, write_search

from ablate.errors import StudyError
from ablate.study.engine import run
from ablate.study.spec import load_study

BAD = [
    ("sampler: tpe", "sampler: tep", r":13: search.sampler: unknown value 'tep' .*'tpe'\?"),
    ("trials: 6", "trails: 6", r"in search: unknown key 'trails' .*'trials'\?"),
    ("trials: 6", "trials: 0", "search.trials must be a whole number of at least 1, but got 0"),
    ("trials: 6", "objectives: [top1]", "unknown objective 'top1'.*test is never searched on"),
    ("trials: 6", "objectives: [macs]", "must differ and begin with val_top1 or val_loss"),
    ("trials: 6", "constraints: {param: 1k}", "unknown cost 'param' .*'params'"),
    ("trials: 6", "constraints: {params: small}", "must be a bound such as 800k, <=60M"),
    ("trials: 6", "constraints: {params: 2k..1k}", "must be a bound such as 800k, <=60M"),
    ("trials: 6", "storage: search.db", "must be an Optuna URL such as sqlite:///search.db"),
    ("val_fraction: 0.1", "val_fraction: 0", "chooses on the validation split: set data.val_frac"),
    ("design: search", "design: search\nseeds: 2", r"trains each network with one seed, but got"),
    ("design: search", "design: search\nfactors: {cpe: [true]}", "design search takes no factors"),
    (
        "design: search",
        "design: grid",
        "space needs `design: search`|search needs `design: search`, but got 'grid'",
    ),
    ("stage2.kind: [C, T]", "stage2.kind: [C, X]", r":6: space: stage2.kind: unknown kind 'X'"),
    ("stage2.kind: [C, T]", "stage9.kind: [C, T]", "in space: unknown stage 'stage9'"),
    ("stage2.kind: [C, T]", "stage2.knid: [C, T]", "unknown dimension 'stage2.knid' .*stage2.kind"),
    ("stage2.kind: [C, T]", "stage2.kind: C", "stage2.kind needs a list of values or a range"),
    ("stage2.kind: [C, T]", "stage2.kind: [C, C]", "stage2.kind has a value twice"),
    ("{low: 1, high: 3}", "{low: 3, high: 1}", "stage3.depth needs numbers low < high"),
    ("{low: 1, high: 3}", "{low: 1, hihg: 3}", "in space.stage3.depth: unknown key 'hihg'"),
    ("{low: 1, high: 3}", "{low: 0, high: 3}", "stage3.depth needs whole numbers of at least 1"),
    ("{stage4.kind: T}", "{stage5.kind: T}", "unknown dimension above it: 'stage5.kind'"),
    ("{stage4.kind: T}", "{stage4.kind: F}", "unknown value of stage4.kind: 'F'"),
    ("expand_ratio: [2, 4]", "expand_ratio: [0]", "expand_ratio=0"),
    ("expand_ratio: [2, 4]", "cpe: [true]", "space: cpe is taken by no block of any network"),
    ("expand_ratio: [2, 4]", "train.lr: [0]", "train.lr must be above 0, but got 0"),
    ("expand_ratio: [2, 4]", "train.rl: [1]", "unknown dimension 'train.rl' .*'train.lr'"),
    ("expand_ratio: [2, 4]", "layout: [C-C-T-T]", "layout and stageN.kind say the same"),
    ("options: {head_dim: 8}", "options: {cpe: true}", "option 'cpe' has no block in any variant"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new for _, new, _ in BAD])
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(write_search(tmp_path, "tpe", old, new))


def test_a_storage_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    from ablate.errors import ResultsError

    url = f"sqlite:///{tmp_path}/no/such/folder/search.db"
    path = write_search(tmp_path, "tpe", "trials: 6", f"trials: 6, storage: '{url}'")
    with pytest.raises(ResultsError, match=r"search\.storage sqlite:.* does not answer"):
        run(load_study(path), search_settings(tmp_path))
    from ablate.study.search_database import without_password

    assert without_password("postgresql://me:secret@host/db") == "postgresql://host/db"
