"""The frequency of bars, by times written out."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.proposal.calendar import calendar_of


def weekdays(first: str, n: int) -> np.ndarray:
    return np.busday_offset(np.datetime64(first), np.arange(n), roll="forward")


def every(step: str, n: int, first: str = "2024-01-01") -> np.ndarray:
    size, unit = step.split()
    return np.datetime64(first, "us") + np.arange(n) * np.timedelta64(int(size), unit)


def sessions(days: np.ndarray, start_minute: int, step_minutes: int, n: int) -> np.ndarray:
    minutes = start_minute + step_minutes * np.arange(n)
    return (days.astype("datetime64[m]")[:, None] + minutes).ravel().astype("datetime64[us]")


@pytest.mark.parametrize(
    ("times", "name", "per_year"),
    [
        (weekdays("2020-01-01", 800), "daily", 252),
        (weekdays("2024-01-01", 30), "daily", 252),
        (every("1 D", 800), "daily", 365),
        (every("1 D", 30), "daily", 365),
        (every("7 D", 200), "weekly", 52),
        (np.arange("2010-01", "2020-01", dtype="datetime64[M]").astype("datetime64[D]"), "monthly", 12),
        (sessions(weekdays("2024-01-01", 150), 570, 5, 78), "5-minute bars, 78 a day", 78 * 252),
        (sessions(weekdays("2024-01-01", 150), 555, 1, 375), "1-minute bars, 375 a day", 375 * 252),
        (every("1 h", 24 * 100), "1-hour bars, 24 a day", 24 * 365),
        (sessions(weekdays("2024-01-01", 150), 570, 390, 1), "daily", 252),  # a day's bar, stamped at its close
    ],
)
def test_bars_are_counted(times: np.ndarray, name: str, per_year: int) -> None:
    found = calendar_of(times)
    assert (found.name, found.periods_per_year) == (name, per_year)


def test_a_calendar_of_its_own_is_counted_and_not_rounded_to_a_usual_one() -> None:
    """Every other day for two years: 183 days a year have bars."""
    found = calendar_of(every("2 D", 365))
    assert (found.name, found.periods_per_year) == ("daily", 183)
