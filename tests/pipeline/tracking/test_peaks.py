"""Memory peaks of blocks of work, also of blocks inside blocks."""

from __future__ import annotations

import mmap
import os

import pytest

from pipeline.tracking.peaks import peaks

needs_marks = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux can forget a process's high-water mark"
)
MANY_BYTES = 320_000_000


def allocate() -> None:
    """Takes and gives back memory of the kernel's own: what malloc keeps back is up to whoever tuned it."""
    with mmap.mmap(-1, MANY_BYTES) as memory:
        for page in range(0, MANY_BYTES, mmap.PAGESIZE):
            memory[page] = 1


@needs_marks
def test_a_phase_that_allocates_little_after_one_that_allocated_much_reports_less() -> None:
    with peaks() as first:
        allocate()
        much = first()["peak_rss_bytes"]
    with peaks() as second:
        little = second()["peak_rss_bytes"]
    assert 0 < little < much - 0.75 * MANY_BYTES
    assert much > MANY_BYTES


@needs_marks
def test_a_phase_keeps_its_peak_when_a_run_within_it_starts_anew() -> None:
    """A trial's run is nested in tuning's: each reports its own peak, and the outer one at least the inner one's."""
    with peaks() as outer:
        allocate()
        with peaks() as inner:
            small = inner()["peak_rss_bytes"]
        assert outer()["peak_rss_bytes"] > small + 0.75 * MANY_BYTES
    with peaks() as outer:
        with peaks() as inner:
            allocate()
            large = inner()["peak_rss_bytes"]
        assert outer()["peak_rss_bytes"] >= large > small + 0.75 * MANY_BYTES
