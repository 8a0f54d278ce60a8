"""Killed at any moment and resumed, a run ends bit for bit like one that was not.

Real processes are killed (SIGKILL): inside every fsync and rename of a run, and at random moments.
They are forked from a server that has torch loaded, so that each takes under a second.
"""

import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from ablate.config import DataConfig, TrainConfig, TrialConfig
from ablate.errors import ResultsError
from ablate.training import Interrupted, fit
from ablate.training.checkpoint import newest

SERVER = multiprocessing.get_context("forkserver")
LOADED = ["ablate.training.session", "ablate.models.factory", "sklearn.datasets"]
SERVER.set_forkserver_preload(LOADED)

# BatchNorm buffers, drop path, EMA and a schedule: everything that a checkpoint has to carry.
TRIAL = TrialConfig(
    arch="S1x8:C1x8-C1x16-T1x16(head_dim=8)@drop_path_rate=0.2;stem_stride=2",
    data=DataConfig(name="digits-canvas", train_fraction=0.5, eval_subset=64),
    train=TrainConfig(epochs=3, batch_size=32, lr=1e-2, ema_decay=0.8, warmup_epochs=1),
)


def train(folder, kill_at=None):
    """Train in this process, which kills itself inside its `kill_at`-th fsync or rename."""
    calls = 0

    def deadly(function, before):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == kill_at and before:
                os.kill(os.getpid(), signal.SIGKILL)
            function(*arguments)
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        return call

    # Even calls die before the work is done, odd ones right after it.
    before = kill_at is not None and kill_at % 2 == 0
    os.fsync, os.replace = deadly(os.fsync, before), deadly(os.replace, before)
    fit(TRIAL, folder, device="cpu", threads=1)
    (folder / "calls").write_text(str(calls))


def run(folder, kill_at=None, kill_after=None):
    """Train in a process of its own; returns its exit code."""
    process = SERVER.Process(target=train, args=(folder, kill_at))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(folder) == 0
    return folder


def assert_same(found, expected, where="checkpoint"):
    """Equal to the last bit, whatever the nesting."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            assert_same(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for index, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert found == expected, where


def assert_same_end(folder, reference):
    for name in ("metrics.csv", "predictions.npz"):
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), name
    found, expected = newest(folder).content, newest(reference).content
    for content in (found, expected):
        for time in ("timing", "train_seconds"):
            content["callbacks"]["ablate"].pop(time)
    assert_same(found, expected)


def calls_of(folder):
    return int((folder / "calls").read_text())


def test_two_runs_of_one_trial_are_bit_identical(tmp_path, reference):
    assert run(tmp_path) == 0
    assert_same_end(tmp_path, reference)


def test_killed_while_it_saves_it_ends_the_same(tmp_path, reference):
    kill_at = random.Random(0).randrange(3, calls_of(reference))
    assert run(tmp_path, kill_at) == -signal.SIGKILL
    assert run(tmp_path) == 0
    assert_same_end(tmp_path, reference)


@pytest.mark.slow
def test_killed_inside_every_fsync_and_rename_it_ends_the_same(tmp_path, reference):
    calls = calls_of(reference)
    assert calls > 25
    # Two calls open the run, each of three epochs saves by eight, the rest close it; the second
    # epoch stands for all.
    for kill_at in [1, *range(11, 19), *range(27, calls + 1)]:
        folder = tmp_path / str(kill_at)
        assert run(folder, kill_at) == -signal.SIGKILL
        assert run(folder) == 0
        assert_same_end(folder, reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again_at_random_moments_it_ends_the_same(tmp_path, reference, seed):
    moments = random.Random(seed)
    kills = 0
    # The moments come later and later, so that it ends on a machine of any speed.
    while run(tmp_path, kill_after=moments.uniform(0.05, 0.3) * 1.2**kills) != 0:
        kills += 1
    assert kills > 2
    assert_same_end(tmp_path, reference)


def stopped_after(folder, epochs):
    seen = []
    with pytest.raises(Interrupted, match=f"stopped after epoch {epochs}, which is saved"):
        fit(TRIAL, folder, threads=1, on_epoch=seen.append, should_stop=lambda: len(seen) == epochs)


def test_a_torn_checkpoint_costs_one_epoch_and_cuts_the_rows_back(tmp_path, reference):
    stopped_after(tmp_path, 2)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
    os.truncate(newest(tmp_path).path, 1000)
    seen = []
    fit(TRIAL, tmp_path, threads=1, on_epoch=lambda row: seen.append(row["epoch"]))
    assert seen == [2, 3]
    assert_same_end(tmp_path, reference)


def test_without_a_whole_checkpoint_it_starts_anew(tmp_path, reference):
    stopped_after(tmp_path, 1)
    os.truncate(newest(tmp_path).path, 1000)
    fit(TRIAL, tmp_path, threads=1)
    assert_same_end(tmp_path, reference)


def test_a_finished_run_trains_nothing_and_measures_the_same(tmp_path, reference):
    first = fit(TRIAL, tmp_path, threads=1)
    (tmp_path / "predictions.npz").unlink()
    seen = []
    again = fit(TRIAL, tmp_path, threads=1, on_epoch=seen.append)
    assert not seen
    clocks = {"seconds"}
    assert again.model_dump(exclude=clocks) == first.model_dump(exclude=clocks)
    assert_same_end(tmp_path, reference)


def test_another_trial_s_checkpoint_is_refused(tmp_path):
    stopped_after(tmp_path, 1)
    other = TRIAL.model_copy(update={"seed": 1})
    with pytest.raises(ResultsError, match=f"belongs to trial {TRIAL.key[:12]}, but this is"):
        fit(other, tmp_path, threads=1)


def test_another_seed_is_another_run(tmp_path, reference):
    fit(TRIAL.model_copy(update={"seed": 1}), tmp_path, threads=1)
    assert (tmp_path / "metrics.csv").read_bytes() != (reference / "metrics.csv").read_bytes()


def test_temporary_files_of_a_killed_save_are_gone_at_the_end(tmp_path, reference):
    leftover = tmp_path / ".checkpoint-a.pt.tmp"
    leftover.write_bytes(b"torn")
    fit(TRIAL, tmp_path, threads=1)
    assert not list(Path(tmp_path).glob(".*"))
