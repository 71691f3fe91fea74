"""How a record went over time: the Sharpe ratio of the past year, exposure and turnover.

Shapes: n bars, A instruments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.statistics.estimate import sharpe_estimate
from tft.record import Record

Array = NDArray[np.float64]

MONTHS_A_YEAR = 12


@dataclass(frozen=True, eq=False)
class Course:
    """Series (n,) over the bars of a record with a known return. Exposures are fractions of the portfolio's capital."""

    times: NDArray[np.datetime64]
    segment: NDArray[np.str_]
    window_bars: int
    """Bars of a year."""
    month_bars: int
    sharpe: Array
    """Annual net Sharpe ratio of the year that ends here; NaN before the first one."""
    whole: float | None
    """Net Sharpe ratio of all bars; None where it has no standard error, as below."""
    noise: float | None
    """Standard error of a year's Sharpe ratio: the HAC error of the whole record's, carried over to the length of a
    year. So much it would scatter around `whole` if nothing ever changed."""
    gross_exposure: Array
    """Mean of absolute positions over the instruments."""
    net_exposure: Array
    turnover: Array
    """Annual, mean over the month that ends here; NaN before the first one."""


def course(record: Record) -> Course:
    """The course of a whole record, whichever segments it has; bars between development and holdout are neither."""
    own = record.rows(np.isfinite(record.net()) & (record.segment != "between"))
    net, periods = own.net(), own.timing.periods_per_year
    window, month = round(periods), max(1, round(periods / MONTHS_A_YEAR))
    whole = sharpe_estimate(net, periods_per_year=periods)
    held = np.isfinite(own.earned.net)

    def over_instruments(values: Array) -> Array:
        return np.asarray(np.where(held, values, 0.0).sum(axis=1) / held.sum(axis=1))

    return Course(
        times=own.times,
        segment=own.segment,
        window_bars=window,
        month_bars=month,
        sharpe=rolling_sharpe(net, window, periods_per_year=periods),
        whole=whole.value if whole else None,
        noise=whole.standard_error * math.sqrt(len(net) / window) if whole and whole.standard_error else None,
        gross_exposure=over_instruments(np.abs(own.position)),
        net_exposure=over_instruments(own.position),
        turnover=pd.Series(over_instruments(own.earned.change)).rolling(month).mean().to_numpy() * periods,
    )


def rolling_sharpe(net: Array, window_bars: int, *, periods_per_year: float) -> Array:
    """Annual Sharpe ratios (n,) of the `window_bars` returns up to each of net returns (n,); NaN with fewer, and where
    they do not vary.
    """
    windows = pd.Series(net).rolling(window_bars)
    deviation = windows.std().to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = windows.mean().to_numpy() / np.where(deviation > 1e-12, deviation, np.nan)
    return np.asarray(ratio * math.sqrt(periods_per_year))
