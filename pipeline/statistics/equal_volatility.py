"""Records at one volatility ex post, so that what depends on their size can be compared.

A book that holds k times the positions earns k times the returns, before and after costs, and trades k times as much;
its Sharpe ratio is the same. Returns, drawdowns and turnover of records with different volatility say as much about
their size as about their worth.

Shapes: n bars of a record.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tft.metrics import MIN_BARS, Performance, annual_volatility, max_drawdown
from tft.record import Record


def realised_volatility(record: Record, rows: NDArray[np.bool_]) -> float | None:
    """Annual volatility of the record's net returns over the bars where `rows` (n,) is true; None where it has none:
    fewer than MIN_BARS known returns, or returns that do not vary."""
    net = record.net()[rows]
    if np.isfinite(net).sum() < MIN_BARS:
        return None
    realised = annual_volatility(net, periods_per_year=record.timing.periods_per_year)
    return realised if realised > 1e-12 else None


def at_volatility(record: Record, rows: NDArray[np.bool_], target: float) -> Record:
    """The whole record scaled so that its net returns over `rows` (n,) have the annual volatility `target`; as it is
    where they have none. Raw positions stay, since they are forecasts."""
    realised = realised_volatility(record, rows)
    return record if realised is None else scaled(record, target / realised)


def figures_at_volatility(figures: Performance, net: NDArray[np.float64], target: float) -> Performance:
    """Figures of net returns (n,) as a book scaled to the annual volatility `target` would have shown them: return,
    drawdown and turnover; `annual_volatility` stays the realised one. As they are where nothing moved.
    """
    if not figures.annual_volatility > 0.0:
        return figures
    factor = target / figures.annual_volatility
    return replace(
        figures,
        annual_return=factor * figures.annual_return,
        max_drawdown=max_drawdown(factor * net),
        turnover=factor * figures.turnover,
    )


def scaled(record: Record, factor: float) -> Record:
    """The record of a book with `factor` times the positions."""
    earned = record.earned
    return replace(
        record,
        position=factor * record.position,
        earned=replace(earned, gross=factor * earned.gross, net=factor * earned.net, change=factor * earned.change),
    )
