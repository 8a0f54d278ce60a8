"""A training step and an evaluation step against timm: same network, weights and precision.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --models coat-lite-tiny --precisions bf16 --modes train

Steps of both libraries alternate in one process, so that both meet the same machine; timm takes
the memory format in which it is faster. A ratio is timm's time over ours: above 1 we are faster.
CPU seconds are counted, so that other work on the machine matters little; `--clock wall` counts
wall-clock. With more threads than cores are idle, prefer one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from measuring import command_line, geometric, seconds
from torch import Tensor, nn

import ablate

TIMM = {
    "coat-lite-tiny": "coat_lite_tiny",
    "coat-tiny": "coat_tiny",
    "coatnet-0-timm": "coatnet_0_224",
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def twins(name: str, image_size: int) -> tuple[nn.Module, nn.Module]:
    """Our network and timm's, with equal weights; their logits are compared."""
    theirs = timm.create_model(TIMM[name], pretrained=False)
    ours = ablate.create_model(name, num_classes=1000, image_size=image_size)
    ablate.load_weights(ours, theirs.state_dict())
    images = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-3, atol=1e-4)
    return ours, theirs


def step(network: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype, mode: str) -> None:
    """One forward, and in training one backward."""
    training = mode == "train"
    with (
        torch.set_grad_enabled(training),
        torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32),
    ):
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
    if training:
        loss.backward()
        network.zero_grad(set_to_none=True)
    if images.device.type == "cuda":
        torch.cuda.synchronize()


def prepared(
    network: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype, mode: str, layout: str
) -> Callable[[], None]:
    """A step of a network in a memory format."""
    network.train(mode == "train")
    images = images.contiguous(memory_format=FORMATS[layout])

    def run() -> None:
        network.to(memory_format=FORMATS[layout])
        step(network, images, labels, dtype, mode)

    return run


def alternate(runs: list[Callable[[], None]], rounds: int, clock: str) -> list[list[float]]:
    """Seconds of every run in every round, after one round to warm up."""
    found: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for run, taken in zip(runs, found, strict=True):
            spent = seconds(run)
            if turn:
                taken.append(getattr(spent, clock))
    return found


def compare(args: argparse.Namespace, name: str, precision: str, mode: str) -> float:
    """Prints one line; returns the ratio."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    networks = [network.to(args.device) for network in twins(name, args.image_size)]
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=args.device)
    labels = torch.randint(0, 1000, (args.batch_size,), device=args.device)

    def prepare(which: int, layout: str) -> Callable[[], None]:
        network = networks[which]
        if args.compile:
            network = torch.compile(network)
        return prepared(network, images, labels, dtype, mode, layout)

    trials = alternate([prepare(1, layout) for layout in FORMATS], 2, args.clock)
    layout = min(zip(map(min, trials), FORMATS, strict=True))[1]
    pair = [prepare(0, "channels_last"), prepare(1, layout)]
    ours, theirs = alternate(pair, args.rounds, args.clock)
    mean, low, high = geometric([b / a for a, b in zip(ours, theirs, strict=True)])
    speed = args.batch_size / statistics.median(theirs)
    print(
        f"{name:16} {precision} {mode:5} {mean:5.2f} [{low:.2f}, {high:.2f}]"
        f"   timm: {speed:6.1f} images/s, {layout}",
        flush=True,
    )
    return mean


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", choices=TIMM, default=list(TIMM))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--modes", nargs="+", choices=("train", "eval"), default=["train", "eval"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, timm {timm.__version__}, {args.device}, ", end="")
    print(f"{args.threads} threads, batch {args.batch_size}, {args.rounds} rounds, {args.clock}")
    print("                             timm / ours [95%]")
    for mode in args.modes:
        ratios = [compare(args, m, p, mode) for p in args.precisions for m in args.models]
        mean = math.exp(statistics.mean(map(math.log, ratios)))
        print(f"{mode}: geometric mean {mean:.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
