"""Volatility, label, and the return that a position earns.

Shapes: T bars, A instruments. A decision made with information through bar t is held over bar t + 1 + delay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPAN_BARS = 60
"""Span of the exponential weights"""
MEMORY_BARS = 252
"""Older returns have no weight"""
MIN_RETURNS = 20
"""With fewer returns there is no volatility"""


@dataclass(frozen=True)
class Timing:
    """Bar frequency, the delay until a decision takes effect, and the horizon of its label."""

    periods_per_year: float = 252.0
    delay_bars: int = 1
    """The decision of bar t is held over bar t + 1 + delay_bars"""
    horizon: int = 1
    """The label of bar t ends at bar t + delay_bars + horizon"""

    @property
    def label_bars(self) -> int:
        """Number of bars from a decision to the end of its label."""
        return self.delay_bars + self.horizon


def ewm_volatility(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Volatility sigma (T, A) per bar: exponentially weighted standard deviation of returns (T, A), bias-corrected.

    Weights have a span of SPAN_BARS over the last MEMORY_BARS bars up to and including t; missing returns are ignored.
    NaN with fewer than MIN_RETURNS returns or no variation. Because the memory is finite, a live table of the last bars
    gives exactly the backtest's value; because sums are accumulated lag by lag, the rounding of a (bar, instrument)
    does not depend on the rest of the array.
    """
    decay = 1.0 - 2.0 / (SPAN_BARS + 1.0)
    lags = range(min(MEMORY_BARS, len(returns)))

    def lagged_sum(values: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
        total = np.zeros_like(values)
        for lag in lags:
            total[lag:] += ratio**lag * values[: len(values) - lag]
        return total

    present = np.isfinite(returns)
    weight = lagged_sum(present.astype(np.float64), decay)
    weight_squared = lagged_sum(present.astype(np.float64), decay**2)
    count = lagged_sum(present.astype(np.float64), 1.0)
    filled = np.where(present, returns, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = lagged_sum(filled, decay) / weight
        squared = np.zeros_like(filled)
        for lag in lags:
            end = len(returns) - lag
            deviation = np.where(present[:end], filled[:end] - mean[lag:], 0.0)
            squared[lag:] += decay**lag * deviation**2
        # Reliability weights: dividing by this makes the weighted variance of iid returns unbiased.
        variance = squared / (weight - weight_squared / weight)
        # Rounding leaves a constant return a spread of about 1e-16 of its size, not always an exact zero.
        usable = (count >= MIN_RETURNS) & (variance > (1e-12 * mean) ** 2)
        return np.where(usable, np.sqrt(np.where(usable, variance, np.nan)), np.nan)


def held_return(returns: NDArray[np.float64], timing: Timing) -> NDArray[np.float64]:
    """Return (T, A) of bar t + 1 + delay_bars, earned by the decision of bar t; NaN if not traded or not known yet."""
    held = np.full_like(returns, np.nan)
    lead = 1 + timing.delay_bars
    held[:-lead] = returns[lead:]
    return held


def label(returns: NDArray[np.float64], timing: Timing) -> NDArray[np.float64]:
    """Label (T, A): simple return from the close of bar t + delay_bars to that of bar t + delay_bars + horizon.

    A bar without a trade counts as a return of 0; the label is NaN if no bar of the horizon was traded, and at the end,
    where it is not known yet.
    """
    n_bars = len(returns)
    growth = np.ones_like(returns)
    traded = np.zeros(returns.shape, dtype=bool)
    for ahead in range(timing.delay_bars + 1, timing.label_bars + 1):
        moved = np.full_like(returns, np.nan)
        moved[: max(n_bars - ahead, 0)] = returns[ahead:]
        traded |= np.isfinite(moved)
        growth *= 1.0 + np.nan_to_num(moved, nan=0.0)
    out = np.where(traded, growth - 1.0, np.nan)
    out[max(n_bars - timing.label_bars, 0) :] = np.nan
    return out


def scaled_label(returns: NDArray[np.float64], sigma: NDArray[np.float64], timing: Timing) -> NDArray[np.float64]:
    """The model's target y (T, A) = label / (sigma_t * sqrt(horizon))."""
    y: NDArray[np.float64] = label(returns, timing) / (sigma * np.sqrt(timing.horizon))
    return y
