"""Idle threads lend their core to operations of other threads.

A thread that has run out of work lends its core while it waits for the others; an operation with independent parts
runs some of them on the cores lent at that moment. Their number is a matter of timing, so that an operation's result
must not depend on how it is divided.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

MAX_PARTS = 8
"""Most parts that an operation is divided into; smaller parts would not pay for starting their threads"""
_idle_cores = threading.Semaphore(0)
"""Counts the cores that are lent and not in use"""


@contextmanager
def lend() -> Iterator[None]:
    """Lend the caller's core until the end of the block, which waits until a core is free again."""
    _idle_cores.release()
    try:
        yield
    finally:
        _idle_cores.acquire()


def share(n: int, work: Callable[[int, int], None], *, multiple: int = 1) -> None:
    """Call work(first, stop) for consecutive parts of range(n), on the caller's core and on the cores that are lent.

    The size of each part but the last is a multiple of `multiple`.
    """
    n_units = -(-n // multiple)
    n_borrowed = 0
    while n_borrowed + 1 < min(n_units, MAX_PARTS) and _idle_cores.acquire(blocking=False):
        n_borrowed += 1
    if not n_borrowed:
        work(0, n)
        return
    try:
        size = -(-n_units // (n_borrowed + 1)) * multiple
        (first_part, *others) = [(first, min(first + size, n)) for first in range(0, n, size)]
        with ThreadPoolExecutor(n_borrowed) as pool:
            submitted = [pool.submit(work, *part) for part in others]
            work(*first_part)
            for part_submitted in submitted:
                part_submitted.result()
    finally:
        _idle_cores.release(n_borrowed)
