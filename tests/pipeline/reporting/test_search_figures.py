"""Which figures of the search Optuna draws, and that drawing them leaves nothing of pyplot's behind."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
import optuna
import pytest

from pipeline.reporting import search_figures
from tests.pipeline.reporting.test_figures import drawn


@dataclass
class Plan:
    """How the trials of a study end."""

    n_trials: int
    constant: bool = False
    fail: bool = False


def study_of(plan: Plan) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        trial.suggest_categorical("loss_mode", ["joint_mle", "sharpe"])
        trial.suggest_int("n_heads", 4, 4)
        if plan.fail:
            raise ValueError
        for fold in range(2):
            trial.report(lr, fold)
        if trial.number == 3:
            raise optuna.TrialPruned
        return 1.0 if plan.constant else float(np.log10(lr))

    study.optimize(objective, n_trials=plan.n_trials, catch=(ValueError,))
    return study


ONE = {"optimization_history", "intermediate_values"}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(0), set()),
        (Plan(2, fail=True), set()),
        (Plan(1), ONE),
        (Plan(4, constant=True), ONE | {"slice_1"}),
        (Plan(8), ONE | {"slice_1", "param_importances"}),
    ],
)
def test_optuna_draws_what_the_study_holds_and_leaves_nothing_behind(plan: Plan, expected: set[str]) -> None:
    study = study_of(plan)
    settings = dict(matplotlib.rcParams)
    figures = search_figures.optuna_figures(study)
    assert set(figures) == expected
    assert dict(matplotlib.rcParams) == settings
    for figure in figures.values():
        drawn(figure)
