"""A YAML 1.2 file as plain values, and for every value the place where it stands.

Places survive merging: a value that a profile or `--set` replaced is reported where the
replacement stands.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ablate.errors import StudyError

KeyPath = tuple[Any, ...]
"""Keys and list positions from the top of the file to a value."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """Plain values with their places.

    Args:
        name: the file as the user named it.
        data: the content: dicts, lists and scalars only.
        places: where each key stands, as "file:line" or "--set key=value".
        header: the comment above the first key, without the comment marks.
    """

    name: str
    data: dict[Any, Any]
    places: Mapping[KeyPath, str] = field(default_factory=dict)
    header: str = ""

    def place(self, *path: Any) -> str:
        """Where the value at `path` stands, or the nearest enclosing value that is known."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.name

    def error(self, message: str, *path: Any) -> StudyError:
        """A StudyError at the value of `path`."""
        return StudyError(f"{self.place(*path)}: {message}")

    def get(self, *path: Any) -> Any:
        """The value at `path`, or None where there is none."""
        value: Any = self.data
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        return value

    def replaced(self, path: KeyPath, value: Any, place: str) -> Document:
        """This document with the value at `path` replaced."""
        data = _replace(self.data, path, value)
        places = {key: at for key, at in self.places.items() if key[: len(path)] != path}
        return Document(
            name=self.name, data=data, places={**places, path: place}, header=self.header
        )

    def merged(self, *path: Any, whole: frozenset[str] = frozenset()) -> Document:
        """This document with its own part at `path` laid over the top level, key by key.

        Args:
            path: where the part stands, such as ("profiles", "cifar10").
            whole: top-level keys whose value is replaced as a whole.
        """
        part = self.get(*path) or {}
        moved = {
            key[len(path) :]: at
            for key, at in self.places.items()
            if key[: len(path)] == path and len(key) > len(path)
        }
        kept = {
            key: at for key, at in self.places.items() if not (key[0] in whole and key[0] in part)
        }
        bare = {
            key: value for key, value in self.data.items() if not (key in whole and key in part)
        }
        return Document(
            name=self.name,
            data=_deep_merge(bare, part),
            places={**kept, **moved},
            header=self.header,
        )


def _replace(data: Any, path: KeyPath, value: Any) -> Any:
    if not path:
        return value
    inner = data if isinstance(data, dict) else {}
    return {**inner, path[0]: _replace(inner.get(path[0]), path[1:], value)}


def _deep_merge(base: dict[Any, Any], over: Mapping[Any, Any]) -> dict[Any, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _deep_merge(below, value)
        else:
            merged[key] = value
    return merged


def read_yaml(path: Path, name: str) -> Document:
    """The content of a YAML file.

    Args:
        path: the file.
        name: how messages call it.

    Raises:
        StudyError: it cannot be read, does not parse, or is not a mapping; says line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise StudyError(f"{name}: cannot be read: {reason}") from error
    content = _load(text, name)
    if content is None:
        raise StudyError(f"{name}: the file is empty; a study needs at least `study:`, `model:`")
    if not isinstance(content, CommentedMap):
        raise StudyError(f"{name}:1: a study is a mapping (`key: value` lines)")
    places: dict[KeyPath, str] = {}
    data = _plain(content, (), name, places)
    return Document(name=name, data=data, places=places, header=_header(text))


def parse_value(text: str, place: str) -> Any:
    """A value given on the command line, read as YAML 1.2.

    Raises:
        StudyError: the text is no YAML value.
    """
    return _plain(_load(text, place), (), place, {})


def _load(text: str, name: str) -> Any:
    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise StudyError(f"{place}: not valid YAML: {error.problem or error.context}") from error
    except YAMLError as error:
        raise StudyError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from error


def _plain(value: Any, path: KeyPath, name: str, places: dict[KeyPath, str]) -> Any:
    """`value` without ruamel's types; fills `places` on the way."""
    if not isinstance(value, (CommentedMap, CommentedSeq)):
        return _plain_scalar(value, path, name, places)
    marks = value.lc.data or {}
    pairs = value.items() if isinstance(value, CommentedMap) else enumerate(value)
    found = []
    for key, item in pairs:
        own = _plain_scalar(key, path, name, places)
        if key in marks:
            places[(*path, own)] = f"{name}:{marks[key][0] + 1}"
        found.append((own, _plain(item, (*path, own), name, places)))
    return dict(found) if isinstance(value, CommentedMap) else [item for _, item in found]


def _plain_scalar(value: Any, path: KeyPath, name: str, places: dict[KeyPath, str]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise StudyError(
        f"{places.get(path, name)}: a study holds numbers, texts, true, false, null, lists and "
        f"mappings, but got {type(value).__name__}"
    )


def _header(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").removeprefix(" ").rstrip())
    return "\n".join(lines).strip()
