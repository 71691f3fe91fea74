"""What is said of the machine."""

from __future__ import annotations

import subprocess
import sys

import torch

from tft.runtime.machine import processor


def test_the_processor_is_the_same_in_every_process_and_names_what_torch_uses() -> None:
    program = "from tft.runtime.machine import processor; print(processor())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.rstrip("\n") == processor()
    assert f"torch: {torch.backends.cpu.get_cpu_capability()}" in processor().splitlines()


def test_nothing_in_it_changes_from_one_moment_to_the_next() -> None:
    """Clock rates and the like, which the system lists too."""
    assert "MHz" not in processor() and "bogomips" not in processor().lower()
