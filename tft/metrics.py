"""Performance figures of portfolio return series. NaN bars are ignored. Shapes: T bars, A instruments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_BARS = 10
"""No Sharpe ratio is reported over fewer bars"""
MIN_INFERENCE_BARS = 63
"""No standard error, interval or p-value of a Sharpe ratio is given over fewer bars"""


def sharpe(returns: NDArray[np.float64], *, periods_per_year: float) -> float:
    """Annual Sharpe ratio of per-bar returns (T,): mean / standard deviation (ddof 1) * sqrt(periods per year).

    NaN with fewer than two bars. A constant series has no deviation to divide by: 0 if its mean is 0 (a strategy that
    stayed flat), NaN otherwise.
    """
    known = returns[np.isfinite(returns)]
    if len(known) < 2:
        return float("nan")
    mean, deviation = float(known.mean()), float(known.std(ddof=1))
    if deviation <= 1e-12 * max(abs(mean), 1e-12):
        return 0.0 if mean == 0.0 else float("nan")
    return mean / deviation * float(np.sqrt(periods_per_year))


def drawdown(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drawdown (T,) <= 0 of the compounded curve of returns (T,), as a fraction of its peak so far; NaN counts as 0."""
    equity = np.cumprod(1.0 + np.nan_to_num(returns, nan=0.0))
    return equity / np.maximum.accumulate(np.maximum(equity, 1.0)) - 1.0


def max_drawdown(returns: NDArray[np.float64]) -> float:
    """The largest drawdown of returns (T,), as a negative fraction of the peak; 0 for no bars."""
    return float(drawdown(returns).min(initial=0.0))


def annual_return(returns: NDArray[np.float64], *, periods_per_year: float) -> float:
    """Arithmetic mean of per-bar returns (T,), annualised."""
    return float(np.nanmean(returns) * periods_per_year)


def annual_volatility(returns: NDArray[np.float64], *, periods_per_year: float) -> float:
    """Standard deviation (ddof 1) of per-bar returns (T,), annualised."""
    return float(np.nanstd(returns, ddof=1) * np.sqrt(periods_per_year))


def turnover(change: NDArray[np.float64], *, periods_per_year: float) -> float:
    """Mean of absolute position changes (T, A) over bars and instruments, annualised."""
    return float(np.nanmean(change) * periods_per_year)


def hit_rate(position: NDArray[np.float64], held_return: NDArray[np.float64]) -> float:
    """Share of the cells (T, A) with nonzero position and return in which their signs agree; NaN without such cells."""
    counted = np.isfinite(position) & np.isfinite(held_return) & (position != 0.0) & (held_return != 0.0)
    if not counted.any():
        return float("nan")
    return float((np.sign(position[counted]) == np.sign(held_return[counted])).mean())


@dataclass(frozen=True)
class Performance:
    """Performance figures over one segment. Sharpe ratios, return, volatility and turnover are annual."""

    n_bars: int
    sharpe: float
    sharpe_gross: float
    annual_return: float
    annual_volatility: float
    max_drawdown: float
    turnover: float
    hit_rate: float


def performance(
    net: NDArray[np.float64],
    gross: NDArray[np.float64],
    position: NDArray[np.float64],
    held_return: NDArray[np.float64],
    change: NDArray[np.float64],
    *,
    periods_per_year: float,
) -> Performance | None:
    """Figures of portfolio returns net and gross of costs (T,) and of positions, returns and position changes (T, A).

    None if fewer than MIN_BARS net returns are known.
    """
    n_bars = int(np.isfinite(net).sum())
    if n_bars < MIN_BARS:
        return None
    return Performance(
        n_bars=n_bars,
        sharpe=sharpe(net, periods_per_year=periods_per_year),
        sharpe_gross=sharpe(gross, periods_per_year=periods_per_year),
        annual_return=annual_return(net, periods_per_year=periods_per_year),
        annual_volatility=annual_volatility(net, periods_per_year=periods_per_year),
        max_drawdown=max_drawdown(net),
        turnover=turnover(change, periods_per_year=periods_per_year),
        hit_rate=hit_rate(position, held_return),
    )
