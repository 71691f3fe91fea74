"""What kind of bars a table has, by its times alone. Shapes: T bars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_SPAN_DAYS = 60
"""Over a shorter span the days of a year are not counted but taken from the weekdays."""
_DAY_S = 86_400.0
_SLOW = ((5.0, 9.0, 52, "weekly"), (27.0, 32.0, 12, "monthly"), (85.0, 95.0, 4, "quarterly"))
"""Least and most days between bars, bars a year, and what such bars are called."""


@dataclass(frozen=True)
class Calendar:
    """The frequency of a table's bars."""

    name: str
    """Such as `daily`, or `15-minute bars, 26 a day`."""
    periods_per_year: int
    why: str
    """What the number of periods was taken from."""


def calendar_of(times: NDArray[np.datetime64]) -> Calendar:
    """The calendar of the times (T,) of at least two bars."""
    days = np.unique(times.astype("datetime64[D]"))
    spacing_s = float(np.median(np.diff(times) / np.timedelta64(1, "s")))
    if len(days) == len(times):
        spacing_days = spacing_s / _DAY_S
        for least, most, per_year, name in _SLOW:
            if least <= spacing_days <= most:
                return Calendar(name, per_year, f"a bar every {spacing_days:.0f} days")
        if spacing_days > 2.0:
            return Calendar("irregular", max(1, round(365.25 / spacing_days)), f"a bar every {spacing_days:.0f} days")
        per_year, why = _days_per_year(days)
        return Calendar("daily", per_year, why)
    per_day = int(np.median(np.unique(times.astype("datetime64[D]"), return_counts=True)[1]))
    per_year, why = _days_per_year(days)
    size = f"{spacing_s / 60:.0f}-minute" if spacing_s < 3600 else f"{spacing_s / 3600:.3g}-hour"
    if spacing_s < 60:
        size = f"{spacing_s:.3g}-second"
    return Calendar(f"{size} bars, {per_day} a day", per_day * per_year, f"{per_day} bars a day, {why}")


def _days_per_year(days: NDArray[np.datetime64]) -> tuple[int, str]:
    """Days with bars in a year: 252 or 365 where these are about it, else as counted."""
    span = int((days[-1] - days[0]) / np.timedelta64(1, "D")) + 1
    weekdays_only = bool(np.is_busday(days).mean() > 0.99)
    counted = len(days) / span * 365.25
    if span < LEAST_SPAN_DAYS:
        return (252, "weekdays") if weekdays_only else (365, "weekends included")
    if weekdays_only and 235 <= counted <= 266:
        return 252, "weekdays"
    if counted > 350:
        return 365, "weekends included"
    return max(1, round(counted)), f"{counted:.0f} days a year have bars"
