"""Properties of the machine on which the bits of a result depend."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch


@cache
def processor() -> str:
    """Model and features of the CPU, which determine the code of `-march=native` and of torch."""
    return f"{_cpuinfo()}\ntorch: {torch.backends.cpu.get_cpu_capability()}"


def _cpuinfo() -> str:
    """Entries of /proc/cpuinfo for the first core that identify it; `platform.uname` where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return str(platform.uname())
    prefixes = ("vendor", "cpu family", "model", "stepping", "flags", "CPU", "Features")
    return "\n".join(line for line in first if line.startswith(prefixes))
