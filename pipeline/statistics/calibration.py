"""Calibration: whether labels fall where the forecast distributions said, by fold and over the record.

The yardstick is the unconditional distribution: the same family, fitted once to the labels of the fold's training bars
and scaled by the same sigma_t. A model that knows something of the next bar scores better; one that has learned noise
scores worse. What is published is scored: of several seeds their one averaged distribution.

Instruments of a bar are not independent: scores are averaged over instruments by bar, and every standard error is that
of a series of bars (HAC). Measured on 200 calibrated records of 500 bars, four instruments correlated 0.5: estimates
scatter by 0.94 to 1.07 of their errors (coverage, slopes, log score gain), 5.1 % of the PIT bins lie outside the band.

Shapes: M cells (bar, instrument), T bars of the panel, A instruments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.arguments import is_constant
from pipeline.statistics.distributions import centre, crps, log_score, pit, unconditional
from pipeline.statistics.estimate import Estimate, mean_error
from tft.backtest import FoldOutcome
from tft.head import QUANTILE_LEVELS
from tft.metrics import MIN_BARS
from tft.record import Record

Array = NDArray[np.float64]

PIT_BINS = 20
"""Bins of equal width; with quantiles the levels are the edges, since a quantile head says nothing in between."""
RELIABILITY_BINS = 10
MIN_BIN_CELLS = 20
"""With fewer cells for each there are fewer bins of `probability_up`."""


@dataclass(frozen=True)
class CalibrationRow:
    """One part of the record. Every figure is None under MIN_BARS labelled bars."""

    part: str
    """A fold, as "fold 3", over the cells it owns; or development, or holdout"""
    segment: str
    """The segments its bars belong to, joined by a slash: only those of the holdout took no part in selection"""
    n_bars: int
    """Bars with a forecast distribution and a label"""
    n_cells: int
    log_score: float | None = None
    """Mean log density, in nats; None for quantiles, which have none"""
    log_score_gain: Estimate | None = None
    """Log score minus that of the unconditional distribution, by bar; above 0 is better"""
    crps: float | None = None
    """Mean continuous ranked probability score, in units of sigma_t * sqrt(horizon); lower is better"""
    crps_gain: Estimate | None = None
    """CRPS of the unconditional distribution minus the model's, by bar; above 0 is better"""
    coverage_50: Estimate | None = None
    """Share of the labels within the central 50 % of their distributions"""
    coverage_90: Estimate | None = None
    slope: Estimate | None = None
    """Slope of the label on mu (or the median); 1 if calibrated, below 1 where forecasts are too bold"""
    probability_slope: Estimate | None = None
    """Slope of label > 0 on `probability_up`; 1 if calibrated"""
    against_probability: Estimate | None = None
    """Share of the cells in which the raw position has another sign than `probability_up` - 1/2: where what the other
    instruments' forecasts say weighs more than the own one"""


ESTIMATES = (
    "log_score_gain",
    "crps_gain",
    "coverage_50",
    "coverage_90",
    "slope",
    "probability_slope",
    "against_probability",
)
"""The fields of a row that have a standard error."""


@dataclass(frozen=True)
class PitBin:
    """Labels whose PIT lies in [low, high)."""

    low: float
    high: float
    share: float
    """Share of all labels that lie in the bin; high - low if calibrated"""
    noise: float | None
    """1.96 standard errors of a calibrated forecaster's share, with labels as dependent within a bar as these are"""


@dataclass(frozen=True)
class ReliabilityBin:
    """Cells of similar `probability_up`."""

    n_cells: int
    forecast: float
    """Mean `probability_up`"""
    frequency: Estimate
    """Share of labels above 0"""


