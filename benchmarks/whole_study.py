"""A whole study by `ablate run` against a plain Lightning script, one process a trial.

    python benchmarks/whole_study.py DATA

Same network (coat-lite-micro), recipe, images, epochs and batch, on the cores of this machine.
The plain script (`benchmarks/plain_study.py`) trains one seed after the other: with Lightning's
defaults (fp32), and again in our precision and memory format. `ablate run` starts with an empty
cache of images: decoding them once is inside its time, as its start, its plan and its report are.
Since the speed of a machine drifts, the two plain scripts take turns, seed by seed, and `ablate
run` runs the whole study twice: before the first seed and in the middle. All files are read once
before, so that everybody finds them in the system's memory. Printed are wall-clock ratios, and
the accuracies with 95% intervals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from measuring import command_line, mean_and_half, timed

HERE = Path(__file__).parent
STUDY = """\
study: whole
model: coat-lite-micro
factors: {{cpe: [true]}}
seeds: {seeds}
data:
  name: image_folder
  root: {root}
  image_size: 32
  val_fraction: 0.01
  train_fraction: {fraction}
  eval_subset: 500
train:
  epochs: {epochs}
  batch_size: 128
  lr: 2e-3
  warmup_epochs: 1
  crop: pad
  hflip: true
  label_smoothing: 0.1
  precision: {precision}
  channels_last: {channels_last}
"""


def by_ablate(args: argparse.Namespace, folder: Path) -> tuple[float, list[float]]:
    """Seconds of the study, from nothing to the report, and the accuracy of every seed."""
    study = folder / "whole.yaml"
    study.write_text(
        STUDY.format(
            seeds=args.seeds,
            root=args.data,
            fraction=args.images / 49_500,  # of what the validation split leaves
            epochs=args.epochs,
            precision=args.precision,
            channels_last=str(args.precision == "bf16").lower(),
        )
    )
    run = [sys.executable, "-m", "ablate", "run", str(study), "--device", "cpu"]
    results = [sys.executable, "-m", "ablate", "results", str(study), "--json"]
    cache = str(folder / "cache")
    seconds, _ = timed(run, folder, ABLATE_CACHE=cache)
    _, rows = timed(results, folder, ABLATE_CACHE=cache)
    return seconds, [row["top1"] for row in json.loads(rows)]


def by_script(
    args: argparse.Namespace, folder: Path, seed: int, options: list[str]
) -> tuple[float, float]:
    """Seconds of one seed, and its accuracy."""
    command = [sys.executable, str(HERE / "plain_study.py"), str(args.data)]
    command += ["--seed", str(seed), "--epochs", str(args.epochs)]
    command += ["--images", str(args.images), *options]
    seconds, out = timed(command, folder)
    return seconds, json.loads(out.splitlines()[-1])["top1"]


def read_once(root: Path) -> None:
    """Read every file, as the first of two programs does for the second."""
    for path in root.rglob("*"):
        if path.is_file():
            path.read_bytes()


def shown(found: list[float]) -> str:
    """Mean and 95% interval."""
    mean, half = mean_and_half(found) if len(found) > 1 else (found[0], 0.0)
    return f"{mean:.1f} ± {half:.1f}%"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("data", type=Path, help="CIFAR-10 as folders: train/CLASS/*, test/CLASS/*")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--images", type=int, default=5000, help="training images of 50,000")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"), help="ours")
    args = parser.parse_args()
    args.data = args.data.resolve()
    same = ["--precision", "bf16-mixed", "--channels-last"] if args.precision == "bf16" else []
    scripts = {"Lightning's defaults": [], f"{args.precision} as ours": same}
    ours: list[float] = []
    plain: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
    read_once(args.data)
    with TemporaryDirectory() as name:
        for seed in range(args.seeds):
            if seed in (0, args.seeds // 2):
                folder = Path(name, f"ablate{seed}")
                folder.mkdir()
                seconds, accuracy = by_ablate(args, folder)
                ours.append(seconds)
                print(
                    f"ablate run, {args.precision}: {seconds:.0f} s, {shown(accuracy)}", flush=True
                )
            for script, options in scripts.items():
                plain[script].append(by_script(args, Path(name), seed, options))
                print(
                    f"plain script, {script}, seed {seed}: {plain[script][-1][0]:.0f} s", flush=True
                )
    for script, found in plain.items():
        seconds = sum(each[0] for each in found)
        ratio = seconds / statistics.mean(ours)
        top1 = shown([each[1] for each in found])
        print(f"plain script, {script}: {seconds:.0f} s, {ratio:.2f} times ours, {top1}")


if __name__ == "__main__":
    main()
