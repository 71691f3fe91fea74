"""Where a record's net return comes from: instrument, side, year, month, market volatility; drawdowns and best bars.

A bar's portfolio return is the mean over the instruments with a position, so that each of them contributes its own net
return divided by their number. Rows of one partition add up to the whole, returns being added and not compounded.

Partitions are many and samples few: one row in twenty lies two standard errors from zero by luck alone, and no row here
is a test. Shapes: n bars of the record, A instruments, T bars of the panel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from pipeline.statistics.estimate import Estimate, sharpe_estimate, sum_estimate
from tft.metrics import MIN_BARS, drawdown
from tft.positions import portfolio_return
from tft.record import Record
from tft.volatility import Timing, ewm_volatility

Array = NDArray[np.float64]
Cells = NDArray[np.bool_]
Judged = Literal["holdout", "development"]
By = Literal["all", "instrument", "side", "year", "month", "volatility"]

N_BEST_BARS = 10
N_DRAWDOWNS = 5
THIRDS = ("calm", "middle", "wild")


@dataclass(frozen=True)
class Part:
    """One part of a segment. Exposures are means over its bars, as fractions of the portfolio's capital."""

    by: By
    name: str
    n_bars: int
    net: Estimate
    """Sum of what it adds to the portfolio's net returns."""
    cost: float
    """Trading costs, which are taken off already."""
    sharpe: Estimate | None
    """Annual, of its own net returns; None where it has no standard error, and for a part that only pays costs."""
    gross_exposure: float
    net_exposure: float
    turnover: float
    """Annual, of the portfolio's capital."""


@dataclass(frozen=True)
class Drawdown:
    """A stretch below the last high of the compounded net return. Times are ISO bars of decision."""

    start: str
    """The first bar below the high."""
    trough: str
    recovery: str | None
    """The first bar at the high again; None: not yet."""
    depth: float
    """Loss from the high at the trough, as a negative fraction of it."""
    n_bars: int
    """Bars below the high."""
    n_bars_to_trough: int


@dataclass(frozen=True)
class Concentration:
    """The best and the worst bars beside all of them; sums of net returns."""

    n_best: int
    best: float
    worst: float
    total: float
    best_if_normal: float
    """What the best of as many normal returns of the same mean and deviation are expected to add up to."""

    @property
    def share(self) -> float | None:
        """Share of the total that was earned in the best bars; None where nothing was earned."""
        return self.best / self.total if self.total > 0.0 else None


@dataclass(frozen=True)
class Attribution:
    """The net return of one segment, taken apart by several partitions, with its drawdowns and best bars."""

    segment: Judged
    first: str
    last: str
    total: Part
    parts: tuple[Part, ...]
    drawdowns: tuple[Drawdown, ...]
    """The deepest, deepest first."""
    concentration: Concentration

    def by(self, by: By) -> tuple[Part, ...]:
        """The rows of one partition."""
        return tuple(part for part in self.parts if part.by == by)


def attribution(record: Record, returns: Array, segment: Judged) -> Attribution | None:
    """Take one segment of a record apart; None with fewer than MIN_BARS known returns.

    `returns` (T, A) are those of the panel: the volatility of their mean over the instruments, known at the bar of
    decision, splits the bars in thirds. The limits between the thirds are those of the segment's own bars and known
    only afterwards.
    """
    known = (record.segment == segment) & np.isfinite(record.net())
    if known.sum() < MIN_BARS:
        return None
    own = record.rows(known)
    net = own.net()
    volatility = market_volatility(returns, own.timing)[own.bars]
    everything = np.isfinite(own.earned.net)
    return Attribution(
        segment=segment,
        first=str(own.times[0]),
        last=str(own.times[-1]),
        total=_part(own, "all", "all", everything, np.ones(len(net), dtype=np.bool_)),
        parts=tuple(_part(own, *part) for part in _partitions(own, everything, volatility)),
        drawdowns=drawdowns(net, own.times)[:N_DRAWDOWNS],
        concentration=concentration(net),
    )


def market_volatility(returns: Array, timing: Timing) -> Array:
    """Annual volatility (T,) of the instruments' mean return, by the returns (T, A) up to and including each bar."""
    per_bar = ewm_volatility(portfolio_return(returns)[:, None])[:, 0]
    return np.asarray(per_bar * np.sqrt(timing.periods_per_year))


