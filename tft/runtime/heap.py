"""Memory that is used again, instead of fresh pages that the kernel has to clear."""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt, from glibc's malloc.h."""


@cache
def keep_freed_memory() -> None:
    """Freed memory stays in the process, with glibc; other C libraries are left as they are.

    To be called before there are threads: those that start later share the heap of the process. A heap of their own
    would give back what is larger than 64 MB, whatever is asked for here.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)
