"""Verbs about networks: models, show, profile."""

from __future__ import annotations

from typing import Any

import click

from ablate.cli.common import as_json, example, giga, millions, print_json, print_table

image_size = click.option(
    "--image-size", "-i", type=click.IntRange(1), help="Input size, pixels (default: the preset's)."
)
num_classes = click.option(
    "--num-classes", type=click.IntRange(1), help="Classes (default: the preset's, else 1000)."
)


def _sizes(model: str, size: int | None, classes: int | None) -> tuple[int, int]:
    """Input size and classes: as given, or as the preset's reported costs have them."""
    from ablate.presets import PRESETS

    preset = PRESETS.get(model.partition("@")[0])
    return (
        size or (preset.image_size if preset else 224),
        classes or (preset.num_classes if preset else 1000),
    )


@click.command(
    "models",
    epilog=example("ablate models", "ablate models coat-lite-tiny", "ablate models --json"),
)
@click.argument("name", required=False)
@as_json
def models_command(name: str | None, as_json: bool) -> None:
    """Presets, with what their papers report and what is built here.

    Counts are exact: parameters, and multiply-adds (MACs) of one image, forward, at the input
    size of the reported figure. NAME shows one preset with its reasons.
    """
    from ablate.errors import ModelError, unknown
    from ablate.presets import PRESETS

    if name is not None and name not in PRESETS:
        raise ModelError(unknown("model", name, PRESETS))
    facts = [_facts(preset) for preset in PRESETS.values() if name in (None, preset.name)]
    if as_json:
        print_json(facts)
        return
    columns = ("model", "params", "reported", "MACs", "reported FLOPs", "pixels", "arch", "")
    print_table(columns, [_row(fact) for fact in facts])
    _print_reasons(facts)


def _facts(preset: Any) -> dict[str, Any]:
    """What is built and what is printed of one preset."""
    from ablate.cost import profile

    cost = profile(preset.name, image_size=preset.image_size, num_classes=preset.num_classes)
    reported = preset.reported
    return {
        "name": preset.name,
        "arch": preset.arch,
        "citation": preset.citation,
        "ours": preset.ours,
        "image_size": preset.image_size,
        "num_classes": preset.num_classes,
        "params": cost.params,
        "macs": cost.macs,
        "reported_params": reported.params if reported else None,
        "reported_flops": reported.flops if reported else None,
        "disagreements": preset.disagreements(params=cost.params, macs=cost.macs),
    }


def _row(fact: dict[str, Any]) -> tuple[object, ...]:
    return (
        fact["name"],
        millions(fact["params"]),
        fact["reported_params"],
        giga(fact["macs"]),
        fact["reported_flops"],
        fact["image_size"],
        fact["arch"],
        " ".join(f"[{figure}]" for figure in fact["disagreements"]),
    )


def _print_reasons(facts: list[dict[str, Any]]) -> None:
    """Each disagreement with a printed figure, once, with its reason."""
    names: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        for figure, reason in fact["disagreements"].items():
            names.setdefault((figure, reason), []).append(fact["name"])
    if names:
        click.echo("\nFigures that an exact build does not round to:")
    for (figure, reason), models in names.items():
        click.echo(f"  [{figure}] {', '.join(models)}: {reason}")


@click.command(
    "show",
    epilog=example(
        'ablate show "S2x64:C2x96-C3x192-T5x384-T2x768"',
        "ablate show coat-lite-tiny@crpe=false",
        'ablate show "C-C-T-T" --image-size 64 --num-classes 10',
    ),
)
@click.argument("arch")
@image_size
@num_classes
@as_json
def show_command(arch: str, image_size: int | None, num_classes: int | None, as_json: bool) -> None:
    """A stage table of ARCH: resolution, kind, depth, width, heads, params, MACs.

    ARCH is an arch string, a preset, or a preset with options after `@`.
    """
    from ablate.cost import profile

    size, classes = _sizes(arch, image_size, num_classes)
    cost = profile(arch, image_size=size, num_classes=classes)
    if as_json:
        print_json({**cost.to_json(), "num_classes": classes})
        return
    _print_stages(cost)
    click.echo(f"\n{_conditions(cost, classes)}")


