"""`fit`: one trial in one folder, and everything that it leaves there."""

import csv
import logging
import math
import os
import signal

import numpy as np
import pytest
import torch

from ablate.config import DataConfig, TrainConfig, TrialConfig
from ablate.data import DataModule
from ablate.errors import ConfigError, WeightsError
from ablate.training import Diverged, Interrupted, TimedOut, create_module, fit, resolve_init
from ablate.training.checkpoint import newest
from ablate.training.initial import network_state
from ablate.training.randomness import INITIAL, reseed

CONV = "S1x8:C1x8-C1x16@stem_stride=2"
ATTENTION = "E1x16:T1x16(head_dim=8)@stem_stride=8"
DATA = DataConfig(name="digits-canvas", train_fraction=0.4, eval_subset=100)


def trial(arch=CONV, seed=0, data=DATA, **recipe):
    settings = {"epochs": 2, "batch_size": 32, "lr": 5e-3, **recipe}
    if "max_steps" in settings:
        settings["epochs"] = None
    return TrialConfig(arch=arch, data=data, train=TrainConfig(**settings), seed=seed)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with all its files, its result and the rows that it told."""
    folder = tmp_path_factory.mktemp("run")
    told = []
    result = fit(trial(), folder, device="cpu", threads=1, on_epoch=told.append)
    return folder, result, told


def test_the_folder_holds_what_the_design_names(finished):
    folder, _, _ = finished
    names = {path.name for path in folder.iterdir()}
    checkpoints = {f"checkpoint-{slot}.pt{end}" for slot in "ab" for end in ("", ".sha256")}
    assert names == {"metrics.csv", "timing.csv", "predictions.npz", "log.txt", *checkpoints}


def test_metrics_and_timing_have_a_row_an_epoch(finished):
    folder, result, told = finished
    metrics, timing = rows(folder / "metrics.csv"), rows(folder / "timing.csv")
    expected = "epoch train_loss_running train_loss train_top1 val_loss val_top1 lr"
    assert list(metrics[0]) == expected.split()
    assert list(timing[0]) == ["epoch", "seconds", "images_per_second"]
    assert [row["epoch"] for row in metrics] == [row["epoch"] for row in timing] == ["1", "2"]
    assert float(metrics[-1]["train_top1"]) == result.train_top1
    assert float(metrics[-1]["val_loss"]) == result.val_loss
    assert [{**m, **t, "epochs": "2"} for m, t in zip(metrics, timing, strict=True)] == [
        {name: str(value) for name, value in row.items()} for row in told
    ]


def test_the_result_agrees_with_the_predictions(finished):
    folder, result, _ = finished
    with np.load(folder / "predictions.npz") as predictions:
        label, prediction = predictions["label"], predictions["prediction"]
        confidence = predictions["confidence"]
    data = DataModule(trial().data, trial().train, 0)
    assert label.tolist() == [int(y) for _, labels in data.test_dataloader() for y in labels]
    assert len(label) == result.test_images
    assert result.top1 == pytest.approx(100 * np.mean(label == prediction))
    assert result.top1 <= result.top5 <= 100
    assert ((confidence > 0.1 - 1e-6) & (confidence <= 1)).all()


def test_the_result_says_what_was_trained_where_and_how_long(finished):
    _, result, _ = finished
    network = create_module(trial(), num_classes=10).network
    assert result.key == trial().key
    assert result.params == sum(parameter.numel() for parameter in network.parameters())
    assert result.macs > 0
    assert (result.epochs, result.device, result.threads) == (2, "cpu", 1)
    assert result.steps == 2 * (result.train_images // 32)
    assert result.seconds > 0
    assert result.images_per_second > 10
    assert result.dataset == "digits-canvas"


def test_train_numbers_are_those_of_a_plain_pass_in_eval_mode(finished):
    folder, result, _ = finished
    module = create_module(trial(), num_classes=10)
    module.load_state_dict(newest(folder).content["state_dict"])
    module.eval()
    data = DataModule(trial().data, trial().train, 0)
    data.setup("fit")
    hits = losses = images = 0
    for batch in data.train_eval_dataloader():
        pixels, labels = data.on_after_batch_transfer(batch, 0)
        with torch.no_grad():
            logits = module(pixels)
        losses += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        hits += (logits.argmax(1) == labels).sum().item()
        images += len(labels)
    assert images == 100
    assert result.train_top1 == pytest.approx(100 * hits / images)
    assert result.train_loss == pytest.approx(losses / images, rel=1e-5)


def test_without_a_held_out_split_there_are_no_validation_numbers(tmp_path):
    data = DATA.model_copy(update={"val_fraction": 0.0})
    result = fit(trial(data=data, epochs=1), tmp_path, threads=1)
    assert result.val_top1 is None
    assert result.best_val_epoch is None
    assert rows(tmp_path / "metrics.csv")[0]["val_loss"] == ""
    assert result.train_top1 >= 0


def test_max_steps_ends_inside_an_epoch_and_the_schedule_with_it(tmp_path):
    result = fit(trial(max_steps=23, min_lr=1e-4), tmp_path, threads=1)
    steps_per_epoch = result.train_images // 32
    assert result.steps == 23
    assert result.epochs == math.ceil(23 / steps_per_epoch)
    last = float(rows(tmp_path / "metrics.csv")[-1]["lr"])
    assert last == pytest.approx(1e-4 + 4.9e-3 * (1 + math.cos(math.pi * 22 / 23)) / 2)


def test_accumulation_gives_the_weights_of_the_whole_batch(tmp_path):
    def weights(name, **recipe):
        # No BatchNorm: its statistics are those of a micro-batch. SGD: Adam's first steps
        # follow the sign of a gradient, where rounding can decide.
        recipe = {"optimizer": "sgd", "lr": 0.05, "epochs": 1, **recipe}
        data = DATA.model_copy(update={"train_fraction": 0.43})  # 310 images: 9 steps, 22 over
        fit(trial(ATTENTION, data=data, **recipe), tmp_path / name, threads=1)
        return newest(tmp_path / name).content["state_dict"]

    whole, parts = weights("whole"), weights("parts", accumulate=4)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_clipping_limits_the_norm_of_the_gradient(tmp_path, precision):
    """SGD without momentum and decay: one step moves the weights by lr x clip_norm at most."""
    recipe = {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "schedule": "constant"}
    short = trial(ATTENTION, max_steps=1, lr=1.0, clip_norm=1e-3, precision=precision, **recipe)
    fit(short, tmp_path, threads=1)
    reseed(short.seed, INITIAL)
    start = create_module(short, num_classes=10).state_dict()
    end = newest(tmp_path).content["state_dict"]
    moved = math.sqrt(sum(float((end[name] - start[name]).square().sum()) for name in start))
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("recipe", [{"precision": "bf16"}, {"channels_last": True}])
def test_precision_and_layout_train_as_well(tmp_path, recipe):
    result = fit(trial(epochs=1, **recipe), tmp_path, threads=1)
    assert math.isfinite(result.test_loss)
    assert result.precision == recipe.get("precision", "fp32")


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_numbers_and_names(tmp_path):
    compiled = trial(ATTENTION, epochs=1, compile=True)
    result = fit(compiled, tmp_path / "compiled", threads=1)
    plain = fit(trial(ATTENTION, epochs=1), tmp_path / "plain", threads=1)
    assert result.key == plain.key
    assert result.test_loss == pytest.approx(plain.test_loss, rel=1e-3)
    names = newest(tmp_path / "compiled").content["state_dict"]
    assert names.keys() == newest(tmp_path / "plain").content["state_dict"].keys()


def test_a_diverging_run_names_its_step_and_layer(tmp_path):
    with pytest.raises(Diverged, match="NaN or infinite at step") as caught:
        fit(trial(optimizer="sgd", lr=1e30), tmp_path, threads=1)
    assert caught.value.step >= 1
    assert caught.value.layer in dict(
        create_module(trial(), num_classes=10).network.named_modules()
    )


def test_asked_to_stop_it_finishes_and_saves_the_epoch(tmp_path):
    with pytest.raises(Interrupted) as caught:
        fit(trial(), tmp_path, threads=1, should_stop=lambda: True)
    assert caught.value.epoch == 1
    assert newest(tmp_path).epoch == 1
    assert len(rows(tmp_path / "metrics.csv")) == 1


def test_the_timeout_counts_all_sessions(tmp_path):
    slow = trial(epochs=500, timeout_minutes=0.02)
    epochs = []
    with pytest.raises(TimedOut, match=r"longer than timeout_minutes=0.02; \d+ epochs are saved"):
        fit(slow, tmp_path, threads=1, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == list(range(1, len(epochs) + 1))
    with pytest.raises(TimedOut):
        fit(slow, tmp_path, threads=1, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert len(epochs) < 500


def test_weights_of_another_trial_are_the_start(tmp_path):
    """Fine-tuning at a larger size: the relative-bias tables are resized."""
    arch = "S1x8:C1x8-T1x16(head_dim=8)"
    source = trial(arch, epochs=1)
    fit(source, tmp_path / source.key, threads=1)
    larger = DATA.model_copy(update={"image_size": 48})
    tuned = trial(arch, epochs=1, lr=1e-12, weight_decay=0, init_from=source.key, data=larger)
    fit(tuned, tmp_path / "tuned", threads=1)
    before = network_state(newest(tmp_path / source.key).content)
    after = network_state(newest(tmp_path / "tuned").content)
    resized = [name for name in before if before[name].shape != after[name].shape]
    assert len(resized) == 1
    for name in set(before) - set(resized):
        if before[name].is_floating_point() and "running" not in name:
            torch.testing.assert_close(after[name], before[name])


def test_weights_from_a_file_are_told_by_their_checksum(tmp_path):
    path = tmp_path / "weights.pt"
    state = create_module(trial(), num_classes=10).network.state_dict()
    torch.save(state, path)
    resolved = resolve_init(TrainConfig(init_from=str(path)), tmp_path)
    assert len(resolved.init_fingerprint) == 64
    torch.save({**state, "extra": torch.zeros(1)}, path)
    changed = trial(init_from=str(path), init_fingerprint=resolved.init_fingerprint)
    with pytest.raises(WeightsError, match=r"changed: its SHA-256 is .* but the trial was made"):
        fit(changed, tmp_path / "run", threads=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.pt", "no such file, and it is no trial's key"), ("a" * 64, "no whole checkpoint")],
)
def test_weights_that_are_not_there_are_one_clear_message(tmp_path, name, message):
    with pytest.raises(WeightsError, match=message):
        resolve_init(TrainConfig(init_from=name), tmp_path)
    with pytest.raises(WeightsError, match=message):
        fit(trial(init_from=name), tmp_path / "run", threads=1)


def test_the_final_weights_are_measured_at_other_sizes(tmp_path):
    arch = "S1x8:C1x8-T1x16(head_dim=8)"
    result = fit(trial(arch, epochs=1, eval_sizes=(32, 48)), tmp_path, threads=1)
    assert set(result.eval_sizes) == {"32", "48"}
    assert result.eval_sizes["32"] == result.top1


@pytest.mark.parametrize(
    ("device", "recipe", "message"),
    [
        ("gpu", {}, "unknown device 'gpu'; choose from auto, cpu, cuda, cuda:N, mps"),
        ("cuda:99", {}, "device 'cuda:99' is not there: this machine has"),
        ("cpu:1", {}, "unknown device 'cpu:1'"),
        ("cpu", {"precision": "fp16"}, "precision='fp16' needs a GPU"),
        ("cpu", {"strategy": "fsdp"}, "strategy='fsdp' needs CUDA GPUs"),
    ],
)
def test_a_device_that_cannot_do_it_is_one_clear_message(tmp_path, device, recipe, message):
    with pytest.raises(ConfigError, match=message):
        fit(trial(**recipe), tmp_path, device=device)
    assert not newest(tmp_path)


def test_the_process_around_a_run_stays_as_it_was(tmp_path, capfd):
    def handler(number, frame):
        raise AssertionError("not called")

    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    loggers = [logging.getLogger(name) for name in ("ablate", "pytorch_lightning")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        fit(trial(epochs=1), tmp_path, threads=1)
        assert signal.getsignal(signal.SIGTERM) is handler
        assert torch.get_num_threads() == 3
    finally:
        signal.signal(signal.SIGTERM, previous)
        torch.set_num_threads(threads)
    assert [(logger.handlers, logger.propagate, logger.level) for logger in loggers] == before
    assert capfd.readouterr() == ("", "")


def test_a_signal_in_the_middle_of_an_epoch_reaches_its_handler_and_the_epoch_is_finished(
    tmp_path, monkeypatch
):
    received = []

    def terminate(data, epoch):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(DataModule, "set_epoch", terminate)
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with pytest.raises(Interrupted, match="stopped after epoch 2"):
            fit(trial(epochs=3), tmp_path, threads=1, should_stop=lambda: bool(received))
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert received == [signal.SIGTERM]
    assert newest(tmp_path).epoch == 2


def test_the_data_is_told_the_epoch_also_after_a_resume(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(DataModule, "set_epoch", lambda data, epoch: epochs.append(epoch))
    with pytest.raises(Interrupted):
        fit(trial(epochs=3), tmp_path, threads=1, should_stop=lambda: len(epochs) == 2)
    fit(trial(epochs=3), tmp_path, threads=1)
    assert epochs == [0, 1, 2]


def test_ctrl_c_is_a_keyboard_interrupt_and_the_handler_stays(tmp_path):
    def interrupt(row):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(trial(), tmp_path, threads=1, on_epoch=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert newest(tmp_path).epoch == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    "recipe",
    [
        {"precision": "fp16", "clip_norm": 1.0},
        {"precision": "bf16", "clip_norm": 1.0, "ema_decay": 0.9},
        {"strategy": "fsdp", "clip_norm": 1.0},
        {"deterministic": True},
    ],
    ids=lambda recipe: " ".join(map(str, recipe.values())),
)
def test_a_gpu_trains_and_resumes(tmp_path, recipe):
    with pytest.raises(Interrupted):
        fit(trial(**recipe), tmp_path, device="cuda", should_stop=lambda: True)
    result = fit(trial(**recipe), tmp_path, device="cuda")
    assert result.device == torch.cuda.get_device_name(0)
    assert result.epochs == len(rows(tmp_path / "metrics.csv")) == 2
    assert math.isfinite(result.test_loss)
    assert result.peak_memory_mb > 0
