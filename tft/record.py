"""The out-of-sample record: the positions of all folds as one path per instrument, and what they earned.

Shapes: T bars of the panel, A instruments, n bars of a record or of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tft.folds import Fold
from tft.metrics import MIN_BARS, Performance, performance, sharpe
from tft.panel import Panel
from tft.positions import Earnings, PositionsConfig, earnings, portfolio_return, position_path
from tft.volatility import Timing

Segment = Literal["development", "between", "holdout"]


@dataclass(frozen=True, eq=False)
class RawForecast:
    """Raw positions (n, A) of one fold's test bars, NaN = no forecast."""

    fold: Fold
    bars: range
    raw_position: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Record:
    """An out-of-sample record: what was held and earned at n bars of decision, in order of time.

    Arrays are (n, A) unless said otherwise; NaN where no position is held.
    """

    bars: NDArray[np.int64]
    """(n,) index of each bar in the panel it was stitched over; in a record read from columns, index in that record."""
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

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[np.generic]], timing: Timing) -> Self:
        """The record whose `to_columns` gave these columns (M,), whatever the order of their rows.

        Bars, instruments (in order of name) and forecasts are those of cells that hold a position: the table has no
        others. Changes of position are not in it; they are taken from its positions, from flat where the bar before
        has none.
        """
        times, row = np.unique(np.asarray(columns["time"], dtype=np.datetime64), return_inverse=True)
        symbols, asset = np.unique(columns["symbol"].astype(str), return_inverse=True)

        def wide(column: str, missing: float) -> NDArray[Any]:
            values = columns[column]
            out = np.full((len(times), len(symbols)), missing, dtype=values.dtype)
            out[row, asset] = values
            return out

        segment = np.empty(len(times), dtype="<U11")
        segment[row] = columns["segment"].astype(str)
        position = wide("position", np.nan)
        change = np.abs(np.diff(np.nan_to_num(position), axis=0, prepend=0.0))
        return cls(
            bars=np.arange(len(times)),
            times=times,
            symbols=tuple(symbols.tolist()),
            fold=wide("fold", -1),
            raw_position=wide("raw_position", np.nan),
            position=position,
            earned=Earnings(
                held_return=wide("return", np.nan),
                gross=wide("pnl_gross", np.nan),
                net=wide("pnl", np.nan),
                change=np.where(np.isfinite(position), change, np.nan),
            ),
            segment=segment,
            timing=timing,
        )

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

    def rows(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """The record of some of its bars, as numpy indexes them; what was earned stays as it was."""
        by_bar = ("bars", "times", "fold", "raw_position", "position", "segment")
        earned = Earnings(*(getattr(self.earned, each.name)[rows] for each in fields(Earnings)))
        return replace(self, earned=earned, **{name: getattr(self, name)[rows] for name in by_bar})

    def net(self) -> NDArray[np.float64]:
        """(n,) portfolio return by bar of decision, after costs; NaN where it is not known."""
        return portfolio_return(self.earned.net)

    def gross(self) -> NDArray[np.float64]:
        """(n,) portfolio return before costs, NaN as in `net`."""
        return portfolio_return(self.earned.gross)

    def performance(self, segment: Segment) -> Performance | None:
        """Figures over one segment; None where it has fewer than MIN_BARS known bars."""
        return self.performance_of(self.segment == segment)

    def performance_of(self, rows: NDArray[np.bool_]) -> Performance | None:
        """Figures over the bars that `rows` (n,) marks; None where fewer than MIN_BARS of them are known."""
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


def segments(bars: range, *, n_development: int, timing: Timing) -> NDArray[np.str_]:
    """Segment (n,) of each bar: development where its label ends before bar `n_development`, holdout from that bar on,
    between otherwise.
    """
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

    Where test blocks overlap, a (bar, instrument) belongs to the most recently fitted fold that forecasts it. Bars
    between test blocks that do not touch are no part of the record.
    """
    bars = range(min(f.bars.start for f in forecasts), max(f.bars.stop for f in forecasts))
    raw = np.full((len(bars), len(panel.symbols)), np.nan)
    owner = np.full(raw.shape, -1, dtype=np.int64)
    for one in sorted(forecasts, key=lambda f: f.fold.index):
        rows = slice(one.bars.start - bars.start, one.bars.stop - bars.start)
        known = np.isfinite(one.raw_position)
        raw[rows][known] = one.raw_position[known]
        owner[rows][known] = one.fold.index
    rows_of_panel = slice(bars.start, bars.stop)
    traded = np.isfinite(panel.returns[rows_of_panel])
    position = position_path(raw, sigma[rows_of_panel], positions, timing, traded=traded).position
    earned = block_earnings(position, bars, panel.returns, positions, timing)
    tested = np.zeros(len(bars), dtype=bool)
    for one in forecasts:
        tested[one.bars.start - bars.start : one.bars.stop - bars.start] = True
    return Record(
        bars=np.arange(bars.start, bars.stop),
        times=panel.times[bars.start : bars.stop],
        symbols=panel.symbols,
        fold=owner,
        raw_position=raw,
        position=_where_tested(position, tested),
        earned=Earnings(*(_where_tested(getattr(earned, each.name), tested) for each in fields(Earnings))),
        segment=segments(bars, n_development=n_development, timing=timing),
        timing=timing,
    )


def _where_tested(values: NDArray[np.float64], tested: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(tested[:, None], values, np.nan)


def block_earnings(
    position: NDArray[np.float64],
    bars: range,
    returns: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
) -> Earnings:
    """Earnings (n, A) of `position` (n, A) over `bars`, in `returns` (T, A) of the whole panel.

    The return that a position earns may lie after the block; the last bars of the panel have none yet.
    """
    lead = timing.label_bars
    known = returns[bars.start : bars.stop + lead]
    longer = np.concatenate([position, np.full((len(known) - len(position), position.shape[1]), np.nan)])
    earned = earnings(longer, known, positions, timing)
    return Earnings(*(getattr(earned, each.name)[: len(position)] for each in fields(Earnings)))
