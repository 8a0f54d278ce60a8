"""The C library's allocator: large pages, and memory kept for the next step."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of `mallopt` in glibc's malloc.h."""
_LARGEST = 2**31 - 1
_TUNABLES, _LARGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_changing = threading.Lock()


def keep_freed_memory() -> bool:
    """Serve large blocks from memory that this process has already, where glibc is the library.

    By default glibc returns blocks of megabytes to the system as soon as they are freed, and each
    training step pays for the same pages anew. Here the process keeps what it needed at its peak
    until it ends; it pays together with `large_pages` (docs/performance.md). Nothing else changes.

    Returns:
        Whether it was done: not outside Linux, nor with another C library.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(name, _LARGEST) for name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def large_pages(environment: Mapping[str, str]) -> str:
    """The value of `GLIBC_TUNABLES` with which a new process asks for pages of 2 MiB.

    With pages of 4 KiB a network's activations take more of them than the processor can look up at
    once. glibc (2.35 and later; others ignore it) then advises Linux to back its heap with large
    pages, which works where transparent huge pages are on or left to advice, as is usual. What the
    user has set is kept, and wins.
    """
    given = environment.get(_TUNABLES, "")
    if _LARGE_PAGES in given:
        return given
    return f"{given}:{_LARGE_PAGES}=1".lstrip(":")


@contextmanager
def starting_with_large_pages() -> Iterator[None]:
    """Within, processes start with large pages: glibc reads its settings before a program runs."""
    with _changing:
        before = os.environ.get(_TUNABLES)
        os.environ[_TUNABLES] = large_pages(os.environ)
        try:
            yield
        finally:
            if before is None:
                del os.environ[_TUNABLES]
            else:
                os.environ[_TUNABLES] = before
