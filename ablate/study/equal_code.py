"""Earlier code whose results hold for today's: since then the function changed in rounding only.

A row carries a digest of the code that made it. Where that digest is another one, the row counts as
stale, unless it is listed here: changes for speed, which the tests named hold to the same function.
The list is for one code, `NOW`: with the next change of the digest it lapses, until somebody has
looked whether that change, too, leaves the numbers alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Equal:
    """Why the results of earlier code hold, and for which kinds of block they do not."""

    why: str
    unless: str = ""


NOW = "a94f93f72681"
"""The digest that the list is for (`ablate.study.environment.code_digest`)."""
EQUAL = {
    "f17ef9d70bc2": Equal(
        "47ade57: since then other routes on the CPU for small heads, resized tokens and large "
        "feed-forward parts (tests/test_models_routes.py), one warning fewer; ties of bf16 logits "
        "count as the prediction does (a few images of 10,000)",
        unless="T",  # its entrance starts from other weights
    ),
    "0b65a64ab0e1": Equal(
        "3c132ff: since then CRPE's convolutions go as one on the CPU, and the gradients of their "
        "kernels on its matrix unit (tests/test_models_routes.py); small images are decoded by one "
        "thread"
    ),
}
"""Digests of earlier code."""


def holds(then: str | None, now: str, arch: str | None) -> bool:
    """Whether a row of the code `then` is a row of the code `now`, up to rounding.

    Args:
        then, now: digests; None is not known, and taken to be the same.
        arch: the row's network.
    """
    if then in (None, now):
        return True
    equal = EQUAL.get(then or "") if now == NOW else None
    return equal is not None and not set(equal.unless) & set(arch or "")
