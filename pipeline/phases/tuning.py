"""Phase 4: search hyper-parameters, each trial a mini walk-forward over development."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from pipeline.config.reading import to_mapping
from pipeline.config.schema import ConfigError
from pipeline.job import Job
from pipeline.phases import pruning
from pipeline.phases.search import STORAGE, Report, ended, first_parameters, open_study, search, trials_allowed
from pipeline.phases.trials import Candidate, TrialWalks
from pipeline.reporting import figures as plots
from pipeline.tracking.runs import Run
from tft.backtest import RawForecast, stitch
from tft.folds import Fold
from tft.metrics import sharpe
from tft.train import Recipe

OOS_RETURNS = "oos_returns"


@dataclass(frozen=True)
class Trial:
    number: int
    state: str
    oos_sharpe: float | None
    """Annual, net, stitched over the folds run; of a pruned trial over those before it was pruned."""
    n_folds: int
    parameters: dict[str, Any]
    seconds: float
    """Of trials that were trained side by side the first has the training of all."""
    oos_returns: tuple[float, ...]
    """Net portfolio return by bar of `Tuned.times`; only of completed trials."""


@dataclass(frozen=True)
class Tuned:
    best: dict[str, Any]
    """Parameters of the best completed trial."""
    best_trial: int
    trials: tuple[Trial, ...]
    times: tuple[str, ...]
    """Bars of decision of the trials' out-of-sample series (ISO times)."""
    study: str
    """Name of the study in the storage."""


def run(job: Job) -> Tuned:
    """The best parameters found for the columns that pruning kept."""
    pruned = pruning.run(job)
    config = job.config
    tuning = to_mapping(config.tuning)
    del tuning["timeout_seconds"]  # a limit on the search is not part of what is searched
    settings = config.training_settings() | {"tuning": tuning}
    return job.run_phase(
        "tuning",
        Tuned,
        settings=settings,
        upstream=("pruning",),
        compute=lambda run: _tune(job, pruned.selected, run),
        log=_log,
        complete=lambda result: len(result.trials) >= config.tuning.n_trials,  # its time may have run out
    )


def tuning_folds(job: Job) -> list[Fold]:
    """Folds spread evenly over development whose test blocks do not overlap; by default they tile it."""
    config = job.config
    n_testable = (
        job.n_development
        - config.timing.label_bars
        - config.warm_up_bars
        - config.walk_forward.train_window
        - config.purge_gap
    )
    step_size = n_testable // config.tuning.folds
    test_window = min(config.walk_forward.test_window or step_size, step_size)
    return job.folds(job.n_development, step_size=step_size, max_folds=None, test_window=test_window)[
        : config.tuning.folds
    ]


def _tune(job: Job, selected: tuple[str, ...], run: Run) -> Tuned:
    config = job.config
    panel = job.development.select(selected)
    market = job.market(panel)
    folds = tuning_folds(job)
    times = [str(panel.times[bar]) for fold in folds for bar in fold.test]
    name = f"tuning-{job.keys['tuning'][:16]}"
    study = open_study(f"{name}-{run.run_id[:8]}" if job.fresh else name, storage=None if job.is_inner else STORAGE)
    job.reporter.start("tuning", max(0, config.tuning.n_trials - len(ended(study))) * len(folds))
    job.reporter.say(
        f"tuning: its limits can be changed while it runs, for example by: optuna study set-user-attr "
        f"--storage {STORAGE} --study-name {study.study_name} --key timeout_seconds --value 0"
    )

    def candidate(parameters: Mapping[str, Any]) -> Candidate:
        tuned = config.with_tuned(parameters)
        recipe = Recipe(tuned.model, tuned.training, config.timing, config.tuning.epochs, config.seed)
        return Candidate(recipe, tuned.positions)

    def foreseen(parameters: Mapping[str, Any]) -> Candidate | None:
        try:
            return candidate(parameters)
        except ConfigError:  # which its trial will end with
            return None

    n_allowed = trials_allowed(study, config.tuning.n_trials)
    first = first_parameters(config.tuning.space, config.untuned(), config.seed)[:n_allowed]
    walks = TrialWalks(market, folds, [foreseen(parameters) for parameters in first])

    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        tried = candidate(parameters)
        forecasts: list[RawForecast] = []
        returns = np.empty(0)
        value = 0.0
        # The folds are fitted side by side; a trial that is pruned stops those of its own that are still running.
        for number, outcome in enumerate(walks.outcomes(tried)):
            forecasts.append(outcome.forecast)
            record = stitch(
                forecasts, panel, market.sigma, tried.positions, config.timing, n_development=job.n_development
            )
            tested = np.concatenate([np.arange(f.bars.start, f.bars.stop) for f in forecasts]) - record.bars.start
            returns = record.net()[tested]
            value = sharpe(returns, periods_per_year=config.periods_per_year)
            if not np.isfinite(value):
                raise FloatingPointError(f"the test Sharpe after fold {number} is not defined")
            best = study.best_value if any(t.state == TrialState.COMPLETE for t in study.trials) else value
            job.reporter.step(f"trial {trial.number} fold {number} test Sharpe {value:.2f}, best so far {best:.2f}")
            report(number, value)
        trial.set_user_attr(OOS_RETURNS, [float(x) for x in np.nan_to_num(returns, nan=0.0)])
        return value

    def on_trial(trial: optuna.trial.FrozenTrial) -> None:
        job.reporter.skip(len(folds) - len(trial.intermediate_values))
        with run.child(f"trial {trial.number}") as child:  # each trial is a run of its own, comparable in the UI
            child.tags({"phase": "trial", "trial_state": trial.state.name})
            child.params(trial.params)
            child.metric_steps({"oos_sharpe_so_far": dict(trial.intermediate_values)})
            child.metrics({"oos_sharpe_development": trial.value})

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
    if not job.is_inner:  # drawing takes longer than a small study
        for name, figure in plots.optuna_figures(study).items():
            run.figure(f"optuna/{name}.png", figure)
    return Tuned(best.parameters, best.number, trials, tuple(times), study.study_name)


def _trial(trial: optuna.trial.FrozenTrial) -> Trial:
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


def _log(run: Run, result: Tuned) -> None:
    log_trials(run, result)
    scores: dict[int, float | None] = {trial.number: trial.oos_sharpe for trial in result.trials}
    run.metric_steps({"trial_oos_sharpe": scores})
    best = next(trial for trial in result.trials if trial.number == result.best_trial)
    run.metrics({"oos_sharpe_development": best.oos_sharpe, "n_trials": len(result.trials)})
    run.params({f"best.{name}": value for name, value in result.best.items()})
    run.tags({"study": result.study})


def log_trials(run: Run, result: Tuned) -> None:
    """`trials.json`."""
    names = sorted({name for trial in result.trials for name in trial.parameters})
    columns: dict[str, list[Any]] = {
        "trial": [trial.number for trial in result.trials],
        "state": [trial.state for trial in result.trials],
        "best": [trial.number == result.best_trial for trial in result.trials],
        "oos_sharpe": [trial.oos_sharpe for trial in result.trials],
        "n_folds": [trial.n_folds for trial in result.trials],
        "seconds": [trial.seconds for trial in result.trials],
    }
    columns |= {name: [trial.parameters.get(name) for trial in result.trials] for name in names}
    run.table("trials.json", columns)
