"""What `fit` costs beside the training steps: a paired run against a bare loop.

    python benchmarks/fit_overhead.py --epochs 10

Both train the same network on the same batches and evaluate the same splits; the bare loop has no
Lightning, metrics, checkpoints, files or start-up. CPU seconds of one thread, so that other work
on the machine does not count; the wall-clock of `fit` is printed beside them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from measuring import command_line, seconds

from ablate.config import DataConfig, TrainConfig, TrialConfig
from ablate.data import DataModule
from ablate.training import create_module, fit
from ablate.training.recipe import build_optimizer, build_schedule


def bare(trial: TrialConfig) -> None:
    """Steps and evaluation passes, and nothing else."""
    train = trial.train
    assert train.epochs is not None
    data = DataModule(trial.data, train, trial.seed)
    network = create_module(trial, num_classes=data.num_classes).network
    loader = data.train_dataloader()
    optimizer = build_optimizer(network, train)
    schedule = build_schedule(optimizer, train, train.epochs * len(loader), len(loader))
    for epoch in range(train.epochs):
        data.set_epoch(epoch)
        network.train()
        for batch in loader:
            images, labels = data.transform(batch, train=True)
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        evaluate(network, data, data.val_dataloader())
        evaluate(network, data, data.train_eval_dataloader())
    evaluate(network, data, data.test_dataloader())


@torch.no_grad()
def evaluate(network: torch.nn.Module, data: DataModule, loader: object) -> None:
    """One pass of forwards."""
    network.eval()
    for batch in loader:  # type: ignore[attr-defined]
        network(data.transform(batch, train=False)[0])


def fitted(trial: TrialConfig) -> None:
    """The same by `fit`, with all that it writes."""
    with TemporaryDirectory() as folder:
        fit(trial, Path(folder), device="cpu", threads=1)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--arch", default="coat-lite-micro")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    from ablate.grammar import canonical
    from ablate.presets import expand

    torch.set_num_threads(1)
    trial = TrialConfig(
        arch=canonical(expand(options.arch)),
        data=DataConfig(name="digits-canvas"),
        train=TrainConfig(epochs=options.epochs),
    )
    fitted(trial.model_copy(update={"train": TrainConfig(epochs=1)}))  # loads what is lazy
    for _ in range(options.pairs):
        loop, ours = seconds(lambda: bare(trial)), seconds(lambda: fitted(trial))
        print(
            f"bare {loop.cpu:.2f} s  fit {ours.cpu:.2f} s  ratio {ours.cpu / loop.cpu:.3f}"
            f"  (CPU; wall-clock of fit {ours.wall:.2f} s)"
        )


if __name__ == "__main__":
    main()
