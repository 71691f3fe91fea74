"""The search as it is told of while it runs, and what is taken from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
    """Of a completed trial the last Sharpe is its value; beside it the best of the trials completed before, or its own
    where there is none. The best of all is taken."""
    folds: list[tuple[int, int, float, float]] = []
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
        assert all(best == (max(completed) if completed else value) for _, _, value, best in told)
        if trial.state == "COMPLETE":
            completed.append(told[-1][2])
            assert len(trial.oos_returns) == len(tuned.times) == sum(len(fold.test) for fold in FOLDS)
    best = tuned.trials[tuned.best_trial]
    assert best.oos_sharpe == max(completed) and tuned.best == best.parameters
    assert [np.datetime64(time) for time in tuned.times] == [
        DATA.panel.times[bar] for fold in FOLDS for bar in fold.test
    ]


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
