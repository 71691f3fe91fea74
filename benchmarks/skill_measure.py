"""The figures of a learner's record in benchmarks/skill.py.

Shapes: A instruments, n bars of a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.ceilings import true_sharpe
from benchmarks.skill_report import Ceiling, Row, known_or_none
from benchmarks.skill_task import TIMING, Task
from pipeline.statistics.calibration import CalibrationRow, calibration
from pipeline.statistics.significance import sharpe_standard_error
from tft.backtest import FoldOutcome
from tft.metrics import annual_volatility, sharpe, turnover
from tft.record import Record

Array = NDArray[np.float64]


def measure(
    task: Task,
    learner: str,
    ceiling: Ceiling,
    record: Record,
    knowers: Mapping[Ceiling, Record],
    *,
    mu: Array | None = None,
    kept_epochs: Sequence[int] = (),
    seconds: float = 0.0,
    outcomes: Sequence[FoldOutcome] = (),
) -> Row:
    """The figures of a record; `mu` (n, A) is the forecast of y over its bars, `knowers` are the ceilings' records,
    `outcomes` those of this project's folds.
    """
    y, per_year = task.market.y[record.bars], TIMING.periods_per_year
    net, gross = record.net(), record.gross()
    of = partial(true_sharpe, task.truth, cost_bps=task.config.positions.cost_bps)
    true, realised = of(record), sharpe(net, periods_per_year=per_year)

    gain = calibrated.log_score_gain if (calibrated := _calibration(task, record, outcomes)) else None

    def by(ours: float, best: float) -> float | None:
        return known_or_none(ours / best) if task.truth.strength and best > 0.0 else None

    return Row(
        kind=task.truth.kind,
        seed=task.seed,
        learner=learner,
        ceiling=ceiling,
        sharpe=known_or_none(realised),
        sharpe_gross=known_or_none(sharpe(gross, periods_per_year=per_year)),
        sharpe_gross_error=_standard_error(gross, per_year),
        true_sharpe=true.net,
        true_sharpe_gross=true.gross,
        share_own=by(true.net, of(knowers["own"]).net),
        share_all=by(true.net, of(knowers["all"]).net),
        realised_share_own=by(realised, sharpe(knowers["own"].net(), periods_per_year=per_year)),
        realised_share_all=by(realised, sharpe(knowers["all"].net(), periods_per_year=per_year)),
        ic=known_or_none(correlation(record.raw_position, y)),
        rank_ic=known_or_none(rank_correlation(record.raw_position, y)),
        slope=None if mu is None else known_or_none(slope(mu, y)),
        log_score_gain=None if gain is None else gain.value,
        log_score_gain_error=None if gain is None else gain.standard_error,
        volatility=annual_volatility(gross, periods_per_year=per_year),
        turnover=turnover(record.earned.change, periods_per_year=per_year),
        kept_epochs=list(kept_epochs),
        seconds=seconds,
    )


def _calibration(task: Task, record: Record, outcomes: Sequence[FoldOutcome]) -> CalibrationRow | None:
    """Of all test bars, in which nothing is selected here."""
    return calibration(record, outcomes, task.market.y).of("development") if outcomes else None


def _standard_error(gross: Array, periods_per_year: float) -> float | None:
    known = gross[np.isfinite(gross)]
    if not known.std() > 0.0:
        return None
    return known_or_none(sharpe_standard_error(known) * float(np.sqrt(periods_per_year)))


def correlation(a: Array, b: Array) -> float:
    """Over the cells in which both are known; NaN where one is constant."""
    known = np.isfinite(a) & np.isfinite(b)
    x, y = a[known] - a[known].mean(), b[known] - b[known].mean()
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / norm) if norm > 0.0 else float("nan")


def rank_correlation(a: Array, b: Array) -> float:
    """Mean over bars of Spearman's correlation between instruments (n, A), without bars in which one is constant."""
    complete = (np.isfinite(a) & np.isfinite(b)).all(axis=1)
    if not complete.any():
        return float("nan")
    x, y = (rankdata(values[complete], axis=1) for values in (a, b))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    norm = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return float(((x * y).sum(axis=1)[norm > 0.0] / norm[norm > 0.0]).mean()) if (norm > 0.0).any() else float("nan")


def slope(mu: Array, y: Array) -> float:
    """Of y regressed on mu and a constant, over cells; NaN where mu is constant."""
    known = np.isfinite(mu) & np.isfinite(y)
    x = mu[known] - mu[known].mean()
    variance = float((x**2).sum())
    return float((x * y[known]).sum() / variance) if variance > 0.0 else float("nan")
