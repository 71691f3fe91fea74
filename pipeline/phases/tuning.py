"""Phase 4: search hyper-parameters, each trial a mini walk-forward over development."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.config.schema import Config, ConfigError
from pipeline.phases.candidates import CandidateWalks
from pipeline.phases.search import Report, ended, first_parameters, search, trials_allowed
from pipeline.phases.stitching import with_gain
from pipeline.phases.training_data import TrainingData
from tft.folds import Fold
from tft.metrics import sharpe
from tft.recipe import Recipe
from tft.record import RawForecast, stitch

OOS_RETURNS = "oos_returns"


@dataclass(frozen=True)
class Trial:
    """One trial of the search."""

    number: int
    state: str
    oos_sharpe: float | None
    """Annual, net, stitched over the folds that were run; a pruned trial stopped before its last fold."""
    n_folds: int
    parameters: dict[str, Any]
    seconds: float
    """Wall time. Where trials were trained side by side, the first one bears the training time of all."""
    oos_returns: tuple[float, ...]
    """Net portfolio return by bar of `Tuned.times`; empty for a trial that did not complete."""


@dataclass(frozen=True)
class Tuned:
    """Result of tuning."""

    best: dict[str, Any]
    """Parameters of the best completed trial."""
    best_trial: int
    trials: tuple[Trial, ...]
    times: tuple[str, ...]
    """Bars of decision of the trials' out-of-sample series (ISO times)."""
    study: str
    """Name of the study in the storage."""


def tune(
    data: TrainingData,
    config: Config,
    folds: Sequence[Fold],
    study: optuna.Study,
    *,
    on_fold: Callable[[int, int, float, float | None], None] = lambda trial, fold, value, best: None,
    on_trial: Callable[[FrozenTrial], None] = lambda trial: None,
) -> Tuned:
    """Go on with the study until it has its trials, or its time is up, and take the best completed one.

    data: the development bars with the columns that pruning kept · on_fold: trial, fold, the trial's annual test Sharpe
    so far and the best of the completed trials', which this one is with its last fold; None before any is · on_trial: a
    trial has ended. Raises ValueError if no trial completed.
    """
    panel, market = data.panel, data.market(config.timing)

    def candidate(parameters: Mapping[str, Any]) -> Recipe:
        return config.with_tuned(parameters).recipe(config.tuning.epochs)

    def foreseen(parameters: Mapping[str, Any]) -> Recipe | None:
        try:
            return candidate(parameters)
        except ConfigError:  # which its trial will end with
            return None

    n_allowed = trials_allowed(study, config.tuning.n_trials)
    first = first_parameters(config.tuning.space, config.untuned(), config.seed)[:n_allowed]
    walks = CandidateWalks(market, folds, [foreseen(parameters) for parameters in first])

    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        tried = candidate(parameters)
        forecasts: list[RawForecast] = []
        returns = np.empty(0)
        value = 0.0
        # The folds are fitted side by side; a trial that is pruned stops those of its own that are still running.
        for number, outcome in enumerate(walks.outcomes(tried)):
            forecasts.append(with_gain(outcome, market, tried).forecast)
            record = stitch(forecasts, panel, market.sigma, tried.positions, config.timing, n_development=data.n_bars)
            tested = np.concatenate([np.arange(f.bars.start, f.bars.stop) for f in forecasts]) - record.bars[0]
            returns = record.net()[tested]
            value = sharpe(returns, periods_per_year=config.periods_per_year)
            if not np.isfinite(value):
                raise FloatingPointError(f"the test Sharpe after fold {number} is not defined")
            try:
                report(number, value)
            except optuna.TrialPruned:
                on_fold(trial.number, number, value, _best(study))
                raise
            completed = [value] if number == len(folds) - 1 else []
            on_fold(trial.number, number, value, _best(study, *completed))
        trial.set_user_attr(OOS_RETURNS, [float(x) for x in np.nan_to_num(returns, nan=0.0)])
        return value

    search(
        study,
        config.tuning.space,
        config.untuned(),
        objective,
        n_trials=config.tuning.n_trials,
        timeout_seconds=config.tuning.timeout_seconds,
        seed=config.seed,
        on_trial=on_trial,
        begun=walks.begun,
    )
    trials = tuple(_trial(trial) for trial in ended(study))
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE.name and trial.oos_sharpe is not None]
    if not completed:
        reasons = {str(trial.user_attrs.get("fault", trial.state.name)) for trial in ended(study)}
        raise ValueError(
            f"none of the {len(trials)} trials completed ({'; '.join(sorted(reasons))}): narrow tuning.space"
        )
    best = max(completed, key=lambda trial: trial.oos_sharpe if trial.oos_sharpe is not None else -np.inf)
    times = tuple(str(panel.times[bar]) for fold in folds for bar in fold.test)
    return Tuned(best.parameters, best.number, trials, times, study.study_name)


def _best(study: optuna.Study, *just_completed: float) -> float | None:
    """The best Sharpe of the study's completed trials and of those that it has not been told of yet; None of none."""
    told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max((*(trial.value for trial in told if trial.value is not None), *just_completed), default=None)


def _trial(trial: FrozenTrial) -> Trial:
    steps = trial.intermediate_values
    value = trial.value if trial.state == TrialState.COMPLETE else (steps[max(steps)] if steps else None)
    return Trial(
        number=trial.number,
        state=trial.state.name,
        oos_sharpe=value,
        n_folds=len(steps),
        parameters=dict(trial.params),
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        oos_returns=tuple(trial.user_attrs.get(OOS_RETURNS, ())),
    )
