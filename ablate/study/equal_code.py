"""Earlier code whose results hold for today's: since then the function changed in rounding only.

A row carries a digest of the code that made it. Where that digest is another one, the row counts as
stale, unless it is listed here: changes for speed, which the tests named hold to the same function.
The list is for one code, `NOW`: with the next change of the digest it lapses, until somebody has
looked whether that change, too, leaves the numbers alone.
"""

from __future__ import annotations

NOW = "f33ebdffb0ca"
"""The digest that the list is for (`ablate.study.environment.code_digest`)."""
EQUAL: dict[str, str] = {
    "f17ef9d70bc2": "47ade57: since then other routes on the CPU for small heads, resized tokens "
    "and large feed-forward parts (tests/test_models_routes.py), one warning fewer; "
    "ties of bf16 logits count as the prediction does (a few images of 10,000)",
}
"""Digests of earlier code, and why their results hold."""


def holds(then: str | None, now: str) -> bool:
    """Whether a row of the code `then` is a row of the code `now`, up to rounding."""
    return then in (None, now) or (now == NOW and then in EQUAL)
