"""The real command, killed at seeded moments and resumed, ends bit for bit like one that was not.

The sweep over many more moments is `benchmarks/kill_sweep.py`; its figures are in
docs/reliability.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_a_study_that_was_killed_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from kill_sweep import sweep

    tally = sweep(tmp_path, kills=3, seed=3, executor="serial", deadliness=1.0)
    assert tally.failures == []
    assert tally.differing == 0
    assert tally.left_over == 0
    assert len(tally.kills) > 1, "the seed is to meet several kinds of moments"
