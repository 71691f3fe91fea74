"""Pieces of work for tests of processes, in a module that a worker loads at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.config.schema import ConfigError

if TYPE_CHECKING:  # a worker process loads this module anew each time, and these take seconds
    from pipeline.job import Job
    from pipeline.phases.production import Walked


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
    """A repetition whose Sharpe is a tenth of its number, whatever the job came to."""

    repetition: int
    oos_sharpe: float
    seconds: float


def draw(folder: Path, job: Job, number: int) -> tuple[Job, Callable[[Walked, float], Drawn]]:
    """A table of the repetition's own, as no two workers are at the same phase; leaves a file behind when it is done.

    Of two the first is done last: an odd one waits until the next has been delivered.
    """
    panel = job.data.panel

    def measure(walked: Walked, seconds: float) -> Drawn:
        deadline = time.monotonic() + 60.0
        while number % 2 and not (folder / f"delivered-{number + 1}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (folder / f"computed-{number}-{time.monotonic_ns()}").touch()
        return Drawn(number, number / 10.0, 0.0)

    return job.on(replace(job.data, panel=replace(panel, returns=number * panel.returns))), measure