@dataclass(frozen=True)
class Calibration:
    """How the forecast distributions of a walk-forward fit what came."""

    family: Literal["gaussian", "quantiles", "mixed", "none"]
    """`none`: positions alone are forecast (loss mode `sharpe`). `mixed`: each fold chose its own loss mode."""
    rows: tuple[CalibrationRow, ...] = ()
    """The folds in order, then development and holdout as far as the record has them"""
    segment: str = ""
    """Where the histogram and the reliability curve come from: the holdout, or development where that is too short;
    empty where both are"""
    pit: tuple[PitBin, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()

    @property
    def clean(self) -> CalibrationRow | None:
        """The row of the bars on which nothing was selected."""
        return self.of("holdout")

    @property
    def folds(self) -> tuple[CalibrationRow, ...]:
        return tuple(row for row in self.rows if row.part.startswith("fold "))

    def of(self, part: str) -> CalibrationRow | None:
        return next((row for row in self.rows if row.part == part), None)


@dataclass(frozen=True, eq=False)
class _Cells:
    """The M cells of a record with a forecast distribution and a label. Arrays are (M,)."""

    bar: NDArray[np.int64]
    fold: NDArray[np.int64]
    segment: NDArray[np.str_]
    up: Array
    """1 where the label is above 0, else 0"""
    y: Array
    probability_up: Array
    raw_position: Array
    centre: Array
    pit: Array
    log_score: Array
    """NaN for quantiles, as its gain"""
    log_score_gain: Array
    crps: Array
    crps_gain: Array

    def where(self, chosen: NDArray[np.bool_]) -> _Cells:
        return _Cells(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """(M,) number of the cell's bar among those that occur, in order of time."""
        return np.asarray(np.unique(self.bar, return_inverse=True)[1])

    @property
    def n_bars(self) -> int:
        return int(self.row.max(initial=-1)) + 1

    def by_bar(self, values: Array) -> Array:
        """Sums (n bars,) of values (M,)."""
        return np.bincount(self.row, values).astype(np.float64)

    def mean(self, values: Array) -> Estimate:
        """Mean over instruments by bar, then over bars."""
        series = self.by_bar(values) / self.by_bar(np.ones(len(values)))
        return Estimate(float(series.mean()), mean_error(series))

    def share(self, happened: NDArray[np.bool_], of: NDArray[np.bool_] | None = None) -> Estimate:
        """Share of the cells `of` (all of them by default) in which something happened."""
        within = np.ones(len(happened), dtype=bool) if of is None else of
        share = float(happened[within].mean())
        return Estimate(share, self._ratio_error(np.where(within, happened - share, 0.0), float(within.sum())))

    def slope(self, y: Array, x: Array) -> Estimate | None:
        """Least-squares slope of y on x, with an intercept; None where x does not vary."""
        if is_constant(x):
            return None
        deviation = x - x.mean()
        spread = float(deviation @ deviation)
        slope = float(deviation @ y) / spread
        residual = y - y.mean() - slope * deviation
        return Estimate(slope, self._ratio_error(deviation * residual, spread))

    def _ratio_error(self, scores: Array, total: float) -> float | None:
        """Standard error of an estimate whose error is the sum of scores (M,) over `total`."""
        sums = self.by_bar(scores)
        error = mean_error(sums)
        return None if error is None else error * len(sums) / total


def calibration(record: Record, outcomes: Sequence[FoldOutcome], y: Array) -> Calibration:
    """Score the forecast distributions of a record's folds, each on the cells that it owns, against labels y (T, A)."""
    families = {outcome.distribution.shape[-1] for outcome in outcomes} - {0}
    if not families:
        return Calibration("none")
    cells = _cells(record, outcomes, y)
    parts = {f"fold {outcome.fold.index}": cells.fold == outcome.fold.index for outcome in outcomes}
    parts |= {name: cells.segment == name for name in ("development", "holdout") if (record.segment == name).any()}
    rows = {name: _row(name, cells.where(chosen)) for name, chosen in parts.items()}
    long_enough = (name for name in ("holdout", "development") if name in rows and rows[name].n_bars >= MIN_BARS)
    segment = next(long_enough, "")
    drawn = cells.where(cells.segment == segment)
    edges = np.linspace(0.0, 1.0, PIT_BINS + 1) if families == {2} else np.array([0.0, *QUANTILE_LEVELS, 1.0])
    return Calibration(
        family="mixed" if len(families) > 1 else "gaussian" if families == {2} else "quantiles",
        rows=tuple(rows.values()),
        segment=segment,
        pit=_histogram(drawn, edges) if segment else (),
        reliability=_reliability(drawn) if segment else (),
    )


def _cells(record: Record, outcomes: Sequence[FoldOutcome], y: Array) -> _Cells:
    """The cells of every fold that has a distribution, in order of the folds."""
    of_folds: list[dict[str, NDArray[np.generic]]] = []
    for outcome in outcomes:
        bars, n_parameters = outcome.forecast.bars, outcome.distribution.shape[-1]
        if n_parameters == 0:
            continue
        rows = slice(bars.start - int(record.bars[0]), bars.stop - int(record.bars[0]))
        known = (record.fold[rows] == outcome.fold.index) & np.isfinite(y[bars.start : bars.stop])
        known &= np.isfinite(outcome.distribution).all(axis=-1)
        bar, _ = np.nonzero(known)
        label, own = y[bars.start : bars.stop][known], outcome.distribution[known]
        seen = y[outcome.fold.train.start : outcome.fold.train.stop]
        blind = np.broadcast_to(unconditional(seen[np.isfinite(seen)], n_parameters), own.shape)
        of_folds.append(
            {
                "bar": bar + bars.start,
                "fold": np.full(len(bar), outcome.fold.index),
                "segment": record.segment[rows][bar],
                "up": (label > 0.0).astype(np.float64),
                "y": label,
                "probability_up": outcome.probability_up[known],
                "raw_position": outcome.forecast.raw_position[known],
                "centre": centre(own),
                "pit": pit(label, own),
                "log_score": log_score(label, own),
                "log_score_gain": log_score(label, own) - log_score(label, blind),
                "crps": crps(label, own),
                "crps_gain": crps(label, blind) - crps(label, own),
            }
        )
    return _Cells(**{name: np.concatenate([one[name] for one in of_folds]) for name in of_folds[0]})


def _row(part: str, cells: _Cells) -> CalibrationRow:
    order = np.argsort(cells.bar, kind="stable")
    segment = "/".join(dict.fromkeys(cells.segment[order].tolist()))
    row = CalibrationRow(part, segment, cells.n_bars, len(cells.y))
    if row.n_bars < MIN_BARS:
        return row
    has_density = bool(np.isfinite(cells.log_score).all())
    return CalibrationRow(
        part,
        segment,
        row.n_bars,
        row.n_cells,
        log_score=cells.mean(cells.log_score).value if has_density else None,
        log_score_gain=cells.mean(cells.log_score_gain) if has_density else None,
        crps=cells.mean(cells.crps).value,
        crps_gain=cells.mean(cells.crps_gain),
        coverage_50=cells.share(np.abs(cells.pit - 0.5) <= 0.25),
        coverage_90=cells.share(np.abs(cells.pit - 0.5) <= 0.45),
        slope=cells.slope(cells.y, cells.centre),
        probability_slope=cells.slope(cells.up, cells.probability_up),
        against_probability=cells.share(cells.raw_position * (cells.probability_up - 0.5) < 0.0),
    )


def _histogram(cells: _Cells, edges: Array) -> tuple[PitBin, ...]:
    """Shares of the PIT between the edges, with what a calibrated forecaster's would scatter by.

    Labels of a bar move together, so that M of them say less than M independent ones: by as much as the errors of the
    shares, over all bins, exceed independent ones.
    """
    bin_of = np.clip(np.searchsorted(edges, cells.pit, side="right") - 1, 0, len(edges) - 2)
    shares = [cells.share(bin_of == number) for number in range(len(edges) - 1)]
    known = [one for one in shares if one.standard_error is not None]
    excess = None
    if known:
        independent = sum(one.value * (1.0 - one.value) for one in known) / len(cells.pit)
        excess = sum((one.standard_error or 0.0) ** 2 for one in known) / independent
    bins = []
    for low, high, one in zip(edges[:-1].tolist(), edges[1:].tolist(), shares, strict=True):
        variance = (high - low) * (1.0 - high + low) / len(cells.pit)
        bins.append(PitBin(low, high, one.value, None if excess is None else 1.96 * float(np.sqrt(excess * variance))))
    return tuple(bins)


def _reliability(cells: _Cells) -> tuple[ReliabilityBin, ...]:
    """Bins with equally many cells, in order of `probability_up`."""
    n_bins = max(1, min(RELIABILITY_BINS, len(cells.y) // MIN_BIN_CELLS))
    bins = []
    for rows in np.array_split(np.argsort(cells.probability_up, kind="stable"), n_bins):
        within = np.zeros(len(cells.y), dtype=bool)
        within[rows] = True
        forecast = float(cells.probability_up[rows].mean())
        bins.append(ReliabilityBin(len(rows), forecast, cells.share(cells.up > 0.0, of=within)))
    return tuple(bins)
