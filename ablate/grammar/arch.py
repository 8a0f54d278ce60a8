"""The syntax of arch strings: text to `Arch` and back; defaults are not filled in here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ablate.errors import GrammarError, unknown
from ablate.kinds import KINDS, letters
from ablate.options import NET_OPTIONS, OPTIONS, Value, format_value

Options = tuple[tuple[str, Value], ...]

_NUMBER = re.compile(r"[1-9][0-9]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE = re.compile(r"[A-Za-z0-9_.:/+-]+")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Blocks of one kind in a row (or the stem, or the parallel group), as written.

    Args:
        kind: one letter of the registry.
        depth: number of blocks; None where the string leaves it out.
        width: channels; None where the string leaves it out.
        options: (name, value) pairs in the order written.
        column: 1-based place in the text, for error messages; not part of equality.
    """

    kind: str
    depth: int | None = None
    width: int | None = None
    options: Options = ()
    column: int = field(default=1, compare=False)

    def __str__(self) -> str:
        depth = "" if self.depth is None else str(self.depth)
        width = "" if self.width is None else f"x{self.width}"
        options = f"({_format_options(self.options)})" if self.options else ""
        return f"{self.kind}{depth}{width}{options}"


@dataclass(frozen=True, kw_only=True)
class Arch:
    """A network as written: stem, stages, parallel group, options of the whole net.

    `str(arch)` is the inverse of `parse`. `text` is what was parsed, for error messages.
    """

    stages: tuple[tuple[Run, ...], ...]
    stem: Run | None = None
    group: Run | None = None
    options: Options = ()
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        stem = f"{self.stem}:" if self.stem else ""
        stages = "-".join("+".join(map(str, stage)) for stage in self.stages)
        group = f"|{self.group}" if self.group else ""
        options = f"@{_format_options(self.options)}" if self.options else ""
        return f"{stem}{stages}{group}{options}"

    def parts(self) -> Iterator[Run]:
        """The stem, every run and the group, in the order written."""
        if self.stem:
            yield self.stem
        for stage in self.stages:
            yield from stage
        if self.group:
            yield self.group

    def error(self, message: str, part: Run | None = None) -> GrammarError:
        """A GrammarError at a part of this arch (or at its beginning)."""
        column = part.column if part else 1
        text = self.text or str(self)
        return GrammarError(message, text, min(column, len(text) + 1))


def _format_options(options: Options) -> str:
    return ";".join(f"{name}={format_value(value)}" for name, value in options)


def parse(text: str) -> Arch:
    """The network that a string describes; see `ablate.grammar` for the grammar.

    Raises:
        GrammarError: an unknown, repeated, misplaced or missing token, with its column.
    """
    arch = _Parser(text).arch()
    for name, _ in arch.options:
        takers = [letter for letter, kind in KINDS.items() if name in kind.options]
        if name not in NET_OPTIONS and not any(part.kind in takers for part in arch.parts()):
            raise GrammarError(
                f"option {name!r} has no block here: it belongs to {', '.join(takers)}",
                text,
                text.rindex(name) + 1,
            )
    return arch