def _partitions(record: Record, known: Cells, volatility: Array) -> Iterator[tuple[By, str, Cells, NDArray[np.bool_]]]:
    """Partition, name, cells (n, A) and bars (n,) of each part; the parts of a partition hold each known cell once.

    An instrument's bars are those it has a position in, a side's are all, since a side that holds nothing earns 0.
    """
    for asset, symbol in enumerate(record.symbols):
        one = known & (np.arange(known.shape[1]) == asset)
        if one.any():
            yield "instrument", symbol, one, one.any(axis=1)
    always = np.ones(len(known), dtype=np.bool_)
    side = np.sign(record.position)
    for name, sign in (("long", 1.0), ("short", -1.0), ("flat", 0.0)):
        one = known & (side == sign)
        if one.any():
            yield "side", name, one, always
    by: By
    for by, unit in (("year", "Y"), ("month", "M")):
        period = record.times.astype(f"datetime64[{unit}]")
        for each in np.unique(period):
            yield by, str(each), known & (period == each)[:, None], period == each
    for name, bars in _thirds(volatility):
        yield "volatility", name, known & bars[:, None], bars


def _thirds(volatility: Array) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Bars by third of their volatility (n,), and those of which it is not known."""
    known = np.isfinite(volatility)
    if known.any():
        low, high = np.quantile(volatility[known], [1.0 / 3.0, 2.0 / 3.0])
        third = np.where(known, np.searchsorted([low, high], volatility, side="left"), -1)
        limits = (f"up to {low:.1%} a year", f"{low:.1%} to {high:.1%}", f"above {high:.1%}")
        for number, (name, limit) in enumerate(zip(THIRDS, limits, strict=True)):
            if (third == number).any():
                yield f"{name}, {limit}", third == number
    if not known.all():
        yield "not known", ~known


def _part(record: Record, by: By, name: str, cells: Cells, bars: NDArray[np.bool_]) -> Part:
    """The figures of the given cells (n, A) over the given bars (n,)."""
    weight = 1.0 / np.isfinite(record.earned.net).sum(axis=1)
    periods = record.timing.periods_per_year

    def series(values: Array) -> Array:
        return np.asarray((np.where(cells, values, 0.0).sum(axis=1) * weight)[bars])

    net, exposure = series(record.earned.net), series(np.abs(record.position))
    return Part(
        by=by,
        name=name,
        n_bars=len(net),
        net=sum_estimate(net),
        cost=float(series(record.earned.gross - record.earned.net).sum()),
        sharpe=sharpe_estimate(net, periods_per_year=periods) if exposure.any() else None,
        gross_exposure=float(exposure.mean()),
        net_exposure=float(series(record.position).mean()),
        turnover=float(series(record.earned.change).mean()) * periods,
    )


def drawdowns(net: Array, times: NDArray[np.datetime64]) -> tuple[Drawdown, ...]:
    """Every drawdown of net returns (n,) without NaN, by depth."""
    below = drawdown(net)
    under = np.concatenate([[False], below < 0.0, [False]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(under) == 1), np.flatnonzero(np.diff(under) == -1)
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        trough = start + int(below[start:end].argmin())
        recovery = str(times[end]) if end < len(net) else None
        depth = float(below[trough])
        found.append(Drawdown(str(times[start]), str(times[trough]), recovery, depth, end - start, trough - start + 1))
    return tuple(sorted(found, key=lambda one: one.depth))


def concentration(net: Array, n_best: int = N_BEST_BARS) -> Concentration:
    """How much of the sum of net returns (n,) the best and the worst bars hold.

    The expected order statistics of normal returns are approximated by Phi^-1((i - 3/8) / (n + 1/4)), Blom 1958.
    """
    ordered, n = np.sort(net), len(net)
    n_best = min(n_best, n)
    scores = ndtri((np.arange(n - n_best + 1, n + 1) - 0.375) / (n + 0.25))
    return Concentration(
        n_best=n_best,
        best=float(ordered[n - n_best :].sum()),
        worst=float(ordered[:n_best].sum()),
        total=float(ordered.sum()),
        best_if_normal=float((net.mean() + net.std(ddof=1) * scores).sum()),
    )
