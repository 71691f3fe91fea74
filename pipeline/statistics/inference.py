"""Inference on a production run: each of its Sharpes beside what luck alone would have given, and the verdict.

Sharpes are annual unless a name says per_bar. Shapes: T bars. Nothing is read or written here; results are frozen and
plain, so that they can be stored with those of the phase.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics import calibration_in_words
from pipeline.statistics.baseline_comparison import BaselineRow
from pipeline.statistics.calibration import Calibration
from pipeline.statistics.epochs import FoldLuck, fold_luck
from pipeline.statistics.overfitting import Overfitting, Trials, overfitting
from pipeline.statistics.sharpe import SIGNIFICANT, SharpeInference, sharpe_inference
from pipeline.statistics.standard_errors import per_bar_sharpe
from pipeline.statistics.verdict import verdict
from tft.backtest import FoldOutcome
from tft.metrics import MIN_BARS
from tft.record import Record, Segment

Array = NDArray[np.float64]

MIN_LOOKS = 5
"""Fewer Sharpes say too little about their variance: the squared standard error of the run's own is used instead."""


@dataclass(frozen=True)
class Looked:
    """The result of another configuration that looked at an overlapping holdout. `sharpe` is annual; None: unknown."""

    sharpe: float | None
    n_bars: int


@dataclass(frozen=True)
class Inference:
    """The verdict on a production run, and the inference that stands beside each of its numbers."""

    verdict: str
    holdout: SharpeInference | None
    """Sharpe over the bars that took no part in selection, deflated by the configurations that have looked at them."""
    development: SharpeInference | None
    """Sharpe over the bars on which columns and parameters were chosen: not out-of-sample. Deflated by the trials."""
    tuning: SharpeInference | None
    """Sharpe of the chosen trial over the bars on which it was chosen, deflated by the trials."""
    overfitting: Overfitting | None
    folds: tuple[FoldLuck, ...]
    against_untuned: BaselineRow | None
    """The run compared with the same walk-forward in the untuned configuration (trial 0), on the holdout."""
    baselines: tuple[BaselineRow, ...]
    calibration: Calibration | None = None

    @property
    def finds_skill(self) -> bool:
        """Whether the verdict finds skill: more than luck alone would give."""
        p_value = self.holdout.p_value_deflated if self.holdout else None
        return p_value is not None and p_value < SIGNIFICANT


def infer(
    record: Record,
    outcomes: Sequence[FoldOutcome],
    *,
    selection: Literal["holdout", "nested"] = "holdout",
    trials: Trials | None = None,
    others: Sequence[Looked] = (),
    against_untuned: BaselineRow | None = None,
    baselines: Sequence[BaselineRow] = (),
    calibration: Calibration | None = None,
    seed: int = 0,
) -> Inference:
    """Judge a walk-forward by its record and its folds' outcomes.

    `trials`: the search on development bars; None where there was none, or where each fold had its own. `others`: the
    other configurations that have looked at an overlapping holdout.
    """
    periods = record.timing.periods_per_year

    def returns(segment: Segment) -> Array | None:
        chosen = record.net()[record.segment == segment]
        return chosen if np.isfinite(chosen).any() else None

    clean, selected_on = returns("holdout"), returns("development")
    holdout = development = None
    if clean is not None:
        variance = _looks_variance(clean, others, periods)
        holdout = sharpe_inference(clean, periods_per_year=periods, n_trials=1 + len(others), trial_variance=variance)
    if selected_on is not None:
        development = sharpe_inference(
            selected_on,
            periods_per_year=periods,
            n_trials=trials.n_started if trials else 1,
            trial_variance=trials.variance(int(np.isfinite(selected_on).sum())) if trials else None,
        )
    return Inference(
        verdict=verdict(holdout, baselines, selection=selection, calibration=calibration),
        holdout=holdout,
        development=development,
        tuning=sharpe_inference(
            trials.returns[:, trials.best],
            periods_per_year=periods,
            n_trials=trials.n_started,
            trial_variance=trials.variance(len(trials.returns)),
        )
        if trials
        else None,
        overfitting=overfitting(trials.returns, seed=seed) if trials else None,
        folds=tuple(fold_luck(outcome, periods_per_year=periods, seed=seed) for outcome in outcomes),
        against_untuned=against_untuned,
        baselines=tuple(baselines),
        calibration=calibration,
    )


def _looks_variance(returns: Array, others: Sequence[Looked], periods_per_year: float) -> float | None:
    """Variance of the per-bar Sharpes of all configurations that looked, carried over to the length of `returns`."""
    r = returns[np.isfinite(returns)]
    sharpes = [
        other.sharpe * math.sqrt(other.n_bars / len(r) / periods_per_year)  # the error of a Sharpe falls with sqrt(T)
        for other in others
        if other.sharpe is not None
    ]
    if len(sharpes) + 1 < MIN_LOOKS or len(r) < MIN_BARS or not r.std() > 1e-12:
        return None
    return float(np.var([*sharpes, per_bar_sharpe(r)], ddof=1))


def metrics(result: Inference) -> dict[str, float | None]:
    """Figures by the names they are logged under; Sharpes are annual."""
    named: dict[str, float | None] = {}
    for prefix, one in (("oos", result.holdout), ("development", result.development)):
        if one:
            named |= {
                f"{prefix}_sharpe_se": one.standard_error,
                f"{prefix}_sharpe_low": one.low,
                f"{prefix}_sharpe_high": one.high,
                f"{prefix}_p_value": one.p_value,
                f"{prefix}_p_value_deflated": one.p_value_deflated,
                f"{prefix}_psr": one.psr,
                f"{prefix}_dsr": one.dsr,
                f"{prefix}_min_trl_bars": one.min_trl_bars,
            }
    if result.holdout:
        named["n_configurations_looked"] = result.holdout.n_trials
    if result.tuning:
        named |= {"tuning_sharpe": result.tuning.sharpe, "tuning_sharpe_dsr": result.tuning.dsr}
    if result.overfitting:
        named |= {
            "pbo": result.overfitting.pbo,
            "pbo_noise_low": result.overfitting.noise_low,
            "pbo_noise_high": result.overfitting.noise_high,
        }
    if result.against_untuned:
        named["oos_sharpe_over_untuned"] = result.against_untuned.difference_annual
    return named | calibration_in_words.metrics(result.calibration)
