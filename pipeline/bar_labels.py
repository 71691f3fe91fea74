"""Bars as text, by their dates or times: as briefly as they can be told apart."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

BarUnit = Literal["D", "m", "s"]


def bar_unit(times: NDArray[np.datetime64]) -> BarUnit:
    """The coarsest unit that tells bars apart: days unless a day has several of them, else minutes, else seconds."""
    n_bars = len(np.unique(times))
    units: tuple[BarUnit, ...] = ("D", "m")
    return next((unit for unit in units if len(np.unique(times.astype(f"datetime64[{unit}]"))) == n_bars), "s")


def bar_label(time: str | None, unit: BarUnit) -> str:
    """A bar's ISO time as text, to the unit."""
    if time is None:
        return "no test"
    return str(np.datetime64(time).astype(f"datetime64[{unit}]")).replace("T", " ")
