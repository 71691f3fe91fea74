"""The machine that computes, as far as results depend on it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch


@cache
def processor() -> str:
    """Model and capability of the CPU: what `-march=native` and torch's choice of code depend on."""
    return f"{_listed()}\ntorch: {torch.backends.cpu.get_cpu_capability()}"


def _listed() -> str:
    """What the system lists of its first core; in short where it has no such list."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return str(platform.uname())
    told = ("vendor", "cpu family", "model", "stepping", "flags", "CPU", "Features")
    return "\n".join(line for line in first if line.startswith(told))