class _Parser:
    """Recursive descent over one string; `at` is the 0-based place of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, message: str, at: int | None = None) -> GrammarError:
        return GrammarError(message, self.text, (self.at if at is None else at) + 1)

    def arch(self) -> Arch:
        stem = self.run("stem") if ":" in self._before_options() else None
        if stem:
            self.expect(":")
        stages = [self.stage()]
        while self.take("-"):
            stages.append(self.stage())
        group = self.group() if self.take("|") else None
        options = self.options("") if self.take("@") else ()
        if self.at < len(self.text):
            raise self.fail(f"unexpected {self.text[self.at]!r}")
        return Arch(stem=stem, stages=tuple(stages), group=group, options=options, text=self.text)

    def _before_options(self) -> str:
        """The text outside parentheses and before `@`, where a colon ends the stem."""
        return re.sub(r"\([^)]*\)?", "", self.text).split("@")[0]

    def stage(self) -> tuple[Run, ...]:
        runs = [self.run("block")]
        while self.take("+"):
            runs.append(self.run("block"))
        return tuple(runs)

    def group(self) -> Run:
        group = self.run("group")
        if group.depth is None:
            raise self.fail("a parallel group needs its depth, such as P6")
        if group.width is not None:
            raise self.fail("a parallel group has the width of its stages", group.column - 1)
        return group

    def run(self, role: str) -> Run:
        start = self.at
        kind = self.kind(role)
        depth = self.number()
        width = None
        if self.take("x"):
            width = self.number()
            if width is None:
                raise self.fail("a width follows 'x', a whole number of at least 1")
        options: Options = ()
        if self.take("("):
            options = self.options(kind)
            self.expect(")")
        return Run(kind=kind, depth=depth, width=width, options=options, column=start + 1)

    def kind(self, role: str) -> str:
        if self.at >= len(self.text):
            raise self.fail(f"a {role} is missing; choose from {', '.join(letters(role))}")
        letter = self.text[self.at]
        if letter not in letters(role):
            if letter in KINDS:
                message = f"kind {letter!r} is a {KINDS[letter].role}, here stands a {role}"
                raise self.fail(f"{message}; choose from {', '.join(letters(role))}")
            raise self.fail(unknown("kind", letter, letters(role)))
        self.at += 1
        return letter

    def number(self) -> int | None:
        found = _NUMBER.match(self.text, self.at)
        if found is None:
            if self.text[self.at : self.at + 1].isdigit():
                raise self.fail("a number starts with 1 to 9")
            return None
        self.at = found.end()
        return int(found.group())

    def options(self, kind: str) -> Options:
        """Options in the parentheses of a run of `kind`, or of the whole net (kind "")."""
        found: dict[str, Value] = {}
        while True:
            start = self.at
            name, value = self.option(kind)
            if name in found:
                raise self.fail(f"option {name!r} stands twice", start)
            found[name] = value
            if not self.take(";"):
                break
        if "head_dim" in found and "num_heads" in found:
            raise self.fail("give one of head_dim and num_heads, not both", start)
        return tuple(found.items())

    def option(self, kind: str) -> tuple[str, Value]:
        start = self.at
        match = _NAME.match(self.text, self.at)
        if match is None:
            raise self.fail("an option is name=value")
        name = match.group()
        self.check_option(name, kind)
        self.at = match.end()
        self.expect("=")
        value = _VALUE.match(self.text, self.at)
        if value is None:
            raise self.fail(f"option {name!r} has no value")
        self.at = value.end()
        try:
            return name, parse_option(name, value.group(), kind)
        except ValueError as error:
            raise self.fail(f"{name}={value.group()}: {error}", start) from None

    def check_option(self, name: str, kind: str) -> None:
        if kind:
            if name in NET_OPTIONS:
                raise self.fail(f"option {name!r} is of the whole net: it stands after '@'")
            if name not in KINDS[kind].options:
                raise self.fail(unknown(f"option of kind {kind}", name, KINDS[kind].options))
        elif name not in OPTIONS:
            raise self.fail(unknown("option", name, sorted(OPTIONS)))
        elif OPTIONS[name].local:
            raise self.fail(f"option {name!r} is of one run: it stands in parentheses")

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.take(token):
            found = self.text[self.at : self.at + 1]
            raise self.fail(f"expected {token!r}" + (f", found {found!r}" if found else ""))


def parse_option(name: str, text: str, kind: str = "") -> Value:
    """The value of an option, checked against the choices of its kind.

    Raises:
        ValueError: the text is no value of this option; its message says the rule.
    """
    value = OPTIONS[name].parse(text)
    choices: Mapping[str, tuple[str, ...]] = KINDS[kind].choices if kind else {}
    if name in choices and value not in choices[name]:
        raise ValueError(unknown(f"value for kind {kind}", value, choices[name]))
    return value
