"""Memory that is freed stays in the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, threading
from tft.runtime.heap import keep_freed_memory

if {kept}:
    keep_freed_memory()

def pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step() -> None:
    for _ in range(3):  # the first ones grow the heap
        b'x' * size
    meeting.wait()
    before.append(pages())
    meeting.wait()
    for _ in range(10):
        b'x' * size

size, before, meeting = 100_000_000, [], threading.Barrier(2)
threads = [threading.Thread(target=step) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(pages() - before[0])
"""


def new_pages(*, kept: bool) -> int:
    """Pages that two threads take from the system while each fills 100 MB ten times."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(kept=kept)], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_two_threads_use_again_what_they_freed() -> None:
    """Otherwise each of the twenty fills would take pages for all of the 100 MB."""
    of_one = 100_000_000 / 4096
    assert new_pages(kept=True) < of_one
    assert new_pages(kept=False) > 10 * of_one
