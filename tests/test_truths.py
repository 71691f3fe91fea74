"""The planted truths of benchmarks/truths.py and their ceilings: what is said to be known is what can be known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.ceilings import all_trader, knower_record, own_trader, true_sharpe
from benchmarks.rivals import decorrelated, with_right_lags
from benchmarks.skill_task import TIMING, WARM_UP_BARS, Size, Task
from benchmarks.truths import DELAY, KINDS, NOISE_CORRELATION, PERIODS_PER_YEAR, STRENGTH, Kind, Truth, plant
from pipeline.config.schema import Config
from tft.positions import PositionsConfig

Array = NDArray[np.float64]

PLANTED = [kind for kind in KINDS if kind != "noise"]
LONG = 20_000
SIZE = Size(n_bars=500, n_folds=2, test_bars=100, validation_bars=50)


def planted(kind: Kind, *, n_bars: int = 600, seed: int = 3) -> Truth:
    return plant(kind, seed, n_bars=n_bars, n_features=6)


def scaled_returns(truth: Truth) -> Array:
    """(T - 2, A) y of each decision bar that has one: the return 1 + DELAY bars later by the true volatility."""
    lead = 1 + DELAY
    return truth.panel.returns[lead:] / truth.sigma[:-lead]


def task_of(kind: Kind, positions: PositionsConfig, *, seed: int = 3) -> Task:
    return Task.of(kind, seed, SIZE, replace(Config(), positions=positions), torch.device("cpu"))


@pytest.fixture(scope="module", params=PLANTED)
def long_truth(request: pytest.FixtureRequest) -> Truth:
    return planted(request.param, n_bars=LONG)


def test_trading_the_truth_earns_the_sharpe_asked_for(long_truth: Truth) -> None:
    """Holding s / sigma of each instrument; within four standard errors, which are about 1 / sqrt(years)."""
    y = scaled_returns(long_truth)
    earned = (long_truth.expected[: len(y)] / long_truth.strength * y).mean(axis=1)
    annual = earned.mean() / earned.std(ddof=1) * np.sqrt(PERIODS_PER_YEAR)
    assert annual == pytest.approx(STRENGTH[long_truth.kind], abs=4.0 / np.sqrt(LONG / PERIODS_PER_YEAR))


def test_noise_has_the_covariance_that_is_said_and_no_memory(long_truth: Truth) -> None:
    y = scaled_returns(long_truth)
    noise = y - long_truth.expected[: len(y)]
    np.testing.assert_allclose(np.cov(noise.T), long_truth.noise_covariance, atol=0.12)  # fourth moments are large
    off_diagonal = np.corrcoef(noise.T)[np.triu_indices(noise.shape[1], 1)]
    assert off_diagonal.mean() == pytest.approx(NOISE_CORRELATION, abs=0.03)
    assert abs((noise[1:] * noise[:-1]).mean()) < 4.0 / np.sqrt(LONG)


def test_own_expected_is_the_regression_of_y_on_what_the_instrument_shows(long_truth: Truth) -> None:
    """y - own_expected is uncorrelated with it, and own_expected of the truth that others share is a part of it."""
    own, expected = long_truth.own_expected, long_truth.expected
    slope = (own * expected).mean() / (own**2).mean()
    assert slope == pytest.approx(1.0, abs=1e-2)
    if long_truth.kind != "relative":
        np.testing.assert_array_equal(own, expected)
        return
    first = long_truth.panel.features[:, :, long_truth.columns[0]].astype(np.float64)
    assert np.corrcoef(own.ravel(), first.ravel())[0, 1] == pytest.approx(1.0, abs=1e-6)
    # With a correlation c of 0.3 between 8 instruments' columns: corr(x_i - mean of others, x_i) = sqrt(7/8 (1 - c)).
    assert own.std() / expected.std() == pytest.approx(np.sqrt(0.875 * 0.7), abs=0.03)


@pytest.mark.parametrize("kind", PLANTED)
def test_expected_is_a_function_of_features_up_to_its_bar(kind: Kind) -> None:
    """Rebuilt from the panel's columns alone, with all later ones corrupted."""
    truth = planted(kind)
    last = 400
    features = truth.panel.features.astype(np.float64)
    features[last + 1 :] = 1e6
    a = features[last, :, truth.columns[0]]
    if kind == "linear":
        known = features[: last + 1][:, :, list(truth.columns)].reshape(-1, 5)
        signs, *_ = np.linalg.lstsq(known, truth.expected[: last + 1].ravel(), rcond=None)
        rebuilt = features[last][:, list(truth.columns)] @ signs
    elif kind == "interaction":
        rebuilt = np.sign(a) * features[last, :, truth.columns[1]]
    elif kind == "regime":
        rebuilt = a * np.sign(features[last, :, truth.columns[1]])
    elif kind == "temporal":
        past = features[last - len(truth.kernel) + 1 : last + 1, :, truth.columns[0]]
        rebuilt = truth.kernel @ past[::-1]
    else:
        rebuilt = np.array([a[i] - np.delete(a, i).mean() for i in range(len(a))])
    expected = truth.expected[last]
    ratio = float(rebuilt @ expected / (rebuilt @ rebuilt))
    np.testing.assert_allclose(expected, ratio * rebuilt, atol=1e-6)


