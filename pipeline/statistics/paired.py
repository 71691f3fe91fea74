"""Two out-of-sample records bar by bar, on the bars that both own, and what luck alone would have given.

Shapes: n bars, A instruments. Sharpes are annual and net.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.statistics.significance import MIN_INFERENCE_BARS, SharpeDifference, sharpe_difference
from tft.metrics import MIN_BARS, Performance, performance, sharpe
from tft.positions import portfolio_return

Compared = Literal["development", "holdout"]


@dataclass(frozen=True, eq=False)
class Book:
    """An out-of-sample record as arrays (n, A): NaN where no position is held, fold -1 where none made a forecast."""

    times: NDArray[np.datetime64]
    symbols: tuple[str, ...]
    segment: NDArray[np.str_]
    """(n,)"""
    fold: NDArray[np.int64]
    position: NDArray[np.float64]
    change: NDArray[np.float64]
    """Absolute change of position, the first one from flat."""
    held_return: NDArray[np.float64]
    net: NDArray[np.float64]
    gross: NDArray[np.float64]

    @classmethod
    def from_table(cls, table: pl.DataFrame) -> Book:
        """From the long table of `oos_record.parquet`."""
        times, row = np.unique(table["time"].to_numpy(), return_inverse=True)
        symbols, asset = np.unique(table["symbol"].to_numpy().astype(str), return_inverse=True)

        def wide(column: str, missing: float) -> NDArray[Any]:
            values = table[column].to_numpy()
            out = np.full((len(times), len(symbols)), missing, dtype=values.dtype)
            out[row, asset] = values
            return out

        segment = np.empty(len(times), dtype="<U16")
        segment[row] = table["segment"].to_numpy().astype(str)
        position = wide("position", np.nan)
        change = np.abs(np.diff(np.nan_to_num(position), axis=0, prepend=0.0))
        return cls(
            times=times,
            symbols=tuple(symbols.tolist()),
            segment=segment,
            fold=wide("fold", -1),
            position=position,
            change=np.where(np.isfinite(position), change, np.nan),
            held_return=wide("return", np.nan),
            net=wide("pnl", np.nan),
            gross=wide("pnl_gross", np.nan),
        )

    def rows(self, rows: NDArray[np.int64]) -> Book:
        cells = {name: getattr(self, name)[rows] for name in self.__dataclass_fields__ if name != "symbols"}
        return Book(symbols=self.symbols, **cells)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two records cut to the bars of one segment that both own and whose return is known in both."""

    segment: Compared
    baseline: Book
    candidate: Book

    @property
    def times(self) -> NDArray[np.datetime64]:
        return self.baseline.times

    def net(self) -> NDArray[np.float64]:
        """(2, n) portfolio returns after costs: means over the instruments by bar of decision."""
        return np.stack([portfolio_return(book.net) for book in (self.baseline, self.candidate)])


def pair(baseline: Book, candidate: Book, segment: Compared) -> Pair:
    """Bars that both records put into `segment`. Raises ValueError for other instruments or returns, and for fewer
    common bars than a Sharpe needs.
    """
    if baseline.symbols != candidate.symbols:
        only = sorted(set(baseline.symbols) ^ set(candidate.symbols))
        raise ValueError(
            f"the two runs hold different instruments ({', '.join(only[:8])} in one of them only): compare runs on the "
            f"same instruments"
        )
    times, of_baseline, of_candidate = np.intersect1d(baseline.times, candidate.times, return_indices=True)
    a, b = baseline.rows(of_baseline), candidate.rows(of_candidate)
    known = np.isfinite(portfolio_return(a.net)) & np.isfinite(portfolio_return(b.net))
    common = np.flatnonzero(known & (a.segment == segment) & (b.segment == segment))
    if len(common) < MIN_BARS:
        other = "holdout" if segment == "development" else "development"
        n_other = int((known & (a.segment == other) & (b.segment == other)).sum())
        raise ValueError(
            f"the two runs have {len(common)} {segment} bars in common, at least {MIN_BARS} are needed: compare runs "
            f"over the same bars, or the {other} ({n_other} bars in common) with "
            f"holdout={'true' if other == 'holdout' else 'false'}"
        )
    a, b = a.rows(common), b.rows(common)
    differ = ~np.isclose(a.held_return, b.held_return, rtol=1e-6, atol=1e-9, equal_nan=True)
    differ &= np.isfinite(a.held_return) & np.isfinite(b.held_return)
    if differ.any():
        bar, asset = np.argwhere(differ)[0]
        raise ValueError(
            f"{a.symbols[asset]} decided at bar {times[common][bar]} earns a return of {a.held_return[bar, asset]:.6g} "
            f"in one run and of {b.held_return[bar, asset]:.6g} in the other: compare runs on the same returns and "
            f"with the same execution_delay_bars"
        )
    return Pair(segment, a, b)


