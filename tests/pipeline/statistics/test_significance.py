"""What `significance` offers by name, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics import significance
from pipeline.statistics.significance import (
    admissible_shifts,
    best_of_epochs,
    deflated_sharpe_ratio,
    expected_maximum,
    mertens_standard_error,
    minimum_backtest_length,
    minimum_track_record_length,
    monte_carlo_p_value,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
    sequential_p_value,
    sharpe_difference,
    sharpe_standard_error,
)
from tests.pipeline.statistics.series import fat_tails

Array = NDArray[np.float64]

GOOD = fat_tails(60, 22)
TRIALS = np.random.default_rng(23).standard_normal((40, 3))


def test_it_offers_every_figure_by_name() -> None:
    """What `pipeline.statistics.significance` promises to hold, wherever a figure is computed."""
    offered = [
        "MIN_INFERENCE_BARS",
        "sharpe_standard_error",
        "mertens_standard_error",
        "probabilistic_sharpe_ratio",
        "expected_maximum",
        "deflated_sharpe_ratio",
        "minimum_track_record_length",
        "minimum_backtest_length",
        "best_of_epochs",
        "BacktestOverfitting",
        "probability_of_backtest_overfitting",
        "SharpeDifference",
        "sharpe_difference",
        "SequentialPValue",
        "monte_carlo_p_value",
        "sequential_p_value",
        "admissible_shifts",
    ]
    assert sorted(significance.__all__) == sorted(offered)
    assert all(hasattr(significance, name) for name in offered)
    assert significance.MIN_INFERENCE_BARS == 63


def with_value(array: Array, value: float) -> Array:
    changed = array.copy()
    changed.flat[7] = value
    return changed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sharpe_standard_error([]), "at least 2 bars"),
        (lambda: sharpe_standard_error([0.1]), "at least 2 bars"),
        (lambda: sharpe_standard_error(TRIALS), "one dimension"),
        (lambda: sharpe_standard_error(np.full(50, 0.1)), "no variance"),
        (lambda: sharpe_standard_error(np.zeros(50)), "no variance"),
        (lambda: sharpe_standard_error(with_value(GOOD, math.nan)), "NaN"),
        (lambda: sharpe_standard_error(with_value(GOOD, math.inf)), "infinite"),
        (lambda: sharpe_standard_error(GOOD, method="lo"), "iid, mertens and hac"),  # type: ignore[arg-type]
        (lambda: sharpe_standard_error(GOOD, lags=60), r"0\.\.59"),
        (lambda: sharpe_standard_error(GOOD, lags=-1), r"0\.\.59"),
        (lambda: mertens_standard_error(0.1, 1, 0.0, 3.0), "n_bars is 1, the least is 2"),
        (lambda: mertens_standard_error(math.nan, 50, 0.0, 3.0), "sharpe is nan"),
        (lambda: mertens_standard_error(0.1, 50, 0.0, 0.2), "not excess"),
        (lambda: mertens_standard_error(1.0, 50, 2.0, 5.0), "zero"),
        (lambda: mertens_standard_error(0.1, math.nan, 0.0, 3.0), "n_bars is nan"),  # type: ignore[arg-type]
        (lambda: mertens_standard_error(0.1, 50, math.nan, 3.0), "skewness is nan"),
        (lambda: mertens_standard_error(0.1, 50, 0.0, math.nan), "kurtosis is nan"),
        (lambda: probabilistic_sharpe_ratio(0.1, n_bars=1), "n_bars"),
        (lambda: probabilistic_sharpe_ratio(math.nan, n_bars=50), "sharpe is nan"),
        (lambda: probabilistic_sharpe_ratio(0.1, n_bars=50, benchmark=math.nan), "benchmark is nan"),
        (lambda: probabilistic_sharpe_ratio(0.1, n_bars=50, skewness=math.inf), "skewness is inf"),
        (lambda: expected_maximum(0), "n_trials is 0"),
        (lambda: expected_maximum(5, -0.1), "variance is -0.1"),
        (lambda: expected_maximum(5, math.nan), "variance is nan"),
        (
            lambda: deflated_sharpe_ratio(0.1, n_bars=50, skewness=0, kurtosis=3, n_trials=0, trial_variance=1),
            "n_trials is 0",
        ),
        (
            lambda: deflated_sharpe_ratio(0.1, n_bars=50, skewness=0, kurtosis=3, n_trials=5, trial_variance=math.nan),
            "variance is nan",
        ),
        (
            lambda: deflated_sharpe_ratio(math.nan, n_bars=50, skewness=0, kurtosis=3, n_trials=5, trial_variance=1),
            "sharpe is nan",
        ),
        (
            lambda: deflated_sharpe_ratio(0.1, n_bars=1, skewness=0, kurtosis=3, n_trials=5, trial_variance=1),
            "n_bars is 1",
        ),
        (lambda: minimum_track_record_length(0.1, benchmark=math.nan), "benchmark is nan"),
        (lambda: minimum_track_record_length(0.1, confidence=0.5), "confidence is 0.5"),
        (lambda: minimum_track_record_length(0.1, confidence=math.nan), "confidence is nan"),
        (lambda: minimum_track_record_length(0.1, benchmark=0.1), "no record is long enough"),
        (lambda: minimum_track_record_length(0.1, confidence=1.0), "confidence is 1.0"),
        (lambda: minimum_track_record_length(math.nan), "sharpe is nan"),
        (lambda: minimum_backtest_length(0, 1.0), "n_trials is 0"),
        (lambda: minimum_backtest_length(5, 0.0), "must be positive"),
        (lambda: minimum_backtest_length(5, math.nan), "nan"),
        (lambda: best_of_epochs(0, 21), "n_epochs is 0"),
        (lambda: best_of_epochs(80, 2), "n_bars is 2, the least is 3"),
        (lambda: best_of_epochs(80, 21, math.nan), "periods_per_year is nan"),
        (lambda: best_of_epochs(80, 21, 0), "periods_per_year"),
        (lambda: probability_of_backtest_overfitting(TRIALS[:, :1], 4), "two trials"),
        (lambda: probability_of_backtest_overfitting(TRIALS[:, 0], 4), "two trials"),
        (lambda: probability_of_backtest_overfitting(TRIALS, 5), "even"),
        (lambda: probability_of_backtest_overfitting(TRIALS, 0), "even"),
        (lambda: probability_of_backtest_overfitting(TRIALS, 22), "from 2 to 20"),
        (lambda: probability_of_backtest_overfitting(TRIALS[:30], 16), "fewer blocks"),
        (lambda: probability_of_backtest_overfitting(with_value(TRIALS, math.nan), 4), "NaN"),
        (lambda: probability_of_backtest_overfitting(with_value(TRIALS, math.inf), 4), "infinite"),
        (lambda: probability_of_backtest_overfitting(TRIALS * [1, 0, 1], 4), "trial 1 has no variance"),
        (lambda: probability_of_backtest_overfitting(TRIALS * [1, 1, 0] + 0.1, 4), "trial 2 has no variance"),
        (lambda: sharpe_difference(GOOD, GOOD[:-1]), "same bars"),
        (lambda: sharpe_difference(GOOD, np.zeros(60)), "b have no variance"),
        (lambda: sharpe_difference(np.zeros(60), GOOD), "a have no variance"),
        (lambda: sharpe_difference(with_value(GOOD, math.nan), GOOD), "a hold NaN"),
        (lambda: sharpe_difference(GOOD, with_value(GOOD, math.inf)), "b hold NaN or infinite"),
        (lambda: sharpe_difference(TRIALS, TRIALS), "one dimension"),
        (lambda: sharpe_difference(GOOD, GOOD[::-1], lags=60), r"0\.\.59"),
        (lambda: sharpe_difference(GOOD, GOOD[::-1], block_length=31), r"1\.\.30"),
        (lambda: sharpe_difference(GOOD, GOOD[::-1], block_length=0), r"1\.\.30"),
        (lambda: sharpe_difference(GOOD, GOOD[::-1], n_bootstrap=18), "at least 19"),
        (lambda: sharpe_difference([1.0], [2.0]), "at least 2 bars"),
        (lambda: monte_carlo_p_value(0, 0), "n_draws is 0"),
        (lambda: monte_carlo_p_value(20, 19), r"0\.\.19"),
        (lambda: monte_carlo_p_value(-1, 19), r"0\.\.19"),
        (lambda: sequential_p_value([True], 0, 19), "h is 0"),
        (lambda: sequential_p_value([True], 1, 0), "m is 0"),
        (lambda: sequential_p_value([False] * 18, 1, 19), "after 18 of 19"),
        (lambda: sequential_p_value([], 1, 19), "after 0 of 19"),
        (lambda: admissible_shifts(0, lookback=1, window=1, horizon=1), "n_bars is 0"),
        (lambda: admissible_shifts(9, lookback=-1, window=1, horizon=1), "lookback is -1"),
        (lambda: admissible_shifts(9, lookback=1, window=0, horizon=1), "window is 0"),
        (lambda: admissible_shifts(9, lookback=1, window=1, horizon=0), "horizon is 0"),
    ],
)
def test_what_is_undefined_is_refused_by_a_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_returns_that_leave_no_sampling_error_are_refused() -> None:
    # Two-valued symmetric returns have fixed scores: a shift changes the Sharpe, and none of the errors.
    flips = np.tile([1.0, -1.0], 30)
    with pytest.raises(ValueError, match="zero to first order"):
        sharpe_difference(flips, flips + 0.1)
    # Two values whose skewness is 2 / Sharpe: what a bar adds to the mean it takes back through the deviation.
    jumps = np.where(np.arange(40) % 20 < 3, 1.0, 0.0)
    z = (jumps - jumps.mean()) / jumps.std()
    with pytest.raises(ValueError, match="zero to first order"):
        sharpe_standard_error(z + 2 / stats.skew(z))


def test_results_cannot_be_changed() -> None:
    for result, field in (
        (sequential_p_value([True], 1, 9), "p_value"),
        (sharpe_difference(GOOD, GOOD), "difference"),
        (probability_of_backtest_overfitting(TRIALS, 4), "pbo"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(result, field, 0.0)