@pytest.mark.parametrize("kind", PLANTED)
def test_without_strength_there_is_no_signal(kind: Kind) -> None:
    truth = plant(kind, 3, n_bars=300, n_features=6, trading_sharpe=0.0)
    assert truth.strength == 0.0
    assert not truth.expected.any() and not truth.own_expected.any()
    assert np.isfinite(truth.panel.returns[1 + DELAY :]).all()


def test_kinds_and_seeds_give_different_markets_and_the_same_seed_the_same() -> None:
    first, again, other = planted("linear"), planted("linear"), planted("linear", seed=4)
    np.testing.assert_array_equal(first.panel.features, again.panel.features)
    np.testing.assert_array_equal(first.panel.returns, again.panel.returns)
    assert not np.array_equal(first.panel.features, other.panel.features)
    assert not np.array_equal(first.panel.features, planted("regime").panel.features)


def test_right_lags_are_the_truth_itself() -> None:
    task = task_of("temporal", PositionsConfig(max_position=1.0))
    column = with_right_lags(task)[WARM_UP_BARS * 3 :, :, task.truth.columns[0]]
    expected = task.truth.expected[WARM_UP_BARS * 3 :]
    assert np.corrcoef(column.ravel(), expected.ravel())[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_folds_test_the_last_bars_that_have_a_label() -> None:
    folds = Size().folds()
    assert [len(fold.test) for fold in folds] == [250] * 5
    assert folds[-1].test.stop == 2200 - TIMING.label_bars
    assert all(fold.train.start == WARM_UP_BARS for fold in folds)
    assert all(fold.test.start == fold.validation.stop + 5 for fold in folds)


@pytest.mark.parametrize("kind", PLANTED)
def test_the_ceilings_are_ceilings(kind: Kind) -> None:
    """No position path of the knower's columns beats the portfolio of all, whose own scale does not matter."""
    task = task_of(kind, PositionsConfig(max_position=1.0, position_smooth=0.0, cost_bps=0.0))
    best = true_sharpe(task.truth, knower_record(task, all_trader(task.truth)), cost_bps=0.0).net
    own = true_sharpe(task.truth, knower_record(task, own_trader(task.truth)), cost_bps=0.0).net
    signs = true_sharpe(task.truth, knower_record(task, np.sign(task.truth.expected)), cost_bps=0.0).net
    scaled = true_sharpe(task.truth, knower_record(task, 7.0 * all_trader(task.truth)), cost_bps=0.0).net
    assert best > own and best > signs
    assert scaled == pytest.approx(best)


def test_the_true_sharpe_is_the_mean_of_realised_ones() -> None:
    """Of one path of positions, over 200 draws of normal noise with the stated covariance."""
    task = task_of("linear", PositionsConfig(max_position=1.0, position_smooth=0.5, cost_bps=5.0))
    record = knower_record(task, own_trader(task.truth))
    truth, bars = task.truth, record.bars
    draws = np.random.default_rng(0)
    root = np.linalg.cholesky(truth.noise_covariance)
    noise = draws.standard_normal((200, *record.position.shape)) @ root.T
    earned = record.position * truth.sigma[bars] * (truth.expected[bars] + noise) - 5e-4 * record.earned.change
    by_bar = earned.mean(axis=2)
    realised = by_bar.mean(axis=1) / by_bar.std(axis=1, ddof=1) * np.sqrt(PERIODS_PER_YEAR)
    error = realised.std() / np.sqrt(len(realised))
    assert true_sharpe(truth, record, cost_bps=5.0).net == pytest.approx(realised.mean(), abs=4.0 * error)


def test_decorrelated_noise_has_no_correlation_between_instruments() -> None:
    rho, n = 0.75, 8
    noise = (
        np.random.default_rng(1).standard_normal((20_000, n))
        @ np.linalg.cholesky(np.full((n, n), rho) + (1.0 - rho) * np.eye(n)).T
    )
    np.testing.assert_allclose(np.cov(decorrelated(noise, rho).T), (1.0 - rho) * np.eye(n), atol=0.02)
