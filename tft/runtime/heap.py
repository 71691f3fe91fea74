"""Settings of the C heap by which freed memory is reused, because the operating system must clear fresh pages."""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt, from glibc's malloc.h."""


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed memory in the process; other C libraries are not changed.

    Must be called before threads are started: later threads then share one heap. Otherwise each would have its own,
    which returns blocks above 64 MB to the system in spite of these settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)
