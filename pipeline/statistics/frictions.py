"""What costs and a later execution leave of a record. Positions stay as they were decided: nothing is fitted again.

Sharpes are annual. Shapes: T bars of the panel, A instruments, n bars of a record.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tft.metrics import MIN_BARS, sharpe
from tft.positions import BASIS_POINT, portfolio_return
from tft.record import Record

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

COSTS_BPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20)
"""Costs of a position change of 1, in basis points, that a record is shown at."""
DELAYS_BARS = (0, 1, 2, 3, 4, 5)
"""Delays of execution that a record is shown at: the position decided at bar t earns the return of bar t + 1 + delay.
"""


def cost_per_risk(record: Record, rows: Rows) -> float | None:
    """Annual cost per unit of annual volatility of the net returns, over the bars where `rows` (n,) is true: the Sharpe
    that trading costs, but for what costs add to the volatility. None with fewer than MIN_BARS known returns, or where
    they do not vary."""
    net, cost = record.net()[rows], (record.gross() - record.net())[rows]
    known = np.isfinite(net)
    if known.sum() < MIN_BARS or not (deviation := float(net[known].std(ddof=1))) > 1e-15:
        return None
    return float(cost[known].mean() / deviation * np.sqrt(record.timing.periods_per_year))


def break_even_cost_bps(record: Record, rows: Rows) -> float | None:
    """The cost of a position change of 1, in basis points, at which the mean net return over `rows` (n,), and so the
    net Sharpe, is 0. Exact: positions do not depend on the cost. Below 0 for a record that loses before costs; None
    with fewer than MIN_BARS known returns, or where nothing was traded."""
    gross, traded = _gross_and_traded(record, rows)
    if len(gross) < MIN_BARS or not traded.any():
        return None
    return float(gross.mean() / (traded.mean() * BASIS_POINT))


def sharpe_by_cost(record: Record, rows: Rows, costs_bps: Sequence[float] = COSTS_BPS) -> tuple[float | None, ...]:
    """Net Sharpe over `rows` (n,) at each cost, in basis points of a position change of 1."""
    gross, traded = _gross_and_traded(record, rows)
    return tuple(_sharpe(gross - cost * BASIS_POINT * traded, record) for cost in costs_bps)


def sharpe_by_delay(
    record: Record, rows: Rows, returns: Array, delays_bars: Sequence[int] = DELAYS_BARS
) -> tuple[float | None, ...]:
    """Net Sharpe over `rows` (n,) had the same positions been held at each delay, at the record's own costs.

    returns: (T, A) of the panel that `record.bars` counts in. All delays are judged on the same bars, those whose
    return is known at the longest: at the record's own delay the Sharpe is the record's but for its last few bars.
    """
    cost = record.earned.gross - record.earned.net  # (n, A), NaN where a return is not known
    known = rows & (record.bars + 1 + max(delays_bars) < len(returns))
    bars, position, cost = record.bars[known], record.position[known], cost[known]
    return tuple(
        _sharpe(portfolio_return(position * np.nan_to_num(returns[bars + 1 + delay], nan=0.0) - cost), record)
        for delay in delays_bars
    )


def _gross_and_traded(record: Record, rows: Rows) -> tuple[Array, Array]:
    """Gross returns of the portfolio (n,) and its mean absolute changes of position (n,), at the bars of `rows` whose
    return is known."""
    known = np.isfinite(record.earned.net)
    gross = portfolio_return(record.earned.gross)[rows]
    traded = portfolio_return(np.where(known, record.earned.change, np.nan))[rows]
    of_bar = np.isfinite(gross)
    return gross[of_bar], traded[of_bar]


def _sharpe(net: Array, record: Record) -> float | None:
    """None where it is not defined, or of fewer than MIN_BARS known returns."""
    if np.isfinite(net).sum() < MIN_BARS:
        return None
    found = sharpe(net, periods_per_year=record.timing.periods_per_year)
    return found if np.isfinite(found) else None