@dataclass(frozen=True)
class FoldPair:
    """Two folds on the bars that both own."""

    baseline: int
    candidate: int
    first: str
    last: str
    n_bars: int
    sharpe_baseline: float
    sharpe_candidate: float


@dataclass(frozen=True)
class Comparison:
    """What two records show on the bars of a pair."""

    segment: Compared
    n_bars: int
    first: str
    last: str
    baseline: Performance
    candidate: Performance
    difference: SharpeDifference | None
    """Candidate minus baseline, annual."""
    no_inference: str
    """Why `difference` is None; empty where it is not."""
    folds: tuple[FoldPair, ...]


def compare(pair: Pair, *, periods_per_year: float) -> Comparison:
    """Both runs' figures on the pair's bars, and the paired Sharpe difference with what the sample could detect."""
    net = pair.net()
    difference, no_inference = None, ""
    still = [name for name, one in zip(("baseline", "candidate"), net, strict=True) if one.std() == 0.0]
    if net.shape[1] < MIN_INFERENCE_BARS:
        no_inference = f"{net.shape[1]} bars allow no inference, {MIN_INFERENCE_BARS} do"
    elif still:
        no_inference = f"the returns of the {' and the '.join(still)} never move, so that there is nothing to test"
    else:
        difference = annualised(sharpe_difference(net[1], net[0]), periods_per_year)

    def figures(book: Book) -> Performance:
        net, gross = portfolio_return(book.net), portfolio_return(book.gross)
        found = performance(net, gross, book.position, book.held_return, book.change, periods_per_year=periods_per_year)
        assert found is not None, "a pair has bars enough for a Sharpe"
        return found

    return Comparison(
        segment=pair.segment,
        n_bars=net.shape[1],
        first=str(pair.times[0]),
        last=str(pair.times[-1]),
        baseline=figures(pair.baseline),
        candidate=figures(pair.candidate),
        difference=difference,
        no_inference=no_inference,
        folds=fold_pairs(pair, periods_per_year=periods_per_year),
    )


def fold_pairs(pair: Pair, *, periods_per_year: float) -> tuple[FoldPair, ...]:
    """Each two folds that own MIN_BARS common bars or more: one line a fold where the test blocks are the same ones,
    and no more than a few bars fewer where a purge gap has moved them.
    """
    a, b = pair.baseline, pair.candidate
    owned = (a.fold >= 0) & (b.fold >= 0)
    found = []
    for one, other in np.unique(np.stack([a.fold[owned], b.fold[owned]], axis=1), axis=0).tolist():
        cells = (a.fold == one) & (b.fold == other)
        net = [portfolio_return(np.where(cells, book.net, np.nan)) for book in (a, b)]
        bars = np.flatnonzero(np.isfinite(net[0]) & np.isfinite(net[1]))
        if len(bars) >= MIN_BARS:
            sharpes = [sharpe(returns[bars], periods_per_year=periods_per_year) for returns in net]
            first, last = str(pair.times[bars[0]]), str(pair.times[bars[-1]])
            found.append(FoldPair(one, other, first, last, len(bars), *sharpes))
    return tuple(found)


def annualised(difference: SharpeDifference, periods_per_year: float) -> SharpeDifference:
    """A paired difference per bar in annual units."""
    root = math.sqrt(periods_per_year)
    low, high = difference.interval
    return SharpeDifference(
        difference=root * difference.difference,
        standard_error=root * difference.standard_error,
        p_value=difference.p_value,
        interval=(root * low, root * high),
        detectable=root * difference.detectable,
    )


def as_p(p_value: float) -> str:
    """As one writes it: two decimals, four where it is small."""
    return f"{p_value:.2f}" if p_value >= 0.01 else f"{p_value:.4f}"


def in_one_sentence(label: str, comparison: Comparison) -> str:
    """What came of it, with what chance alone would have given."""
    bars = f"{comparison.n_bars} {comparison.segment} bars"
    found = comparison.difference
    if found is None:
        difference = comparison.candidate.sharpe - comparison.baseline.sharpe
        return f"{label}: Sharpe difference {difference:+.2f} on {bars}, which says nothing: {comparison.no_inference}."
    if found.standard_error == 0.0:
        return f"{label}: no difference, the returns on {bars} are the same or in a fixed proportion."
    low, high = found.interval
    return (
        f"{label}: Sharpe difference {found.difference:+.2f} ± {found.standard_error:.2f} (95 % {low:.2f} to "
        f"{high:.2f}, p = {as_p(found.p_value)}), on {bars}; only a difference beyond {found.detectable:.2f} would "
        f"have been found in this sample."
    )
