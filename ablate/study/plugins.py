"""Modules of the user's own, imported before a study is read: they register kinds and options."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from ablate.errors import StudyError


def plugin_paths(plugins: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Plugins as any process can import them: files as absolute paths, modules by name."""
    return tuple(
        str((folder / text).resolve()) if text.endswith(".py") else text for text in plugins
    )


def import_plugins(plugins: Iterable[str]) -> None:
    """Import each plugin once in this process; workers call it before they build a network.

    Args:
        plugins: from `plugin_paths`: module names, or absolute paths of Python files. A file
            `my_block.py` becomes the module `my_block`, the name for its kind's `builder`.

    Raises:
        StudyError: a plugin that is not there, or that fails while it is imported.
    """
    for text in plugins:
        try:
            _import_file(Path(text)) if text.endswith(".py") else importlib.import_module(text)
        except Exception as error:  # a plugin is foreign code: whatever it raises is the user's
            raise StudyError(
                f"plugin {text!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error


def _import_file(path: Path) -> None:
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) != str(path):
            raise ImportError(f"module {path.stem!r} is another one: {loaded}; rename the file")
        return
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
