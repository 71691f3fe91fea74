"""Inference on a production run: each of its Sharpes beside what luck alone would have given, and the verdict.

Sharpes are annual unless a name says per_bar. Shapes: T bars. Nothing is read or written here; results are frozen and
plain, so that they can be stored with those of the phase.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics import calibration_in_words
from pipeline.statistics.baseline_comparison import BaselineRow
from pipeline.statistics.calibration import Calibration
from pipeline.statistics.drift import Drift, Skill, skill_inference
from pipeline.statistics.epochs import FoldLuck, fold_luck
from pipeline.statistics.overfitting import Overfitting, Trials, overfitting
from pipeline.statistics.sharpe import SharpeInference, is_significant, sharpe_inference
from pipeline.statistics.verdict import PlaceboLuck, p_value_beyond_drift, verdict
from tft.backtest import FoldOutcome
from tft.record import Record, Segment

Array = NDArray[np.float64]

MIN_LOOKS = 5
"""Fewer Sharpes say too little about their variance: the squared standard error of the run's own is used instead."""


@dataclass(frozen=True)
class Looked:
    """The result of another configuration that looked at an overlapping holdout. `sharpe` is annual and neutral, that
    is beyond drift; None: unknown."""

    sharpe: float | None
    n_bars: int


@dataclass(frozen=True)
class Inference:
    """The verdict on a production run, and the inference that stands beside each of its numbers."""

    verdict: str
    holdout: SharpeInference | None
    """Sharpe, as earned, over the bars that took no part in selection."""
    skill: Skill | None
    """What of it is beyond drift, deflated by the configurations that have looked at these bars."""
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
    selection: Literal["holdout", "nested"] = "holdout"
    placebo: PlaceboLuck | None = None
    """Where the whole job was repeated on targets without signal."""

    @property
    def p_value(self) -> float | None:
        """The verdict's: one-sided, of no skill beyond drift. None where there is no inference."""
        return p_value_beyond_drift(self.skill, self.placebo)

    @property
    def finds_skill(self) -> bool:
        """Whether the verdict is that luck alone would not have given it."""
        return self.p_value is not None and is_significant(self.p_value)

    def with_placebo(self, placebo: PlaceboLuck) -> Inference:
        """This inference, with the verdict that is left when the whole job was repeated on targets without signal."""
        said = verdict(
            self.holdout,
            self.skill,
            self.baselines,
            selection=self.selection,
            calibration=self.calibration,
            placebo=placebo,
        )
        return replace(self, placebo=placebo, verdict=said)


def infer(
    record: Record,
    outcomes: Sequence[FoldOutcome],
    *,
    drift: Drift | None,
    seed_skills: Sequence[float] = (),
    selection: Literal["holdout", "nested"] = "holdout",
    trials: Trials | None = None,
    others: Sequence[Looked] = (),
    against_untuned: BaselineRow | None = None,
    baselines: Sequence[BaselineRow] = (),
    calibration: Calibration | None = None,
    seed: int = 0,
) -> Inference:
    """Judge a walk-forward by its record and its folds' outcomes.

    `drift`: what the clean bars would have earned without timing; None without a holdout. `seed_skills`: the annual
    skill of each seed alone. `trials`: the search on development bars; None where there was none, or where each fold
    had its own. `others`: the other configurations that have looked at an overlapping holdout.
    """
    periods = record.timing.periods_per_year

    def returns(segment: Segment) -> Array | None:
        chosen = record.net()[record.segment == segment]
        return chosen if np.isfinite(chosen).any() else None

    clean, selected_on = returns("holdout"), returns("development")
    holdout = development = skill = None
    if clean is not None:
        assert drift is not None, "the clean bars have a market"
        holdout = sharpe_inference(clean, periods_per_year=periods)
        skill = _deflated(drift, seed_skills, others, periods)
    if selected_on is not None:
        development = sharpe_inference(
            selected_on,
            periods_per_year=periods,
            n_trials=trials.n_started if trials else 1,
            trial_variance=trials.variance(int(np.isfinite(selected_on).sum())) if trials else None,
        )
    return Inference(
        verdict=verdict(holdout, skill, baselines, selection=selection, calibration=calibration),
        holdout=holdout,
        skill=skill,
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
        selection=selection,
    )


def _deflated(drift: Drift, seed_skills: Sequence[float], others: Sequence[Looked], periods_per_year: float) -> Skill:
    """The skill on the clean bars, deflated by all configurations that looked."""
    alone = skill_inference(drift, periods_per_year=periods_per_year, seed_skills=seed_skills)
    return skill_inference(
        drift,
        periods_per_year=periods_per_year,
        n_trials=1 + len(others),
        trial_variance=_looks_variance(alone.neutral, others, periods_per_year),
        seed_skills=seed_skills,
    )


def _looks_variance(own: SharpeInference, others: Sequence[Looked], periods_per_year: float) -> float | None:
    """Variance of the per-bar neutral Sharpes of all who looked, carried over to the length of `own`."""
    if own.sharpe_per_bar is None:
        return None
    sharpes = [
        other.sharpe * math.sqrt(other.n_bars / own.n_bars / periods_per_year)  # its error falls with sqrt(T)
        for other in others
        if other.sharpe is not None
    ]
    if len(sharpes) + 1 < MIN_LOOKS:
        return None
    return float(np.var([*sharpes, own.sharpe_per_bar], ddof=1))


def metrics(result: Inference) -> dict[str, float | None]:
    """Figures by the names they are logged under; Sharpes are annual."""
    named: dict[str, float | None] = {}
    for prefix, one in (("oos", result.holdout), ("development", result.development)):
        if one:
            named |= {
                f"{prefix}_sharpe_se": one.standard_error,
                f"{prefix}_sharpe_low": one.low,
                f"{prefix}_sharpe_high": one.high,
            }
    for prefix, one in (("oos", result.skill.neutral if result.skill else None), ("development", result.development)):
        if one:
            named |= {
                f"{prefix}_p_value": one.p_value,
                f"{prefix}_p_value_deflated": one.p_value_deflated,
                f"{prefix}_psr": one.psr,
                f"{prefix}_dsr": one.dsr,
                f"{prefix}_min_trl_bars": one.min_trl_bars,
            }
    if result.skill:
        named |= _skill_metrics(result.skill) | {"oos_verdict_p_value": result.p_value}
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


def _skill_metrics(skill: Skill) -> dict[str, float | None]:
    neutral = skill.neutral
    return {
        "n_configurations_looked": neutral.n_trials,
        "oos_skill": skill.skill,
        "oos_skill_se": skill.skill_se,
        "oos_skill_seed_sd": skill.seed_sd,
        "oos_drift": skill.drift,
        "oos_sharpe_neutral": neutral.sharpe,
        "oos_sharpe_neutral_se": neutral.standard_error,
        "oos_sharpe_neutral_p_value": neutral.p_value,
        "oos_alpha_annual": skill.alpha_annual,
        "oos_alpha_annual_se": skill.alpha_annual_se,
        "oos_alpha_annual_p_value": neutral.p_value,
        "oos_beta": skill.beta,
        "oos_beta_se": skill.beta_se,
        "oos_beta_p_value": skill.beta_p_value,
    }
