"""The errors that a user can cause, and the words they are told in.

Every message says what was wrong, where, the value, the valid choices and the nearest one.
The command line prints it and exits with code 2; a bug of ours is never an `AblateError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AblateError(Exception):
    """A mistake in what the user gave us; its text is the whole explanation."""


class GrammarError(AblateError):
    """An arch string that does not parse or cannot be built; shows the column.

    Args:
        message: what is wrong, without the place.
        text: the whole arch string.
        column: 1-based column of the token at fault.
    """

    def __init__(self, message: str, text: str, column: int) -> None:
        self.reason = message
        self.text = text
        self.column = column
        super().__init__(f"{message}\n  {text}\n  {' ' * (column - 1)}^ column {column}")


class StudyError(AblateError):
    """A study file, or a value that overrides it, that is wrong; says file, line and key."""


class ConfigError(AblateError):
    """A data or training setting outside its rules."""


class DataError(AblateError):
    """A dataset that is missing, incomplete or damaged; names the folder or file."""


class ModelError(AblateError):
    """A network that cannot be built as asked (image size, heads, unknown preset)."""


class WeightsError(AblateError):
    """A weights file that does not fit the network; names the first keys that do not."""


class ResultsError(AblateError):
    """Rows that are missing, damaged or contradict each other."""


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """The choice most like `value`, or None where nothing is alike."""
    folded = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(value.casefold(), folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def unknown(what: str, value: object, choices: Iterable[str]) -> str:
    """The sentence for an unknown name: the value, the nearest name, the choices.

    >>> unknown("kind", "X", ["C", "T"])
    "unknown kind 'X'; choose from C, T"
    """
    names = list(choices)
    guess = nearest(str(value), names)
    hint = f" (did you mean {guess!r}?)" if guess else ""
    listed = ", ".join(names) if names else "nothing: there are none"
    return f"unknown {what} {value!r}{hint}; choose from {listed}"
