"""A number and its standard error, from a series of bars. Shapes: T bars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.arguments import is_constant
from pipeline.statistics.standard_errors import error_of_mean, sharpe_standard_error
from tft.metrics import MIN_INFERENCE_BARS, sharpe

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error (HAC); None under MIN_INFERENCE_BARS bars, or where nothing varies."""

    value: float
    standard_error: float | None

    @property
    def t(self) -> float | None:
        return None if self.standard_error is None else self.value / self.standard_error


def mean_error(series: Array) -> float | None:
    """HAC standard error of the mean of a series of bars (T,), in whatever unit; None as in `Estimate`."""
    if len(series) < MIN_INFERENCE_BARS or is_constant(series):
        return None
    return error_of_mean(series - series.mean())


def sum_estimate(series: Array) -> Estimate:
    """The sum of a series of bars (T,)."""
    error = mean_error(series)
    return Estimate(float(series.sum()), None if error is None else error * len(series))


def sharpe_estimate(returns: Array, *, periods_per_year: float) -> Estimate | None:
    """Annual Sharpe ratio of returns (T,) without NaN; None where it would have no standard error."""
    if len(returns) < MIN_INFERENCE_BARS or is_constant(returns):
        return None
    try:
        error = sharpe_standard_error(returns)
    except ValueError:  # returns of only a few distinct values have none
        return None
    return Estimate(sharpe(returns, periods_per_year=periods_per_year), error * math.sqrt(periods_per_year))
