"""Pieces of work for tests of pipeline/execution.py, in a module that a worker loads at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from pipeline.config import ConfigError


def ignore(_: object) -> None:
    return


def fail_below_zero(offset: int, item: int) -> int:
    """The square and an offset."""
    if item < 0:
        raise ConfigError([f"{item} is negative", "and that twice"])
    return item * item + offset


def sleep_as_told(folder: Path, seconds: float) -> float:
    (folder / f"{seconds}.{os.getpid()}").touch()
    time.sleep(seconds)
    return seconds


def wait_for_the_second(folder: Path, item: int) -> int:
    deadline = time.monotonic() + 60.0
    while item == 1 and not (folder / "second").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return item


def die(_: None, item: int) -> int:
    if item:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def surroundings(_: None, item: int) -> tuple[int, str | None, int]:
    return torch.get_num_threads(), os.environ.get("OMP_WAIT_POLICY"), os.getpid()
