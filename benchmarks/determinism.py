"""What `train.deterministic` costs: training steps with and without it, in pairs.

    python benchmarks/determinism.py --device cuda
    python benchmarks/determinism.py --device cpu

Runs of `--steps` steps alternate in one process; a ratio is steps/s with deterministic kernels over
steps/s without, and its interval is Student's t over the pairs' logarithms. On the CPU, CPU seconds
are counted, so that other work matters little. The last lines say whether the runs from equal
weights ended bit-identical, with and without.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.nn.functional as F
from measuring import command_line, geometric, seconds

import ablate
from ablate.training.surroundings import deterministic_kernels


def run(options: argparse.Namespace, deterministic: bool) -> tuple[float, torch.Tensor]:
    """Steps/s of a network trained from the seed's weights, and its weights afterwards."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    with deterministic_kernels(deterministic):
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.deterministic = deterministic
        network = ablate.create_model(
            options.model, num_classes=10, image_size=options.image_size
        ).to(device)
        size = (options.batch_size, 3, options.image_size, options.image_size)
        images = torch.randn(size, device=device)
        labels = torch.randint(10, (options.batch_size,), device=device)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)

        def steps(count: int) -> None:
            for _ in range(count):
                loss = F.cross_entropy(network(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        steps(2)  # to warm up
        taken = seconds(lambda: steps(options.steps))
    weights = torch.cat([p.detach().flatten().cpu() for p in network.parameters()])
    return options.steps / (taken.cpu if device.type == "cpu" else taken.wall), weights


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="coat-lite-micro")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    if options.pairs < 2:
        parser.error("--pairs: an interval needs at least 2")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    ratios: list[float] = []
    final: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for pair in range(options.pairs):
        order = (True, False) if pair % 2 else (False, True)
        speed = {}
        for deterministic in order:
            speed[deterministic], weights = run(options, deterministic)
            final[deterministic].append(weights)
        ratios.append(speed[True] / speed[False])
        print(f"with {speed[True]:.2f} steps/s  without {speed[False]:.2f}", flush=True)
    mean, low, high = geometric(ratios)
    print(f"ratio {mean:.3f} [{low:.3f}, {high:.3f}] on {options.device}, {options.pairs} pairs")
    for deterministic, word in ((True, "with"), (False, "without")):
        equal = all(torch.equal(final[deterministic][0], w) for w in final[deterministic])
        print(f"{word}: runs are {'bit-identical' if equal else 'NOT bit-identical'}")


if __name__ == "__main__":
    main()
