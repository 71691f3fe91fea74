"""Two out-of-sample records compared bar by bar on the bars that both have.

Shapes: n bars, A instruments. Sharpes are annual and net.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.difference import SharpeDifference, sharpe_difference
from tft.metrics import MIN_BARS, MIN_INFERENCE_BARS, Performance, sharpe
from tft.positions import portfolio_return
from tft.record import Record

Compared = Literal["development", "holdout"]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two records cut to the bars of one segment that both have and whose return is known in both."""

    segment: Compared
    baseline: Record
    candidate: Record

    @property
    def times(self) -> NDArray[np.datetime64]:
        """Bars of decision (n,)."""
        return self.baseline.times

    def net(self) -> NDArray[np.float64]:
        """Portfolio returns after costs (2, n), by bar of decision; the baseline's first."""
        return np.stack([self.baseline.net(), self.candidate.net()])


def pair(baseline: Record, candidate: Record, segment: Compared) -> Pair:
    """The bars that both records count to `segment`, with a known return in both.

    Raises ValueError where the records hold different instruments, have different bars a year, state different returns
    for the same decision, or have fewer common bars than a Sharpe needs.
    """
    years = [record.timing.periods_per_year for record in (baseline, candidate)]
    if years[0] != years[1]:
        raise ValueError(f"the runs have {years[0]:g} and {years[1]:g} periods_per_year: compare runs on the same bars")
    if baseline.symbols != candidate.symbols:
        only = sorted(set(baseline.symbols) ^ set(candidate.symbols))
        raise ValueError(
            f"the two runs hold different instruments ({', '.join(only[:8])} in one of them only): compare runs on the "
            f"same instruments"
        )
    times, of_baseline, of_candidate = np.intersect1d(baseline.times, candidate.times, return_indices=True)
    a, b = baseline.rows(of_baseline), candidate.rows(of_candidate)
    known = np.isfinite(a.net()) & np.isfinite(b.net())
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
    held, other_held = a.earned.held_return, b.earned.held_return
    differ = ~np.isclose(held, other_held, rtol=1e-6, atol=1e-9, equal_nan=True)
    differ &= np.isfinite(held) & np.isfinite(other_held)
    if differ.any():
        bar, asset = np.argwhere(differ)[0]
        raise ValueError(
            f"{a.symbols[asset]} decided at bar {times[common][bar]} earns a return of {held[bar, asset]:.6g} "
            f"in one run and of {other_held[bar, asset]:.6g} in the other: compare runs on the same returns and "
            f"with the same execution_delay_bars"
        )
    return Pair(segment, a, b)


@dataclass(frozen=True)
class FoldPair:
    """A fold of the baseline and one of the candidate, on the bars that both own. Times are ISO."""

    baseline: int
    candidate: int
    first: str
    last: str
    n_bars: int
    sharpe_baseline: float
    sharpe_candidate: float


@dataclass(frozen=True)
class Comparison:
    """The figures of two records on the bars of a pair, and their difference. Times are ISO."""

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


def compare(pair: Pair) -> Comparison:
    """Both records' figures on the pair's bars, and the paired Sharpe difference with what the sample could detect."""
    net, periods_per_year = pair.net(), pair.baseline.timing.periods_per_year
    difference, no_inference = None, ""
    still = [name for name, one in zip(("baseline", "candidate"), net, strict=True) if one.std() == 0.0]
    if net.shape[1] < MIN_INFERENCE_BARS:
        no_inference = f"{net.shape[1]} bars allow no inference, {MIN_INFERENCE_BARS} do"
    elif still:
        no_inference = f"the returns of the {' and the '.join(still)} never move, so that there is nothing to test"
    else:
        difference = annualised(sharpe_difference(net[1], net[0]), periods_per_year)

    def figures(record: Record) -> Performance:
        found = record.performance(pair.segment)
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
        folds=fold_pairs(pair),
    )


def fold_pairs(pair: Pair) -> tuple[FoldPair, ...]:
    """Every fold of the baseline with every fold of the candidate that owns at least MIN_BARS bars with it.

    Where both have the same test blocks that is one pair a fold; where a purge gap has moved them, one pair a fold
    with a few bars fewer.
    """
    a, b = pair.baseline, pair.candidate
    periods_per_year = a.timing.periods_per_year
    owned = (a.fold >= 0) & (b.fold >= 0)
    found = []
    for one, other in np.unique(np.stack([a.fold[owned], b.fold[owned]], axis=1), axis=0).tolist():
        cells = (a.fold == one) & (b.fold == other)
        net = [portfolio_return(np.where(cells, record.earned.net, np.nan)) for record in (a, b)]
        bars = np.flatnonzero(np.isfinite(net[0]) & np.isfinite(net[1]))
        if len(bars) >= MIN_BARS:
            sharpes = [sharpe(returns[bars], periods_per_year=periods_per_year) for returns in net]
            first, last = str(pair.times[bars[0]]), str(pair.times[bars[-1]])
            found.append(FoldPair(one, other, first, last, len(bars), *sharpes))
    return tuple(found)


def annualised(difference: SharpeDifference, periods_per_year: float) -> SharpeDifference:
    """The difference of two per-bar Sharpes, restated as the difference of two annual ones."""
    root = math.sqrt(periods_per_year)
    low, high = difference.interval
    return SharpeDifference(
        difference=root * difference.difference,
        standard_error=root * difference.standard_error,
        p_value=difference.p_value,
        interval=(root * low, root * high),
        detectable=root * difference.detectable,
    )


def p_value_text(p_value: float) -> str:
    """A p-value as text: two decimals, four below 0.01."""
    return f"{p_value:.2f}" if p_value >= 0.01 else f"{p_value:.4f}"


def in_one_sentence(label: str, comparison: Comparison) -> str:
    """The comparison in a sentence, with what the sample could have detected."""
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
        f"{high:.2f}, p = {p_value_text(found.p_value)}), on {bars}; only a difference beyond "
        f"{found.detectable:.2f} would have been found in this sample."
    )
