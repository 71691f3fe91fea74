"""Targets without signal for one repetition of the whole job, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.experiments.null_targets import NullTargets
from pipeline.job import Job
from pipeline.phases.production import Walked
from pipeline.statistics.drift import drift_of, skill_inference


@dataclass(frozen=True)
class PlaceboRepetition:
    """Result of the whole job on targets without signal. Sharpes are annual, and net unless their name says gross."""

    repetition: int
    shift: int | None
    """In complete bars; None where rows were resampled."""
    oos_sharpe: float
    """Holdout Sharpe; with `selection: nested` that of the whole record."""
    oos_sharpe_neutral: float
    """Sharpe of the same bars beyond drift, by the repetition's own targets."""
    oos_sharpe_gross: float
    tuning_sharpe: float
    """Sharpe of the best trial on the bars it was chosen on; the mean over the folds with `selection: nested`."""
    development_sharpe: float | None
    """Sharpe of the walk-forward over development; None with `selection: nested`."""
    n_selected: float
    """Columns that pruning kept; with `selection: nested` the mean over the folds' choices."""
    seconds: float


def repetition(job: Job, number: int) -> tuple[Job, Callable[[Walked, float], PlaceboRepetition]]:
    """The job on the repetition's targets, and what makes a result of a walk-forward on it."""
    null = NullTargets(job.data, job.config)
    data = null.dataset(number)

    def measure(walked: Walked, seconds: float) -> PlaceboRepetition:
        holdout, development = walked.record.performance("holdout"), walked.record.performance("development")
        if holdout is None:
            raise ValueError(f"repetition {number} has too few complete bars in the holdout: bring more bars")
        drift = drift_of(walked.record, walked.market, walked.last_positions, "holdout", data.benchmark)
        neutral = skill_inference(drift, periods_per_year=job.config.periods_per_year).neutral
        if neutral.sharpe is None and holdout.sharpe != 0.0:  # a record that stayed flat earned nothing
            raise ValueError(f"repetition {number} has no Sharpe beyond drift to compare: {neutral.undefined}")
        return PlaceboRepetition(
            repetition=number,
            shift=null.shift(number),
            oos_sharpe=holdout.sharpe,
            oos_sharpe_neutral=neutral.sharpe or 0.0,
            oos_sharpe_gross=holdout.sharpe_gross,
            tuning_sharpe=best_trial_sharpe(walked),
            development_sharpe=development.sharpe if development else None,
            n_selected=float(np.mean([len(choice.features) for choice in walked.choices.values()])),
            seconds=seconds,
        )

    return job.on(data), measure


def best_trial_sharpe(walked: Walked) -> float:
    """Annual tuning Sharpe of the best trial, the mean over the folds' choices."""
    return float(
        np.mean(
            [
                trial.oos_sharpe
                for choice in walked.choices.values()
                for trial in choice.tuned.trials
                if trial.number == choice.tuned.best_trial and trial.oos_sharpe is not None
            ]
        )
    )
