"""Named profiles and `--set key=value`: changes of a study before it is read."""

from __future__ import annotations

from collections.abc import Iterable

from ablate.errors import StudyError, nearest, unknown
from ablate.study.factors import check_setting, is_setting
from ablate.study.schema import BUDGETS, CONFIGS, KEYS, fields, shown
from ablate.study.tuning import TUNE_KEYS
from ablate.study.yaml_source import Document, KeyPath, parse_value

_REPLACED_WHOLE = frozenset({"match", "tune", "seeds", "space"})


def apply_profile(document: Document, profile: str | None) -> Document:
    """The document with the named profile laid over it, key by key.

    Raises:
        StudyError: the study has no such profile.
    """
    if profile is None:
        return document
    profiles = document.data.get("profiles") or {}
    if profile not in profiles:
        raise document.error(unknown("profile", profile, map(str, profiles)), "profiles")
    return document.merged("profiles", profile, whole=_REPLACED_WHOLE)


def apply_overrides(document: Document, overrides: Iterable[str]) -> Document:
    """The document with every `key=value` applied, in order.

    Args:
        document: the study, its profile applied.
        overrides: dotted keys with YAML 1.2 values, such as "train.epochs=5".

    Raises:
        StudyError: no `=`, a key that does not exist, or a value that is no YAML.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        place = f"--set {text}"
        if not equals or not key.strip():
            raise StudyError(f"{place}: must be key=value, such as train.epochs=5")
        path = _path(document, key.strip(), place)
        parsed = parse_value(value, place)
        if path[0] == "match" and len(path) == 2:  # one budget at a time: it replaces the other
            parsed = {path[1]: parsed}
            path = ("match",)
        document = document.replaced(path, parsed, place)
    return document


def _path(document: Document, key: str, place: str) -> KeyPath:
    """The path of a dotted key; factors and tune have dotted names of their own."""
    top, dot, rest = key.partition(".")
    if top not in KEYS or top == "profiles":
        raise StudyError(f"{place}: {_unknown_key(key, [k for k in KEYS if k != 'profiles'])}")
    if not dot:
        return (top,)
    if not rest:
        raise StudyError(f"{place}: a key must follow {key!r}")
    if top in CONFIGS:
        _check_name(rest, fields(top), top, place)
    elif top == "match":
        _check_name(rest, BUDGETS, top, place)
    elif top == "options":
        check_setting(rest, place)
    elif top in ("factors", "tune", "baseline"):
        _check_factor(document, top, rest, place)
    elif top in ("search", "space"):
        pass  # read strictly later
    elif top == "cluster":
        return (top, *rest.split("."))
    else:
        raise StudyError(f"{place}: {top} has no keys inside, but got {shown(key)}")
    return (top, rest)


def _check_name(name: str, choices: Iterable[str], top: str, place: str) -> None:
    choices = list(choices)
    if name not in choices:
        raise StudyError(f"{place}: in {top}: {unknown('key', name, choices)}")


def _check_factor(document: Document, top: str, name: str, place: str) -> None:
    factors = document.data.get("factors")
    names = list(map(str, factors)) if isinstance(factors, dict) else []
    if name in names or (top != "baseline" and is_setting(name)):
        return
    if top == "tune" and name in TUNE_KEYS:
        return
    raise StudyError(f"{place}: {unknown('factor', name, names)}")


def _unknown_key(key: str, choices: list[str]) -> str:
    """As for every unknown name; a bare `epochs` is led to `train.epochs`."""
    dotted = [f"{top}.{name}" for top in CONFIGS for name in fields(top)]
    inner = {name.partition(".")[2]: name for name in dotted}
    option = f"options.{key}" if is_setting(key) else None
    guess = inner.get(key) or option or nearest(key, [*choices, *dotted])
    hint = f" (did you mean {guess!r}?)" if guess else ""
    return (
        f"unknown key {key!r}{hint}; choose from {', '.join(choices)}, with data.NAME, train.NAME, "
        "options.NAME, factors.NAME for what stands inside"
    )
