"""What a worker's memory settings are worth: training steps with and without them, in turn.

    python benchmarks/worker_memory.py

Every run is a process of its own, since the C library reads its settings when a process starts:
"plain" as Python starts, "kept" with freed memory kept, "large" with large pages as well, which is
how `ablate run` starts its workers. CPU seconds of one thread are counted. A ratio is the time of
plain over the other's, and its interval is Student's t over the rounds' logarithms. Large pages
need `madvise` or `always` in /sys/kernel/mm/transparent_hugepage/enabled.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from measuring import command_line, geometric, seconds

from ablate.study.allocator import keep_freed_memory, large_pages

SETTINGS = ("plain", "kept", "large")


def measured(options: argparse.Namespace, setting: str) -> float:
    """CPU seconds of the steps in a process of its own."""
    env = dict(os.environ, OMP_NUM_THREADS="1")
    env.pop("GLIBC_TUNABLES", None)
    if setting == "large":
        env["GLIBC_TUNABLES"] = large_pages(env)
    command = [sys.executable, __file__, "--here", setting, "--model", options.model]
    command += ["--batch-size", str(options.batch_size), "--steps", str(options.steps)]
    command += ["--precision", options.precision]
    return float(subprocess.run(command, env=env, check=True, capture_output=True).stdout)


def steps(options: argparse.Namespace) -> float:
    """CPU seconds of training steps in this process."""
    import torch

    import ablate

    if options.here != "plain":
        keep_freed_memory()
    torch.manual_seed(0)
    network = ablate.create_model(options.model, num_classes=10, image_size=32)
    network = network.to(memory_format=torch.channels_last)
    images = torch.randn(options.batch_size, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch_size,))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def train(count: int) -> None:
        for _ in range(count):
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
                loss = torch.nn.functional.cross_entropy(network(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    train(2)  # to warm up
    return seconds(lambda: train(options.steps)).cpu


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="coat-lite-micro")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--here", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(steps(options))
        return
    if options.rounds < 2:
        parser.error("--rounds: an interval needs at least 2")
    taken: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    for turn in range(options.rounds):
        for setting in SETTINGS if turn % 2 == 0 else SETTINGS[::-1]:
            taken[setting].append(measured(options, setting))
        print("  ".join(f"{name} {found[-1]:.2f} s" for name, found in taken.items()), flush=True)
    for setting in SETTINGS[1:]:
        mean, low, high = geometric(
            [plain / own for plain, own in zip(taken["plain"], taken[setting], strict=True)]
        )
        print(f"plain / {setting}: {mean:.2f} [{low:.2f}, {high:.2f}], {options.rounds} rounds")


if __name__ == "__main__":
    main()
