"""Pieces of work for tests of processes, in a module that a worker loads at once."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.config.schema import ConfigError

if TYPE_CHECKING:  # a worker process loads this module anew each time, and that one takes seconds
    from pipeline.job import Job


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


@dataclass(frozen=True)
class Drawn:
    """A repetition that computes nothing: its Sharpe is a tenth of its number."""

    repetition: int
    oos_sharpe: float
    seconds: float


def draw(folder: Path, job: Job, repetition: int, keep: Path) -> Drawn:
    """Leaves a file behind. Of two the first is done last: an odd one waits until the next has been delivered."""
    deadline = time.monotonic() + 60.0
    while repetition % 2 and not (folder / f"delivered-{repetition + 1}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (folder / f"computed-{repetition}-{time.monotonic_ns()}").touch()
    return Drawn(repetition, repetition / 10.0, 0.0)
