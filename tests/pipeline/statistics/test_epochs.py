"""The best of many epochs on noise against closed forms, quantiles and simulation.

A comment above an assertion states the rule it checks.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics import significance
from pipeline.statistics.epochs import FoldLuck, best_of_correlated_epochs, fold_luck
from pipeline.statistics.significance import best_of_epochs
from tests.pipeline.statistics.series import noise
from tft.backtest import FoldOutcome
from tft.folds import Fold
from tft.record import RawForecast

Array = NDArray[np.float64]


# ---- independent epochs


def test_best_of_epochs_has_the_closed_forms() -> None:
    # One epoch: 0. Two, Student's t with 2 degrees: pi / (2 sqrt 2). Two, nearly normal: 1 / sqrt(pi).
    assert best_of_epochs(1, 21) == 0.0
    assert best_of_epochs(2, 3, periods_per_year=3) == pytest.approx(math.pi / (2 * math.sqrt(2)), rel=1e-6)
    assert best_of_epochs(2, 10**6, periods_per_year=10**6) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-5)


def test_best_of_80_epochs_on_21_bars() -> None:
    assert best_of_epochs(80, 21) == pytest.approx(9.28, abs=0.005)
    noise = np.random.default_rng(9).standard_normal((3000, 80, 21))
    best = (noise.mean(axis=2) / noise.std(axis=2, ddof=1)).max(axis=1) * math.sqrt(252)
    assert best_of_epochs(80, 21) == pytest.approx(best.mean(), abs=5 * best.std() / math.sqrt(3000))


@pytest.mark.parametrize(("n_epochs", "n_bars"), [(3, 3), (500, 5), (80, 21), (100_000, 63)])
def test_best_of_epochs_is_the_mean_quantile_of_the_maximum(n_epochs: int, n_bars: int) -> None:
    # E[max] = integral over u of F^-1(u^(1/E)), here by Gauss-Legendre in v with u = 1 - v^8, v^8 taming the tail.
    v, weight = np.polynomial.legendre.leggauss(400)
    v, weight = (v + 1) / 2, weight / 2
    quantiles = stats.t.isf(-np.expm1(np.log1p(-(v**8)) / n_epochs), n_bars - 1)
    expected = (weight * 8 * v**7 * quantiles).sum() * math.sqrt(252 / n_bars)
    assert best_of_epochs(n_epochs, n_bars) == pytest.approx(expected, rel=1e-3)


# ---- the epochs of one fold


def test_equal_epochs_show_nothing_more_than_one() -> None:
    """Also where one trades twice what the other does: the Sharpe is the same."""
    one = noise(1, 21)
    assert best_of_correlated_epochs(np.concatenate([one, one, 2.0 * one]), periods_per_year=252) == pytest.approx(0.0)


@pytest.mark.parametrize(("n_epochs", "n_bars", "tolerance"), [(2, 400, 0.07), (10, 400, 0.05), (80, 21, 0.10)])
def test_independent_epochs_come_to_the_exact_figure(n_epochs: int, n_bars: int, tolerance: float) -> None:
    """80 epochs on 21 bars stay a few percent below: so few bars show correlations that are not there."""
    exact = significance.best_of_epochs(n_epochs, n_bars)
    found = best_of_correlated_epochs(noise(n_epochs, n_bars), periods_per_year=252, n_draws=2000)
    assert found == pytest.approx(exact, rel=tolerance)


def test_half_correlated_epochs_match_a_simulation_in_plain_loops() -> None:
    """Two epochs with correlation rho on many bars: E max = sqrt((1 - rho) / pi) standard errors."""
    returns = noise(2, 5000)
    returns[1] = 0.6 * returns[0] + 0.8 * returns[1]
    rho = float(np.corrcoef(returns)[0, 1])
    returns = returns[:, :2000]
    rho = float(np.corrcoef(returns)[0, 1])
    found = best_of_correlated_epochs(returns, periods_per_year=252, n_draws=2000)
    assert found == pytest.approx(math.sqrt((1 - rho) / math.pi) * math.sqrt(252 / 2000), rel=0.06)


def test_opposite_epochs_show_the_mean_absolute_sharpe() -> None:
    """The better of x and -x is |x|: of a normal with standard error s, s sqrt(2 / pi)."""
    one = noise(1, 1000)
    found = best_of_correlated_epochs(np.concatenate([one, -one]), periods_per_year=252, n_draws=2000)
    assert found == pytest.approx(math.sqrt(2 / math.pi * 252 / 1000), rel=0.06)


def outcome(returns: Array, index: int = 0) -> FoldOutcome:
    """A fold that left nothing behind but the validation returns of its epochs."""
    n_epochs, n_bars = returns.shape
    fold = Fold(index, range(50), range(50, 50 + n_bars), range(80, 90))
    empty = np.zeros(0)
    return FoldOutcome(
        forecast=RawForecast(fold, fold.test, np.zeros((10, 2))),
        distribution=np.zeros((10, 2, 0)),
        probability_up=np.full((10, 2), np.nan),
        kept_epoch=0,
        train_loss=np.zeros(n_epochs),
        validation_score=np.zeros(n_epochs),
        validation_position=np.zeros((n_bars, 2)),
        epoch_positions=(np.zeros((n_epochs, n_bars, 2)),),
        validation_returns=returns,
        val_sharpe=0.0,
        val_sharpe_best_epoch=0.0,
        vsn_weight=empty,
        vsn_weight_relative=empty,
        skipped_steps=0,
        seconds=1.0,
        stack_size=1,
    )


def test_a_folds_luck_leaves_out_unknown_bars_and_epochs_that_did_not_trade() -> None:
    returns = noise(5, 30)
    extended = np.concatenate([returns, np.zeros((1, 30))])
    extended[:, 7] = np.nan
    luck = fold_luck(outcome(extended, index=4), periods_per_year=252)
    without = np.delete(returns, 7, axis=1)
    assert luck == FoldLuck(
        fold=4,
        n_validation_bars=29,
        best_of_independent_epochs=significance.best_of_epochs(6, 29),
        best_of_correlated_epochs=best_of_correlated_epochs(without, periods_per_year=252),
    )


@pytest.mark.parametrize("returns", [np.zeros((4, 30)), noise(4, 2), np.full((4, 30), np.nan)])
def test_a_fold_without_anything_to_compare_has_no_luck(returns: Array) -> None:
    assert fold_luck(outcome(returns), periods_per_year=252).best_of_correlated_epochs is None
