"""The Optuna study: search space, pruner, storage, and limits that can be changed while it runs."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState

from pipeline.config.space import WHOLE_NUMBERS, Range
from tft.windows import seed_from

STORAGE = "sqlite:///optuna.db"
HEARTBEAT_S = 30
RANDOM_TRIALS = 10
"""Trials whose parameters are drawn at random; from then on the sampler learns from results."""
FAULT = "fault"
"""User attribute of a trial that raised an error. A trial whose process died lacks it, and is run again."""


class Report(Protocol):
    def __call__(self, step: int, value: float) -> None:
        """Tell the pruner the value so far; ends the trial if the pruner says so."""


Objective = Callable[[optuna.Trial, Mapping[str, Any], Report], float]


def open_study(name: str, *, storage: str | None = STORAGE) -> optuna.Study:
    """Open the study of that name, or create it. Trials whose process died are marked as failed.

    Without a storage the study is a new one in memory, and gone with the process.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rdb = None
    if storage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            rdb = optuna.storages.RDBStorage(storage, heartbeat_interval=HEARTBEAT_S, grace_period=4 * HEARTBEAT_S)
    return optuna.create_study(
        study_name=name,
        storage=rdb,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0),
        load_if_exists=True,
    )


def search(
    study: optuna.Study,
    space: Mapping[str, Range],
    untuned: Mapping[str, Any],
    objective: Objective,
    *,
    n_trials: int,
    timeout_seconds: float,
    seed: int,
    on_trial: Callable[[optuna.trial.FrozenTrial], None],
    begun: Callable[[int], bool] = lambda n_ended: False,
) -> None:
    """Run trials until `n_trials` have ended, trial 0 with the untuned values. Resumes a study that was interrupted.

    The sampler is seeded anew by (seed, trials ended), so that a resumed study goes on as an uninterrupted one. While
    it runs, `optuna study set-user-attr` can change `n_trials` and `timeout_seconds` (0: no limit); the timeout keeps
    new trials from starting and ends none. `begun`: whether the trial that follows so many was started with an earlier
    one.
    """
    started = time.monotonic()
    if not ended(study) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({name: untuned[name] for name in space})

    def evaluate(trial: optuna.Trial) -> float:
        def report(step: int, value: float) -> None:
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"below the median of the trials after step {step}")

        try:
            parameters = _suggest_all(trial, space)
            value = objective(trial, parameters, report)
            if not math.isfinite(value):
                raise FloatingPointError(f"the objective is {value}")
            return value
        except (FloatingPointError, ValueError) as error:
            trial.set_user_attr(FAULT, str(error))
            raise

    while True:
        attributes = study.user_attrs
        limit_s = float(attributes.get("timeout_seconds", timeout_seconds))
        n_ended = len(ended(study))
        if n_ended >= trials_allowed(study, n_trials):
            return
        if limit_s and n_ended and time.monotonic() - started >= limit_s and not begun(n_ended):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = _sampler(seed, n_ended)
            study.optimize(
                evaluate,
                n_trials=1,
                catch=(FloatingPointError, ValueError),
                callbacks=[lambda _, trial: on_trial(trial)],
            )


def first_parameters(space: Mapping[str, Range], untuned: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """The parameters of the first RANDOM_TRIALS trials of a search, which depend on no result."""
    studies = [optuna.create_study(sampler=_sampler(seed, n_ended)) for n_ended in range(1, RANDOM_TRIALS)]
    return [{name: untuned[name] for name in space}, *(_suggest_all(study.ask(), space) for study in studies)]


def trials_allowed(study: optuna.Study, n_trials: int) -> int:
    """The configured number of trials, or the number that it was changed to while the study ran."""
    return int(float(study.user_attrs.get("n_trials", n_trials)))


def _sampler(seed: int, n_ended: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed_from(seed, "trial", n_ended) % 2**32)


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that count: complete, pruned, or refused by the objective; not those whose process died."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (trial.state == TrialState.FAIL and FAULT in trial.user_attrs)
    ]


def _suggest_all(trial: optuna.Trial, space: Mapping[str, Range]) -> dict[str, Any]:
    return {name: suggest(trial, name, values) for name, values in sorted(space.items())}


def suggest(trial: optuna.Trial, name: str, values: Range) -> Any:
    if values.choices is not None:
        return trial.suggest_categorical(name, values.choices)
    assert values.low is not None and values.high is not None
    if name in WHOLE_NUMBERS:
        return trial.suggest_int(name, int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return trial.suggest_float(name, values.low, values.high, log=values.log, step=values.step)
