"""Folds to one stitched out-of-sample record.

Shapes: T bars of the panel, A instruments, n bars of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tft.folds import Fold
from tft.metrics import MIN_BARS, Performance, performance, sharpe
from tft.panel import Panel
from tft.positions import Earnings, PositionsConfig, earnings, portfolio_return, position_path
from tft.volatility import Timing

Segment = Literal["development", "between", "holdout"]
SEGMENTS: tuple[Segment, ...] = ("development", "between", "holdout")


@dataclass(frozen=True, eq=False)
class RawForecast:
    """Raw positions (n, A) of one fold's test bars, NaN = no forecast."""

    fold: Fold
    bars: range
    raw_position: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Record:
    """The out-of-sample record over the bars [start, stop) of the panel; arrays (n, A) unless said otherwise."""

    bars: range
    times: NDArray[np.datetime64]
    """(n,) of decision"""
    symbols: tuple[str, ...]
    fold: NDArray[np.int64]
    """Index of the fold that owns the forecast; -1 where there is none and the position is carried."""
    raw_position: NDArray[np.float64]
    position: NDArray[np.float64]
    earned: Earnings
    segment: NDArray[np.str_]
    """(n,)"""
    timing: Timing

    def net(self) -> NDArray[np.float64]:
        """(n,) portfolio return by bar of decision, after costs; NaN where it is not known."""
        return portfolio_return(self.earned.net)

    def gross(self) -> NDArray[np.float64]:
        """(n,) before costs."""
        return portfolio_return(self.earned.gross)

    def performance(self, segment: Segment) -> Performance | None:
        """Figures over one segment; None where it has fewer than MIN_BARS known bars."""
        return self._performance(self.segment == segment)

    def _performance(self, rows: NDArray[np.bool_]) -> Performance | None:
        return performance(
            self.net()[rows],
            self.gross()[rows],
            self.position[rows],
            self.earned.held_return[rows],
            self.earned.change[rows],
            periods_per_year=self.timing.periods_per_year,
        )

    def fold_sharpe(self, fold: int) -> float | None:
        """Annual net Sharpe over the (bar, instrument) cells the fold owns; None under MIN_BARS bars."""
        own = np.where(self.fold == fold, self.earned.net, np.nan)
        returns = portfolio_return(own)
        if np.isfinite(returns).sum() < MIN_BARS:
            return None
        return sharpe(returns, periods_per_year=self.timing.periods_per_year)

    def to_columns(self) -> Mapping[str, NDArray[np.generic]]:
        """Long table, one row per (bar, instrument) that holds a position, in order of time."""
        row, asset = np.nonzero(np.isfinite(self.position))
        cell = (row, asset)
        return {
            "time": self.times[row],
            "symbol": np.array(self.symbols)[asset],
            "fold": self.fold[cell],
            "raw_position": self.raw_position[cell],
            "position": self.position[cell],
            "return": self.earned.held_return[cell],
            "pnl": self.earned.net[cell],
            "pnl_gross": self.earned.gross[cell],
            "segment": self.segment[row],
        }


def segments(bars: range, *, n_development: int, timing: Timing) -> NDArray[np.str_]:
    """(n,) development where the label ends before bar n_development, holdout from there on, between otherwise."""
    decision = np.arange(bars.start, bars.stop)
    return np.where(
        decision + timing.label_bars < n_development,
        "development",
        np.where(decision >= n_development, "holdout", "between"),
    )


def stitch(
    forecasts: Sequence[RawForecast],
    panel: Panel,
    sigma: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
    *,
    n_development: int,
) -> Record:
    """One path per instrument across fold borders, starting flat at the first test bar.

    Where test blocks overlap, a (bar, instrument) belongs to the most recently fitted fold that forecasts it.
    """
    bars = range(min(f.bars.start for f in forecasts), max(f.bars.stop for f in forecasts))
    raw = np.full((len(bars), len(panel.symbols)), np.nan)
    owner = np.full(raw.shape, -1, dtype=np.int64)
    for one in sorted(forecasts, key=lambda f: f.fold.index):
        rows = slice(one.bars.start - bars.start, one.bars.stop - bars.start)
        known = np.isfinite(one.raw_position)
        raw[rows][known] = one.raw_position[known]
        owner[rows][known] = one.fold.index
    path = position_path(raw, sigma[bars.start : bars.stop], positions, timing)
    return Record(
        bars=bars,
        times=panel.times[bars.start : bars.stop],
        symbols=panel.symbols,
        fold=owner,
        raw_position=raw,
        position=path.position,
        earned=block_earnings(path.position, bars, panel.returns, positions, timing),
        segment=segments(bars, n_development=n_development, timing=timing),
        timing=timing,
    )


def block_earnings(
    position: NDArray[np.float64],
    bars: range,
    returns: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
) -> Earnings:
    """What positions (n, A) of `bars` earn in returns (T, A); the last bars of the panel have no return yet."""
    lead = 1 + timing.delay_bars
    known = returns[bars.start : bars.stop + lead]
    longer = np.concatenate([position, np.full((len(known) - len(position), position.shape[1]), np.nan)])
    earned = earnings(longer, known, positions, timing)
    return Earnings(*(getattr(earned, name)[: len(position)] for name in ("held_return", "gross", "net", "change")))


def validation_returns(
    raw_positions: NDArray[np.floating],
    bars: range,
    panel: Panel,
    sigma: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
) -> NDArray[np.float64]:
    """Net portfolio returns (E, n) of raw positions (E, n, A) after each epoch, each path starting flat."""
    out = []
    for raw in raw_positions:
        path = position_path(raw.astype(np.float64), sigma[bars.start : bars.stop], positions, timing)
        out.append(portfolio_return(block_earnings(path.position, bars, panel.returns, positions, timing).net))
    return np.stack(out)


def sharpe_by_epoch(returns: NDArray[np.float64], *, periods_per_year: float) -> NDArray[np.float64]:
    """(E, n) -> (E,) annual Sharpe after each epoch."""
    return np.array([sharpe(one, periods_per_year=periods_per_year) for one in returns])
