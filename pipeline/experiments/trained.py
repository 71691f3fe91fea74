"""One training of a comparison: arm and seed of a number, and what becomes of its walk-forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config.schema import Config
from pipeline.job import Job
from pipeline.phases.production import Walked
from pipeline.statistics.drift import drift_of, skill_inference
from pipeline.statistics.paired import Compared, Earned, earned


@dataclass(frozen=True)
class Training:
    """The result of one training of one arm."""

    repetition: int
    arm: int
    """0 is the baseline, 1 the candidate."""
    seed: int
    """Its first network's seed."""
    purge_gap: int
    n_features: float
    """Columns it was trained on; with `selection: nested` the mean over the folds' choices."""
    sharpe: float
    """Sharpe on the compared bars, annual and net."""
    sharpe_neutral: float | None
    """What of it is beyond drift, by the deviation of what is left; None where that is undefined."""
    seconds: float
    earned: Earned


def metric_names(segment: Compared) -> tuple[str, str]:
    """Metrics that a training's Sharpe and neutral Sharpe are logged as: out-of-sample on the holdout alone."""
    sharpe = "oos_sharpe" if segment == "holdout" else "development_sharpe"
    return sharpe, f"{sharpe}_neutral"


def arm_and_config(arms: tuple[Config, Config], number: int) -> tuple[int, Config]:
    """Arm and configuration of training `number` (from 1): the arms take turns, so that more seeds follow at the end.

    No two trainings of an arm share a network: a seed is as far from the next as there are networks in a training.
    """
    k, arm = divmod(number - 1, 2)
    config = arms[arm]
    return arm, replace(config, seed=config.seed + k * config.production.seeds)


def training(
    arms: tuple[Config, Config], segment: Compared, job: Job, number: int
) -> tuple[Job, Callable[[Walked, float], Training]]:
    """The job of a training, and what makes a result of its walk-forward and the seconds it took."""
    arm, config = arm_and_config(arms, number)

    def measure(walked: Walked, seconds: float) -> Training:
        own = earned(walked.record, segment)
        drift = drift_of(walked.record, walked.market, walked.last_positions, segment, job.data.benchmark)
        return Training(
            repetition=number,
            arm=arm,
            seed=config.seed,
            purge_gap=config.purge_gap,
            n_features=float(np.mean([len(choice.features) for choice in walked.choices.values()])),
            sharpe=own.figures.sharpe,
            sharpe_neutral=skill_inference(drift, periods_per_year=config.periods_per_year).neutral.sharpe,
            seconds=seconds,
            earned=own,
        )

    return replace(job, config=config), measure