def _print_stages(cost: Any) -> None:
    """The stage table of a network, with its total."""
    click.echo(f"{cost.arch}\n")
    columns = ("stage", "kind", "resolution", "depth", "width", "heads", "params", "MACs")
    rows = [
        (
            stage.name,
            stage.kind,
            stage.resolution and "x".join(map(str, stage.resolution)),
            stage.depth,
            stage.width,
            stage.heads,
            f"{stage.params:,}",
            f"{stage.macs:,}",
        )
        for stage in cost.per_stage
    ]
    total = ("total", *(None,) * 5, f"{cost.params:,}", f"{cost.macs:,}")
    print_table(columns, [*rows, total])


def _conditions(cost: Any, classes: int) -> str:
    """What the counts are for."""
    size = "x".join(map(str, cost.image_size))
    return f"{size} pixels, {classes} classes; MACs are multiply-adds of one image, forward"


@click.command(
    "profile",
    epilog=example(
        "ablate profile coatnet-0",
        "ablate profile coat-lite-tiny --counter fvcore",
        "ablate profile timm:deit_tiny_patch16_224 --measure --batch-size 1 --batch-size 32",
    ),
)
@click.argument("model")
@image_size
@num_classes
@click.option(
    "--counter",
    type=click.Choice(["ablate", "fvcore"]),
    default="ablate",
    show_default=True,
    help="Who counts: ours on shapes alone, or fvcore on the CPU.",
)
@click.option("--measure", is_flag=True, help="Also time steps and read peak memory.")
@click.option(
    "--batch-size",
    "-b",
    "batch_sizes",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 16),
    show_default=True,
    help="Images a step; may stand several times.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="bf16 and fp16 by autocast.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@as_json
def profile_command(
    model: str,
    image_size: int | None,
    num_classes: int | None,
    counter: str,
    measure: bool,
    batch_sizes: tuple[int, ...],
    precision: str,
    device: str,
    as_json: bool,
) -> None:
    """Params and MACs of MODEL by stage and operator, and what is not counted.

    MODEL is a preset, an arch string, torchvision:NAME or timm:NAME. Counting allocates no
    weights; --measure builds the network and times it on this machine.
    """
    from ablate import cost as costs

    size, classes = _sizes(model, image_size, num_classes)
    cost = costs.profile(model, image_size=size, num_classes=classes, counter=counter)
    measured = []
    if measure:
        measured = costs.measure(
            model,
            image_size=size,
            num_classes=classes,
            batch_sizes=batch_sizes,
            precision=precision,
            device=device,
        )
    if as_json:
        facts = {**cost.to_json(), "num_classes": classes}
        print_json({**facts, "measured": [one.to_json() for one in measured]})
        return
    _print_stages(cost)
    _print_operators(cost)
    click.echo(f"\n{_conditions(cost, classes)}; counted by {cost.counter}")
    if measured:
        _print_measured(measured)


def _print_operators(cost: Any) -> None:
    """MACs by operator, and the operators without a formula."""
    click.echo()
    rows = sorted(cost.per_operator.items(), key=lambda item: -item[1])
    print_table(("operator", "MACs"), [(name, f"{macs:,}") for name, macs in rows])
    if cost.uncounted_ops:
        listed = ", ".join(f"{name} x{calls}" for name, calls in cost.uncounted_ops.items())
        click.echo(f"\nwithout a formula, not counted: {listed}")


def _print_measured(measured: list[Any]) -> None:
    first = measured[0]
    click.echo(
        f"\n{first.device_name}, {first.threads} threads, {first.precision}; "
        "median and interquartile range of the timed steps"
    )
    columns = ("mode", "batch", "latency ms", "+-", "images/s", "peak MiB", "steps")
    rows = [
        (
            one.mode,
            one.batch_size,
            f"{one.latency * 1e3:.1f}",
            f"{one.spread * 1e3:.1f}",
            f"{one.throughput:.1f}",
            f"{one.peak_memory / 2**20:.0f}",
            one.repeats,
        )
        for one in measured
    ]
    print_table(columns, rows)
