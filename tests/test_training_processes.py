"""One trial in two processes (DDP over gloo) against one process on the same global batch."""

import numpy as np
import pytest
import torch

from ablate.config import DataConfig, TrainConfig, TrialConfig
from ablate.training import Diverged, Interrupted, fit
from ablate.training.checkpoint import newest

pytestmark = pytest.mark.slow

# No BatchNorm, whose statistics each process takes of its own share. SGD: Adam's first steps
# follow the sign of a gradient, where rounding can decide.
DATA = DataConfig(name="digits-canvas", train_fraction=0.4, eval_subset=100)
RECIPE = {"epochs": 2, "batch_size": 32, "optimizer": "sgd", "lr": 0.05}


def trial(**recipe):
    train = TrainConfig(**{**RECIPE, **recipe})
    return TrialConfig(arch="E1x16:T2x16(head_dim=8)@stem_stride=8", data=DATA, train=train)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The run of two processes: its folder, its result and the rows that it told."""
    folder, told = tmp_path_factory.mktemp("both"), []
    result = fit(trial(devices=2), folder, device="cpu", threads=2, on_epoch=told.append)
    return folder, result, told


def test_two_processes_train_as_one(tmp_path, both):
    folder, result, told = both
    alone = fit(trial(), tmp_path, device="cpu", threads=1)
    assert result.key == alone.key
    found, expected = (newest(path).content["state_dict"] for path in (folder, tmp_path))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    for metric in ("train_loss", "val_loss", "test_loss"):
        assert getattr(result, metric) == pytest.approx(getattr(alone, metric), rel=1e-4), metric
    assert [row["epoch"] for row in told] == [1, 2]
    assert result.steps == alone.steps
    with (
        np.load(folder / "predictions.npz") as found,
        np.load(tmp_path / "predictions.npz") as expected,
    ):
        assert (found["label"] == expected["label"]).all()
        np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-4)


def test_two_processes_stop_when_asked_and_resume_to_the_same_end(tmp_path, both):
    folder, result, _ = both
    with pytest.raises(Interrupted) as caught:
        fit(trial(devices=2), tmp_path, device="cpu", threads=2, should_stop=lambda: True)
    assert caught.value.epoch == newest(tmp_path).epoch == 1
    resumed = fit(trial(devices=2), tmp_path, device="cpu", threads=2)
    assert resumed.test_loss == result.test_loss
    for name in ("metrics.csv", "predictions.npz"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_what_one_process_raises_is_raised_here(tmp_path):
    with pytest.raises(Diverged, match="NaN or infinite at step"):
        fit(trial(devices=2, lr=1e30), tmp_path, device="cpu", threads=2)
