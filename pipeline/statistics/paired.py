"""Two arms of a comparison on the same bars: what each of their trainings earned there.

Shapes: K trainings of an arm, n bars, A instruments. Sharpes are annual and net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.equal_volatility import figures_at_volatility
from tft.metrics import MIN_BARS, Performance, sharpe
from tft.record import Record

Compared = Literal["development", "holdout"]


@dataclass(frozen=True)
class Earned:
    """What one training earned on the n compared bars, as plain values."""

    times: tuple[str, ...]
    """ISO time of each decision."""
    net: tuple[float, ...]
    """Portfolio return of each decision, after costs."""
    fold: tuple[int, ...]
    """Fold that forecast the bar; of several, the most recent."""
    figures: Performance


def earned(record: Record, segment: Compared) -> Earned:
    """A record's bars of the segment whose return is known. Raises ValueError where they are too few for a Sharpe."""
    own = record.rows((record.segment == segment) & np.isfinite(record.net()))
    figures = own.performance(segment)
    if figures is None:
        raise ValueError(
            f"the record has {len(own.times)} {segment} bars with a known return, at least {MIN_BARS} are needed: "
            f"bring more bars, or raise production.max_folds"
        )
    return Earned(
        times=tuple(str(time) for time in own.times),
        net=tuple(own.net().tolist()),
        fold=tuple(own.fold.max(axis=1).tolist()),
        figures=figures,
    )


