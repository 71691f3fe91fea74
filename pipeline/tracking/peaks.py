"""Wall time and memory peaks of a block of work, blocks inside it included."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

_open: list[dict[str, float]] = []
"""Peaks of the blocks that are open, up to when the latest of them began: it starts the process's marks anew."""


@contextmanager
def peaks() -> Iterator[Callable[[], dict[str, float]]]:
    """Yields a function that gives phase_seconds, peak_rss_bytes and peak_gpu_bytes since the block began."""
    started = time.perf_counter()
    for outer in _open:
        outer |= _highest(outer)
    own: dict[str, float] = {}
    _open.append(own)
    _reset_peak_rss()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    def measured() -> dict[str, float]:
        return {"phase_seconds": time.perf_counter() - started} | _highest(own)

    try:
        yield measured
    finally:
        _open.pop()


def _highest(before: Mapping[str, float]) -> dict[str, float]:
    marks = {"peak_rss_bytes": float(_peak_rss_bytes())}
    if torch.cuda.is_available():
        marks["peak_gpu_bytes"] = float(torch.cuda.max_memory_allocated())
    return {name: max(value, before.get(name, 0.0)) for name, value in marks.items()}


def _reset_peak_rss() -> None:
    """Linux forgets a process's high-water mark when asked to; elsewhere the mark is the process's own so far."""
    marks = Path("/proc/self/clear_refs")
    if marks.exists() and os.access(marks, os.W_OK):
        marks.write_text("5")


def _peak_rss_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
