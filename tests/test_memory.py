"""Memory that is freed stays in the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, threading
import torch
from tft.memory import keep_freed_memory

if {kept}:
    keep_freed_memory()

def pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step() -> None:
    torch.set_num_threads(1)
    for _ in range(20):  # the first ones still grow the heap
        torch.ones(25_000_000)
    meeting.wait()
    before.append(pages())
    meeting.wait()
    for _ in range(10):
        torch.ones(25_000_000)

before, meeting = [], threading.Barrier(2)
threads = [threading.Thread(target=step) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(pages() - before[0])
"""


def new_pages(*, kept: bool) -> int:
    """That two threads take while each fills a tensor of 100 MB ten times."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(kept=kept)], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_two_threads_use_again_what_they_freed() -> None:
    """Otherwise each of the twenty tensors takes pages for all of its 100 MB."""
    of_a_tensor = 100_000_000 / 4096
    assert new_pages(kept=True) < of_a_tensor
    assert new_pages(kept=False) > 2 * of_a_tensor
