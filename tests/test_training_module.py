"""The LightningModule in anyone's Trainer, with anyone's loader of (float images, int labels)."""

import pickle

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ablate.errors import ConfigError
from ablate.training import Diverged, Interrupted, TimedOut, create_module
from ablate.training.divergence import first_nonfinite_layer
from ablate.training.tally import score

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    # Lightning 2.6 still names a pytree class that torch renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES.mean((1, 2, 3)) > 0).long()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 7))


def loader(batch_size=8):
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=batch_size)


def trainer(**settings):
    defaults = {"max_epochs": 2, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{**defaults, **quiet, **settings})


def test_it_learns_in_a_plain_trainer_and_logs_each_split():
    module = create_module(network(), lr=1e-2)
    own = trainer(max_epochs=8)
    own.fit(module, loader(), loader())
    metrics = own.callback_metrics
    assert metrics["train_loss_running"] < 0.5
    assert metrics["val_top1"] > 80
    assert metrics["val_top5"] == 100
    (tested,) = own.test(module, loader(), verbose=False)
    assert tested["test_loss"] == pytest.approx(float(metrics["val_loss"]), rel=1e-5)


def test_a_second_validation_loader_has_its_own_numbers():
    module = create_module(network())
    own = trainer()
    own.fit(module, loader(), [loader(), loader(3)])
    assert own.callback_metrics["val_1_loss"] == pytest.approx(
        float(own.callback_metrics["val_loss"]), rel=1e-5
    )


def test_the_schedule_spans_the_steps_of_the_trainer():
    module = create_module(network(), lr=0.1, warmup_steps=2)
    own = trainer(max_steps=6, max_epochs=-1)
    own.fit(module, loader(), loader())
    schedule = own.lr_scheduler_configs[0].scheduler
    assert [schedule.lr_lambdas[0](step) for step in (0, 1, 6)] == [0.5, 1.0, 0.0]


def test_warm_up_in_epochs_needs_a_loader_of_known_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return zip(IMAGES, LABELS, strict=True)

    stream = DataLoader(Stream(), batch_size=8)
    own = trainer(max_steps=2, max_epochs=-1)
    own.fit(create_module(network(), warmup_steps=1), stream, loader())
    assert own.global_step == 2
    with pytest.raises(ConfigError, match=r"warmup_epochs=1\.0 needs a loader of known length"):
        trainer(max_steps=2).fit(create_module(network(), warmup_epochs=1), stream, loader())


def test_evaluation_is_plain_cross_entropy_while_training_smooths():
    module = create_module(network(), label_smoothing=0.2)
    own = trainer(max_epochs=1)
    own.fit(module, loader(40), loader(40))
    with torch.no_grad():
        torch.manual_seed(0)
        first = F.cross_entropy(network()(IMAGES), LABELS, label_smoothing=0.2)
        last = F.cross_entropy(module.network(IMAGES), LABELS)
    assert module.measured["train_loss_running"] == pytest.approx(float(first), rel=1e-5)
    assert module.measured["val_loss"] == pytest.approx(float(last), rel=1e-5)


def test_mixed_targets_are_class_weights():
    soft = 0.3 * F.one_hot(LABELS, 7).float() + 0.7 * F.one_hot(LABELS.flip(0), 7).float()
    module = create_module(network())
    own = trainer(max_epochs=1)
    own.fit(module, DataLoader(TensorDataset(IMAGES, soft), batch_size=40), loader())
    logits = network()(IMAGES)
    expected = 0.3 * F.cross_entropy(logits, LABELS) + 0.7 * F.cross_entropy(logits, LABELS.flip(0))
    assert module.measured["train_loss_running"] == pytest.approx(expected.item(), rel=1e-5)


def test_averaged_weights_are_evaluated_and_stay_when_fit_ends():
    """The first step's weights, then decay x average + (1 - decay) x weights, step by step."""
    kept = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            kept.append(module.network[0].weight.detach().clone())

    module = create_module(network(), ema_decay=0.75)
    trainer(max_epochs=1, callbacks=[Keep()]).fit(module, loader(), loader())
    average = kept[0]
    for weights in kept[1:]:
        average = 0.75 * average + 0.25 * weights
    torch.testing.assert_close(module.network[0].weight, average)
    assert not torch.allclose(module.network[0].weight, kept[-1])
    evaluated = F.cross_entropy(module.network(IMAGES), LABELS)
    assert module.measured["val_loss"] == pytest.approx(evaluated.item(), rel=1e-5)


def test_channels_last_changes_the_layout_and_not_the_numbers():
    plain, last = create_module(network()), create_module(network(), channels_last=True)
    assert last.network[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(IMAGES), plain(IMAGES))


class Explodes(nn.Module):
    """Infinite from the third call on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * (float("inf") if self.calls > 2 else 1.0)


def test_a_loss_that_is_not_finite_names_step_and_layer():
    inner = nn.Sequential(nn.ReLU(), Explodes())
    module = create_module(nn.Sequential(nn.Flatten(), inner, nn.Linear(192, 7)))
    with pytest.raises(Diverged, match=r"NaN or infinite at step 2, first in '1\.1'") as caught:
        trainer(num_sanity_val_steps=0).fit(module, loader(), loader())
    assert (caught.value.step, caught.value.layer) == (2, "1.1")


def test_the_layer_is_the_first_to_fail_the_input_or_the_loss():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 7))
    assert first_nonfinite_layer(net, IMAGES * float("nan")) == "input"
    assert first_nonfinite_layer(net, IMAGES) == "loss"
    with torch.no_grad():
        net[3].bias[2] = float("nan")
    assert first_nonfinite_layer(net, IMAGES) == "3"
    with torch.no_grad():
        net[0].weight[1, 0, 0, 0] = float("inf")
    assert first_nonfinite_layer(net, IMAGES) == "0"
    assert not net[0]._forward_hooks


@pytest.mark.parametrize(
    "outcome",
    [Diverged(7, "stages.0"), Interrupted(3), TimedOut(1.5, 2)],
    ids=lambda o: type(o).__name__,
)
def test_outcomes_travel_between_processes(outcome):
    copy = pickle.loads(pickle.dumps(outcome))
    assert (type(copy), str(copy), vars(copy)) == (type(outcome), str(outcome), vars(outcome))


def test_a_built_network_takes_no_size_of_its_own():
    with pytest.raises(ConfigError, match="built already takes no options, classes or size"):
        create_module(network(), num_classes=10)


def test_top1_is_that_of_the_prediction_where_logits_tie():
    """Logits in bf16 tie now and then; predictions.npz and the row tell the same accuracy."""
    logits = torch.randint(0, 3, (1000, 10)).bfloat16()
    labels = torch.randint(0, 10, (1000,))
    _, top1, _ = score(logits, labels)
    assert top1 == 100 * (logits.argmax(1) == labels).sum()
    assert (logits.topk(1).indices[:, 0] != logits.argmax(1)).any()
