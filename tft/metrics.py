"""Figures of a series of portfolio returns. Shapes: T bars, A instruments; NaN bars are left out everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_BARS = 10
"""Below this many bars no Sharpe is reported."""
MIN_INFERENCE_BARS = 63
"""Below this many bars nothing is inferred from a Sharpe: no standard error, interval or p-value."""


def sharpe(returns: NDArray[np.float64], *, periods_per_year: float) -> float:
    """Annual Sharpe: mean / standard deviation (ddof 1) of per-bar returns * sqrt(periods per year).

    NaN with fewer than two bars. A series that never moves has nothing to divide by: 0 where its mean is 0 (a strategy
    that stayed flat), NaN otherwise.
    """
    known = returns[np.isfinite(returns)]
    if len(known) < 2:
        return float("nan")
    mean, deviation = float(known.mean()), float(known.std(ddof=1))
    if deviation <= 1e-12 * max(abs(mean), 1e-12):
        return 0.0 if mean == 0.0 else float("nan")
    return mean / deviation * float(np.sqrt(periods_per_year))


def drawdown(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) fraction lost since the highest point so far of the compounded curve, <= 0. NaN bars count as 0."""
    equity = np.cumprod(1.0 + np.nan_to_num(returns, nan=0.0))
    return equity / np.maximum.accumulate(np.maximum(equity, 1.0)) - 1.0


def max_drawdown(returns: NDArray[np.float64]) -> float:
    """The worst drawdown, as a negative fraction; 0 for no bars."""
    return float(drawdown(returns).min(initial=0.0))


def annual_return(returns: NDArray[np.float64], *, periods_per_year: float) -> float:
    """Arithmetic mean return a year."""
    return float(np.nanmean(returns) * periods_per_year)


def annual_volatility(returns: NDArray[np.float64], *, periods_per_year: float) -> float:
    """Standard deviation (ddof 1) a year."""
    return float(np.nanstd(returns, ddof=1) * np.sqrt(periods_per_year))


def turnover(change: NDArray[np.float64], *, periods_per_year: float) -> float:
    """Mean absolute change of position over bars and instruments (T, A), a year."""
    return float(np.nanmean(change) * periods_per_year)


def hit_rate(position: NDArray[np.float64], held_return: NDArray[np.float64]) -> float:
    """Share of (bar, instrument) cells (T, A) with a position and a move in which both have the same sign."""
    counted = np.isfinite(position) & np.isfinite(held_return) & (position != 0.0) & (held_return != 0.0)
    if not counted.any():
        return float("nan")
    return float((np.sign(position[counted]) == np.sign(held_return[counted])).mean())


@dataclass(frozen=True)
class Performance:
    """Headline figures of one segment. Sharpes, return, volatility and turnover are annual."""

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
    """Figures of portfolio returns net and gross (T,) and of their cells (T, A); None under MIN_BARS known bars."""
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
