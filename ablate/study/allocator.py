"""The C library's allocator, told not to give back what the next step asks for again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of `mallopt` in glibc's malloc.h."""
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Serve large blocks from memory that this process has already, where glibc is the library.

    By default glibc returns blocks of megabytes to the system as soon as they are freed, and each
    training step pays for the same pages anew: 5 to 10% of the step of a micro network. Here the
    process keeps what it needed at its peak until it ends. Nothing else changes.

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
