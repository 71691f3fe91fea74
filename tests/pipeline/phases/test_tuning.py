"""The search as it is told of while it runs, and what is taken from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial

from pipeline.config.reading import load_config
from pipeline.config.space import Range
from pipeline.phases.folds import tuning_folds
from pipeline.phases.search import open_study
from pipeline.phases.stitching import with_gain
from pipeline.phases.training_data import TrainingData
from pipeline.phases.tuning import tune
from tests.conftest import CPU, NESTED_MICRO, small_panel
from tft.backtest import walk
from tft.metrics import sharpe
from tft.record import stitch

BASE = load_config(NESTED_MICRO)
CONFIG = replace(BASE, selection="holdout", tuning=replace(BASE.tuning, n_trials=4))
DATA = TrainingData(small_panel(180, 2, 5, seed=3, signal=0.5).first_bars(126), None, CPU)
FOLDS = tuning_folds(CONFIG, DATA.n_bars)


def test_each_fold_is_told_of_with_the_sharpe_so_far_and_each_trial_once() -> None:
    """Of a completed trial the last Sharpe is its value; beside it the best of the trials completed by then, itself
    included, and none before the first is. It never falls, and the best of all is taken."""
    folds: list[tuple[int, int, float, float | None]] = []
    trials: list[FrozenTrial] = []
    tuned = tune(
        DATA,
        CONFIG,
        FOLDS,
        open_study("told", storage=None),
        on_fold=lambda *told: folds.append(told),
        on_trial=trials.append,
    )
    assert [trial.number for trial in trials] == [trial.number for trial in tuned.trials] == [0, 1, 2, 3]
    completed: list[float] = []
    for trial in tuned.trials:
        told = [one for one in folds if one[0] == trial.number]
        assert [fold for _, fold, _, _ in told] == list(range(trial.n_folds))
        assert told[-1][2] == trial.oos_sharpe
        assert all(best == max(completed, default=None) for _, _, _, best in told[:-1])
        if trial.state == "COMPLETE":
            completed.append(told[-1][2])
            assert len(trial.oos_returns) == len(tuned.times) == sum(len(fold.test) for fold in FOLDS)
        assert told[-1][3] == max(completed, default=None)
    known = [best for _, _, _, best in folds if best is not None]
    assert known == sorted(known) and known[-1] == max(completed)
    best = tuned.trials[tuned.best_trial]
    assert best.oos_sharpe == max(completed) and tuned.best == best.parameters
    assert [np.datetime64(time) for time in tuned.times] == [
        DATA.panel.times[bar] for fold in FOLDS for bar in fold.test
    ]


def test_a_pruned_trial_is_not_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trial 0 is pruned after its last fold, the others complete: its Sharpe is never told as the best."""
    pruned = optuna.pruners.NopPruner()
    monkeypatch.setattr(pruned, "prune", lambda study, trial: trial.number == 0 and len(FOLDS) - 1 == trial.last_step)
    study = open_study("pruned", storage=None)
    study.pruner = pruned
    folds: list[tuple[int, int, float, float | None]] = []
    tuned = tune(DATA, CONFIG, FOLDS, study, on_fold=lambda *told: folds.append(told))
    assert tuned.trials[0].state == "PRUNED" and tuned.trials[0].n_folds == len(FOLDS)
    assert [best for trial, _, _, best in folds if trial == 0] == [None] * len(FOLDS)
    assert folds[-1][3] == max(trial.oos_sharpe or -np.inf for trial in tuned.trials[1:])


def test_the_first_trial_is_the_untuned_walk_forward() -> None:
    """Its returns are those of tft's own walk, gain and stitch over the test blocks, its Sharpe theirs."""
    tuned = tune(DATA, CONFIG, FOLDS, open_study("first", storage=None))
    market = DATA.market(CONFIG.timing)
    recipe = CONFIG.recipe(CONFIG.tuning.epochs)
    walked = [one for _, one in walk(market, FOLDS, recipe)]
    forecasts = [with_gain(one, market, recipe).forecast for one in walked]
    record = stitch(forecasts, DATA.panel, market.sigma, CONFIG.positions, CONFIG.timing, n_development=126)
    tested = [bar - int(record.bars[0]) for fold in FOLDS for bar in fold.test]
    returns = record.net()[tested]
    np.testing.assert_array_equal(tuned.trials[0].oos_returns, returns)
    assert tuned.trials[0].oos_sharpe == sharpe(returns, periods_per_year=252.0)


def test_a_search_in_which_no_trial_completes_says_why() -> None:
    """A look-back of one bar is refused, whichever trial asks for it."""
    config = replace(
        CONFIG,
        model=replace(CONFIG.model, seq_len=1),
        tuning=replace(CONFIG.tuning, n_trials=2, space={"seq_len": Range(choices=(1,))}),
    )
    with pytest.raises(ValueError, match=r"^none of the 2 trials completed \(.+\): narrow tuning\.space$"):
        tune(DATA, config, FOLDS, open_study("none", storage=None))
