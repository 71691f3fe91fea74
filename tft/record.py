"""The out-of-sample record: the folds' positions stitched to one path per instrument, and what they earned.

Shapes: T bars of the panel, A instruments, n bars of a record or of a block, M rows of a long table.
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
    """Raw positions forecast by one fold over its test bars."""

    fold: Fold
    bars: range
    """The n bars forecast"""
    raw_position: NDArray[np.float64]
    """(n, A); NaN = no forecast"""


@dataclass(frozen=True, eq=False)
class Record:
    """An out-of-sample record: positions and their earnings at n decision bars, in order of time.

    Arrays are (n, A) unless stated otherwise; NaN where no position is held.
    """

    bars: NDArray[np.int64]
    """(n,) bar indices in the panel; in a record made by `from_columns`, 0 .. n - 1"""
    times: NDArray[np.datetime64]
    """(n,) decision times"""
    symbols: tuple[str, ...]
    fold: NDArray[np.int64]
    """Index of the fold whose forecast is used; -1 where there is no forecast and the position is carried over"""
    raw_position: NDArray[np.float64]
    position: NDArray[np.float64]
    earned: Earnings
    segment: NDArray[np.str_]
    """(n,) one of the values of Segment"""
    timing: Timing

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[np.generic]], timing: Timing) -> Self:
        """Rebuild a record from the columns (M,) that `to_columns` returned, with rows in any order.

        The table has rows only for cells with a position, so that other bars and instruments are absent from the
        record; instruments are sorted by name. Position changes are recomputed from the positions, which are taken as
        flat at a bar without one.
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
        """The record as a long table, one row per (bar, instrument) with a position, in order of time."""
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
        """The record at the bars that a numpy index selects. Earnings are selected, not recomputed."""
        by_bar = ("bars", "times", "fold", "raw_position", "position", "segment")
        earned = Earnings(*(getattr(self.earned, each.name)[rows] for each in fields(Earnings)))
        return replace(self, earned=earned, **{name: getattr(self, name)[rows] for name in by_bar})

    def net(self) -> NDArray[np.float64]:
        """Portfolio returns (n,) by decision bar, after costs; NaN where not known."""
        return portfolio_return(self.earned.net)

    def gross(self) -> NDArray[np.float64]:
        """Portfolio returns (n,) by decision bar, before costs; NaN where not known."""
        return portfolio_return(self.earned.gross)

    def performance(self, segment: Segment) -> Performance | None:
        """Performance over one segment; None if it has fewer than MIN_BARS known returns."""
        return self.performance_of(self.segment == segment)

    def performance_of(self, rows: NDArray[np.bool_]) -> Performance | None:
        """Performance over the bars where `rows` (n,) is true; None if they have fewer than MIN_BARS known returns."""
        return performance(
            self.net()[rows],
            self.gross()[rows],
            self.position[rows],
            self.earned.held_return[rows],
            self.earned.change[rows],
            periods_per_year=self.timing.periods_per_year,
        )

    def fold_sharpe(self, fold: int) -> float | None:
        """Annual net Sharpe ratio over the cells that the fold forecasts; None with fewer than MIN_BARS known bars."""
        returns = portfolio_return(np.where(self.fold == fold, self.earned.net, np.nan))
        if np.isfinite(returns).sum() < MIN_BARS:
            return None
        return sharpe(returns, periods_per_year=self.timing.periods_per_year)


def segments(bars: range, *, n_development: int, timing: Timing) -> NDArray[np.str_]:
    """Segment (n,) of each bar: development if its label ends before bar `n_development`, holdout from that bar on,
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
    """Stitch the folds' forecasts to one position path per instrument, which starts flat at the first test bar.

    Where test blocks overlap, a (bar, instrument) cell belongs to the latest fold that forecasts it. Positions are
    carried across gaps between test blocks, where the record is NaN. `sigma` (T, A) is the volatility per bar.
    """
    bars = range(min(f.bars.start for f in forecasts), max(f.bars.stop for f in forecasts))
    raw = np.full((len(bars), len(panel.symbols)), np.nan)
    owner = np.full(raw.shape, -1, dtype=np.int64)
    for forecast in sorted(forecasts, key=lambda f: f.fold.index):
        rows = slice(forecast.bars.start - bars.start, forecast.bars.stop - bars.start)
        known = np.isfinite(forecast.raw_position)
        raw[rows][known] = forecast.raw_position[known]
        owner[rows][known] = forecast.fold.index
    rows_of_panel = slice(bars.start, bars.stop)
    traded = np.isfinite(panel.returns[rows_of_panel])
    position = position_path(raw, sigma[rows_of_panel], positions, timing, traded=traded).position
    earned = block_earnings(position, bars, panel.returns, positions, timing)
    tested = np.zeros(len(bars), dtype=bool)
    for forecast in forecasts:
        tested[forecast.bars.start - bars.start : forecast.bars.stop - bars.start] = True
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
    """Values (n, A) at tested (n,) bars, NaN elsewhere."""
    return np.where(tested[:, None], values, np.nan)


def block_earnings(
    position: NDArray[np.float64],
    bars: range,
    returns: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
) -> Earnings:
    """Earnings of positions (n, A) decided at `bars`, with returns (T, A) of the whole panel.

    The return that a position earns may lie after `bars`; it is NaN for the last bars of the panel.
    """
    lead = timing.label_bars
    known = returns[bars.start : bars.stop + lead]
    longer = np.concatenate([position, np.full((len(known) - len(position), position.shape[1]), np.nan)])
    earned = earnings(longer, known, positions, timing)
    return Earnings(*(getattr(earned, each.name)[: len(position)] for each in fields(Earnings)))
