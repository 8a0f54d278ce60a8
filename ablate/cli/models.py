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


def _sizes(model: str, size: int | None, classes: int | None) -> dict[str, int]:
    """Input size and classes: as given, or as the preset's reported costs have them."""
    from ablate.presets import PRESETS

    preset = PRESETS.get(model.partition("@")[0])
    return {
        "image_size": size or (preset.image_size if preset else 224),
        "num_classes": classes or (preset.num_classes if preset else 1000),
    }


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

    sizes = _sizes(arch, image_size, num_classes)
    cost = profile(arch, **sizes)
    if as_json:
        print_json({**cost.to_json(), **sizes})
        return
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
    click.echo(
        f"\n{sizes['image_size']} pixels, {sizes['num_classes']} classes; "
        "MACs are multiply-adds of one image, forward"
    )
