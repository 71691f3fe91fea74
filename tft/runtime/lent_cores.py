"""Cores that have nothing to do, lent to those that have.

A worker without work left lends its core while it waits for the others; an operation whose parts do not depend on each
other takes what is lent. Who waits is chance: what an operation gives must not depend on how it is cut.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

MAX_PARTS = 8
"""Most parts of one operation: more would be too small for what it costs to hand them over."""
_lent = threading.Semaphore(0)


@contextmanager
def lend() -> Iterator[None]:
    """The caller's core, until the end of the block; that waits for those who still use it."""
    _lent.release()
    try:
        yield
    finally:
        _lent.acquire()


def share(n: int, work: Callable[[int, int], None], *, multiple: int = 1) -> None:
    """work(first, stop) for parts of range(n), each but the last a multiple, on the caller's core and those lent."""
    n_units = -(-n // multiple)
    n_borrowed = 0
    while n_borrowed + 1 < min(n_units, MAX_PARTS) and _lent.acquire(blocking=False):
        n_borrowed += 1
    if not n_borrowed:
        work(0, n)
        return
    try:
        size = -(-n_units // (n_borrowed + 1)) * multiple
        (own, *others) = [(first, min(first + size, n)) for first in range(0, n, size)]
        with ThreadPoolExecutor(n_borrowed) as pool:
            handed_over = [pool.submit(work, *part) for part in others]
            work(*own)
            for other in handed_over:
                other.result()
    finally:
        _lent.release(n_borrowed)
