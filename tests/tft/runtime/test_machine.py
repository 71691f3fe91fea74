"""What is said of the machine."""

from __future__ import annotations

import torch

from tft.runtime.machine import processor


def test_the_processor_says_what_torch_uses_and_nothing_that_changes_from_one_moment_to_the_next() -> None:
    """Clock rates and other figures of /proc/cpuinfo that vary are left out."""
    assert f"torch: {torch.backends.cpu.get_cpu_capability()}" in processor().splitlines()
    assert "MHz" not in processor() and "bogomips" not in processor().lower()
