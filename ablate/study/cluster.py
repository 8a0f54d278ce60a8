"""What the executors of a cluster take: `cluster:` of a study, and files of the same shape.

    cluster:
      slurm: {partition: gpu, gpus: 1}
      ray:   {address: "10.0.0.1:6379", gpus: 0.5}

Each executor's options are a model of their own, in a module that loads no engine; `--cluster
FILE` lays a file with the same keys over the study's, an option of the command line over both.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from ablate.errors import ConfigError, StudyError, unknown
from ablate.study.schema import shown, validated
from ablate.study.yaml_source import Document, KeyPath, read_yaml

Options = dict[str, dict[str, Any]]
"""An executor's name -> its options, as plain values."""

Model = TypeVar("Model", bound=BaseModel)

OPTIONS = {
    "ray": "ablate.study.ray_options:RayOptions",
    "slurm": "ablate.study.slurm_options:SlurmOptions",
}
"""Where the options of each executor that takes some are described."""


def check_cluster(document: Document, *path: str) -> Options:
    """The options that stand at `path` of a document, every name and value checked.

    Raises:
        StudyError: an executor or option that does not exist, or a value outside its rules.
    """
    given = (document.get(*path) if path else document.data) or {}
    return {executor: _check(document, (*path, executor)) for executor in given}


def _check(document: Document, path: KeyPath) -> dict[str, Any]:
    executor, given = path[-1], document.get(*path) or {}
    where = ".".join(map(str, path))
    if executor not in OPTIONS:
        raise document.error(unknown("executor with options", executor, OPTIONS), *path)
    if not isinstance(given, dict):
        raise document.error(f"{where} must be a mapping, but got {shown(given)}", *path)
    fields = model_of(executor).model_fields
    for name in given:
        if name not in fields:
            message = f"in {where}: {unknown('key', name, fields)}"
            raise document.error(message, *path, name)
    validated(model_of(executor), given, lambda inner: document.place(*path, *inner), f"{where}.")
    return dict(given)


def read_cluster(path: Path) -> Options:
    """The options in a file whose keys are the executors' names.

    Raises:
        StudyError: as `check_cluster`; or there is no such file, or it is no YAML.
    """
    return check_cluster(read_yaml(path, str(path)))


def options_for(executor: str, *layers: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """The options of one executor: later layers over earlier ones, `given` over all.

    Args:
        layers: from `check_cluster`: of the study, of a file.
        given: options of the command line; None where the user gave none.

    Raises:
        ConfigError: the executor has no such option.
    """
    named = {name: value for name, value in given.items() if value is not None}
    known = model_of(executor).model_fields if executor in OPTIONS else {}
    for name in named:
        if name not in known:
            takers = [taker for taker in OPTIONS if name in model_of(taker).model_fields]
            raise ConfigError(
                f"--{name} is an option of --executor {' or '.join(takers)}, but the executor is "
                f"{executor!r}"
            )
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer.get(executor) or {}
    return merged | named


def model_of(executor: str) -> type[BaseModel]:
    """The class that describes the options of an executor of `OPTIONS`."""
    module, _, name = OPTIONS[executor].partition(":")
    model: type[BaseModel] = getattr(importlib.import_module(module), name)
    return model


def parse_options(model: type[Model], given: Mapping[str, Any] | None) -> Model:
    """Options as an executor needs them.

    Raises:
        ConfigError: an unknown name, or a value outside its rules.
    """
    for name in given or {}:
        if name not in model.model_fields:
            raise ConfigError(f"in options: {unknown('key', name, model.model_fields)}")
    try:
        parsed: Model = validated(model, given or {}, lambda path: "options")
    except StudyError as error:
        raise ConfigError(str(error)) from None
    return parsed