@dataclass(frozen=True, eq=False)
class Arms:
    """The trainings of two arms, all on the same n bars of one segment."""

    segment: Compared
    baseline: tuple[Earned, ...]
    candidate: tuple[Earned, ...]
    periods_per_year: float
    n_left_out: int = 0
    """Bars that only some of the records have, and that are not compared."""

    @property
    def both(self) -> tuple[tuple[Earned, ...], tuple[Earned, ...]]:
        return self.baseline, self.candidate

    @property
    def times(self) -> NDArray[np.datetime64]:
        """Bars of decision (n,)."""
        return np.array(self.baseline[0].times, dtype="datetime64[us]")

    def net(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Portfolio returns after costs, (K, n) of each arm; the baseline's first."""
        baseline, candidate = (np.array([one.net for one in arm]) for arm in self.both)
        return baseline, candidate


def on_the_same_bars(
    baseline: Sequence[Earned], candidate: Sequence[Earned], segment: Compared, periods_per_year: float
) -> Arms:
    """The arms, whose trainings must all have been tested on the same dates. Raises ValueError where they were not."""
    every = [set(one.times) for one in (*baseline, *candidate)]
    shared, all_of_them = set.intersection(*every), set.union(*every)
    if shared != all_of_them:
        raise ValueError(
            f"the trainings share {len(shared)} of their {len(all_of_them)} {segment} test dates ("
            f"some of them lack {min(all_of_them - shared)}): arms that are tested on different dates cannot be "
            f"compared, so give both the same bars"
        )
    return Arms(segment, tuple(baseline), tuple(candidate), periods_per_year)


def pair(baseline: Sequence[Record], candidate: Sequence[Record], segment: Compared) -> Arms:
    """The bars that all records count to `segment`, with a known return in all.

    Raises ValueError where the records hold different instruments, have different bars a year, state different returns
    for the same decision, or have fewer common bars than a Sharpe needs.
    """
    records, first = [*baseline, *candidate], baseline[0]
    for other in records[1:]:
        _check_alike(first, other)
    times = reduce(np.intersect1d, [record.times for record in records])
    cut = [record.rows(np.isin(record.times, times)) for record in records]
    known = np.all([np.isfinite(record.net()) for record in cut], axis=0)

    def common(which: Compared) -> NDArray[np.bool_]:
        return np.asarray(known & np.all([record.segment == which for record in cut], axis=0))

    rows = common(segment)
    if rows.sum() < MIN_BARS:
        other_segment: Compared = "holdout" if segment == "development" else "development"
        raise ValueError(
            f"the runs have {rows.sum()} {segment} bars in common, at least {MIN_BARS} are needed: compare runs over "
            f"the same bars, or the {other_segment} ({common(other_segment).sum()} bars in common) with "
            f"holdout={'true' if other_segment == 'holdout' else 'false'}"
        )
    cut = [record.rows(rows) for record in cut]
    for other in cut[1:]:
        _check_returns(cut[0], other)
    of_any = {time for one in records for time in one.times[(one.segment == segment) & np.isfinite(one.net())].tolist()}
    found = [earned(record, segment) for record in cut]
    return Arms(
        segment,
        tuple(found[: len(baseline)]),
        tuple(found[len(baseline) :]),
        first.timing.periods_per_year,
        n_left_out=len(of_any) - int(rows.sum()),
    )


def _check_alike(one: Record, other: Record) -> None:
    years = [record.timing.periods_per_year for record in (one, other)]
    if years[0] != years[1]:
        raise ValueError(f"the runs have {years[0]:g} and {years[1]:g} periods_per_year: compare runs on the same bars")
    if one.symbols != other.symbols:
        only = sorted(set(one.symbols) ^ set(other.symbols))
        raise ValueError(
            f"two runs hold different instruments ({', '.join(only[:8])} in one of them only): compare runs on the "
            f"same instruments"
        )


def _check_returns(one: Record, other: Record) -> None:
    """Both records on the same bars: what a decision would have earned may not differ."""
    held, other_held = one.earned.held_return, other.earned.held_return
    differ = ~np.isclose(held, other_held, rtol=1e-6, atol=1e-9, equal_nan=True)
    differ &= np.isfinite(held) & np.isfinite(other_held)
    if differ.any():
        bar, asset = np.argwhere(differ)[0]
        raise ValueError(
            f"{one.symbols[asset]} decided at bar {one.times[bar]} earns a return of {held[bar, asset]:.6g} in one run "
            f"and of {other_held[bar, asset]:.6g} in the other: compare runs on the same returns and with the same "
            f"execution_delay_bars"
        )


@dataclass(frozen=True)
class FoldPair:
    """A fold of the baseline and one of the candidate, on the bars that both own. Times are ISO."""

    baseline: int
    candidate: int
    first: str
    last: str
    n_bars: int
    sharpe_baseline: float
    """Mean over the arm's trainings."""
    sharpe_candidate: float


def fold_pairs(arms: Arms) -> tuple[FoldPair, ...]:
    """Every fold of the baseline with every fold of the candidate that owns at least MIN_BARS bars with it.

    Where both have the same test blocks that is one pair a fold. The folds are those of each arm's first training.
    """
    folds = np.array([arms.baseline[0].fold, arms.candidate[0].fold]).T
    found = []
    for one, other in np.unique(folds[(folds >= 0).all(axis=1)], axis=0).tolist():
        bars = np.flatnonzero((folds == (one, other)).all(axis=1))
        if len(bars) >= MIN_BARS:
            sharpes = [
                float(np.mean([sharpe(net[bars], periods_per_year=arms.periods_per_year) for net in of_arm]))
                for of_arm in arms.net()
            ]
            times = arms.baseline[0].times
            found.append(FoldPair(one, other, times[bars[0]], times[bars[-1]], len(bars), *sharpes))
    return tuple(found)


def mean_figures(arm: Sequence[Earned], volatility_target: float) -> Performance:
    """The mean over an arm's trainings of each figure, each training scaled to one annual volatility."""
    every = [figures_at_volatility(one.figures, np.array(one.net), volatility_target) for one in arm]
    means = {field.name: float(np.mean([getattr(one, field.name) for one in every])) for field in fields(Performance)}
    return Performance(**means | {"n_bars": arm[0].figures.n_bars})  # type: ignore[arg-type]


def p_value_text(p_value: float) -> str:
    """A p-value as text: two decimals, four below 0.01."""
    return f"{p_value:.2f}" if p_value >= 0.01 else f"{p_value:.4f}"
