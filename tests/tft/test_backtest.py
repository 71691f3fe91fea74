"""What a walk fits, forecasts and reads off each fold, and the fold's line of the table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.conftest import CPU, small_panel, small_recipe
from tests.tft.test_record import N_DEVELOPMENT, POSITIONS, the_panel
from tft.backtest import MAX_GAIN, fold_row, gain_for_volatility, validation_returns, walk
from tft.folds import Fold, walk_forward
from tft.market import Market
from tft.metrics import MIN_BARS
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.record import RawForecast, stitch
from tft.train import fit_folds, forecast_fit, selection_of_fit
from tft.volatility import Timing, ewm_volatility

# Validation


def test_validation_returns_take_each_epoch_as_a_path_from_flat() -> None:
    panel = the_panel()
    sigma, bars = ewm_volatility(panel.returns), range(90, 105)
    raw = np.random.default_rng(0).uniform(-1, 1, (4, 15, 3)).astype(np.float32)
    returns = validation_returns(raw, bars, panel, sigma, POSITIONS, Timing())
    assert returns.shape == (4, 15)
    for epoch in range(4):
        one = RawForecast(Fold(0, range(1), range(1), bars), bars, raw[epoch].astype(np.float64))
        record = stitch([one], panel, sigma, POSITIONS, Timing(), n_development=0)
        assert np.array_equal(returns[epoch], record.net(), equal_nan=True)


# The walk


def test_a_walk_forecasts_each_test_block_and_reads_the_selection_off_the_validation_rows() -> None:
    panel, recipe = the_panel(), small_recipe(epochs=2)
    panel.features[:, :, 2] = 1.0  # constant: never selected
    market = Market(panel, recipe.timing, CPU)
    folds = walk_forward(160, train_window=80, validation_window=12, test_window=30, step_size=30, purge_gap=5)
    outcomes = [outcome for _, outcome in walk(market, folds, recipe, test_until=170)]
    assert [one.forecast.bars for one in outcomes] == [*(fold.test for fold in folds[:-1]), range(145, 170)]
    assert len(folds[-1].test) == 15
    for fold, outcome, fit in zip(folds, outcomes, fit_folds(market, folds, recipe), strict=True):
        forecasts, cells = forecast_fit(fit, market, recipe, outcome.forecast.bars)
        grid = outcome.forecast.raw_position.reshape(-1)
        assert np.array_equal(grid[cells - outcome.forecast.bars.start * 3], forecasts.position)
        assert np.isfinite(grid).sum() == len(cells)
        assert outcome.distribution.shape == (*outcome.forecast.raw_position.shape, 2)
        own = outcome.distribution.reshape(-1, 2)
        assert np.array_equal(own[cells - outcome.forecast.bars.start * 3], forecasts.distribution)
        assert np.array_equal(np.isfinite(own).all(axis=1), np.isfinite(grid))
        assert np.allclose(2.0 * outcome.probability_up - 1.0, outcome.forecast.raw_position, atol=1e-6, equal_nan=True)
        kept = fit.validation_position[fit.kept_epoch]
        assert np.array_equal(outcome.validation_position, kept.astype(np.float64), equal_nan=True)

        selected, cells = selection_of_fit(fit, market, recipe, fold.validation)
        usable = np.isfinite(fit.scaler.std)
        for v in range(3):
            weights, relative = [], []
            for row, cell in zip(selected, cells.tolist(), strict=True):
                there = np.isfinite(panel.features.reshape(-1, 3)[cell]) & usable
                if there[v]:
                    weights.append(row[v])
                    relative.append(row[v] * there.sum())
            if weights:
                assert outcome.vsn_weight[v] == pytest.approx(np.mean(weights))
                assert outcome.vsn_weight_relative[v] == pytest.approx(np.mean(relative))
            else:
                assert np.isnan(outcome.vsn_weight[v])
                assert np.isnan(outcome.vsn_weight_relative[v])
        assert np.isnan(outcome.vsn_weight).tolist() == [False, False, True]

    record = stitch(
        [one.forecast for one in outcomes], panel, market.sigma, POSITIONS, recipe.timing, n_development=N_DEVELOPMENT
    )
    row = fold_row(outcomes[0], record, panel.times)
    assert (row.train_start, row.train_end) == (str(panel.times[0]), str(panel.times[62]))
    assert (row.test_start, row.test_end) == (str(panel.times[85]), str(panel.times[114]))
    assert row.segment == "development/between/holdout"
    by_epoch = pd.DataFrame(outcomes[0].validation_returns.T)
    by_epoch = by_epoch.mean() / by_epoch.std() * 252.0**0.5
    assert row.val_sharpe == pytest.approx(by_epoch[outcomes[0].kept_epoch])
    assert row.val_sharpe_best_epoch == pytest.approx(by_epoch.max())
    assert row.oos_sharpe == pytest.approx(record.fold_sharpe(0))
    assert row.val_oos_gap == pytest.approx(row.val_sharpe - row.oos_sharpe)
    assert (row.gain, fold_row(replace(outcomes[0], gain=2.5), record, panel.times).gain) == (1.0, 2.5)


def test_the_last_fold_that_is_tested_goes_on_whatever_is_fitted_after_it() -> None:
    """To bar 160 of 160; the fold without a test block forecasts nothing."""
    panel, recipe = the_panel(), small_recipe(epochs=1)
    tested = (
        Fold(0, range(20, 60), range(65, 75), range(80, 110)),
        Fold(1, range(50, 90), range(95, 105), range(110, 140)),
    )
    final = Fold(2, range(80, 120), range(125, 135), range(140, 140))
    market = Market(panel, recipe.timing, CPU)
    outcomes = [outcome for _, outcome in walk(market, (*tested, final), recipe, test_until=160)]
    assert [one.forecast.bars for one in outcomes] == [range(80, 110), range(110, 160), range(140, 140)]
    assert outcomes[2].forecast.raw_position.shape == outcomes[2].probability_up.shape == (0, 3)


# The gain


def volatility_by_hand(raw: np.ndarray, bars: range, panel: Panel, sigma: np.ndarray, config: PositionsConfig) -> float:
    """Annual volatility of the mean over instruments of what raw positions earn, by a loop; every cell known."""
    smoothed, held, total = np.zeros(raw.shape[1]), np.zeros(raw.shape[1]), []
    for row, t in enumerate(bars):
        target = np.clip(raw[row], -config.max_position, config.max_position)
        smoothed = config.position_smooth * smoothed + (1.0 - config.position_smooth) * target
        before, held = held, smoothed * np.minimum(config.vol_target / (sigma[t] * 252.0**0.5), config.max_leverage)
        total.append(np.mean(held * panel.returns[t + 2] - config.cost_bps * 1e-4 * np.abs(held - before)))
    return float(np.std(total, ddof=1) * 252.0**0.5)


@pytest.mark.parametrize(("size", "expected"), [(0.001, MAX_GAIN), (0.3, None), (0.95, 1.0)])
def test_the_gain_brings_the_volatility_to_its_target_within_its_bounds(size: float, expected: float | None) -> None:
    """Too small even at the largest gain; within reach; above already. Volatility turns out twice what it was."""
    panel = small_panel(150, 2, 1, missing=0.0, seed=4)
    bars, sigma = range(60, 140), 0.5 * ewm_volatility(panel.returns)
    config = PositionsConfig(max_position=1.0, position_smooth=0.2, vol_target=0.1)
    raw = np.repeat(size * np.sign(np.random.default_rng(0).standard_normal((8, 2))), 10, axis=0)
    gain = gain_for_volatility(raw, bars, panel, sigma, config, Timing())
    reached = volatility_by_hand(gain * raw, bars, panel, sigma, config)
    if expected is None:
        assert 1.0 < gain < MAX_GAIN
        assert reached == pytest.approx(config.vol_target, rel=0.01)
        assert volatility_by_hand(raw, bars, panel, sigma, config) < 0.9 * config.vol_target
    else:
        assert gain == expected
        assert (reached < config.vol_target) == (expected == MAX_GAIN)


def test_the_gain_brings_at_most_a_tenth_of_the_positions_to_the_cap() -> None:
    """However far the volatility is from its target: the size of a forecast is traded, and not its sign alone."""
    panel = small_panel(150, 2, 1, missing=0.0)
    bars, sigma = range(60, 140), ewm_volatility(panel.returns)
    config = PositionsConfig(max_position=0.3, vol_target=5.0)
    raw = 0.1 * np.random.default_rng(0).standard_normal((80, 2))
    gain = gain_for_volatility(raw, bars, panel, sigma, config, Timing())
    assert 1.0 < gain < MAX_GAIN
    assert 0.05 < (np.abs(gain * raw) >= 0.3).mean() <= 0.1 + 1 / raw.size
    assert gain_for_volatility(5.0 * raw, bars, panel, sigma, config, Timing()) == 1.0  # they are there already


def test_without_enough_bars_or_a_forecast_the_gain_is_1() -> None:
    panel = small_panel(150, 2, 1)
    sigma, config = ewm_volatility(panel.returns), PositionsConfig()
    for n_bars, raw in ((MIN_BARS - 1, 0.01), (40, np.nan)):
        bars = range(60, 60 + n_bars)
        assert gain_for_volatility(np.full((n_bars, 2), raw), bars, panel, sigma, config, Timing()) == 1.0


def test_a_walk_hedges_raw_positions_by_the_correlation_of_the_fit() -> None:
    """Objective portfolio: test and validation positions are those of the network after the cross-sectional step."""
    panel = the_panel()
    panel.returns[:] = panel.returns + 0.02 * np.random.default_rng(1).standard_normal((len(panel.returns), 1))
    panel.features[95:99, 1] = np.nan
    recipe = small_recipe(epochs=1, objective="portfolio")
    market, fold = Market(panel, recipe.timing, CPU), Fold(0, range(20, 60), range(65, 85), range(90, 110))
    ((fit, outcome),) = walk(market, [fold], recipe)
    assert fit.correlation > 0.3
    forecasts, cells = forecast_fit(fit, market, recipe, fold.test)
    grid = np.full((20, 3), np.nan)
    grid.reshape(-1)[cells - fold.test.start * 3] = forecasts.position
    known = np.isfinite(grid)
    for bar in range(20):
        n = known[bar].sum()
        others = np.nansum(grid[bar]) - grid[bar]
        slope = fit.correlation / (1.0 + (n - 2) * fit.correlation)
        expected = grid[bar] - slope * others
        assert np.allclose(outcome.forecast.raw_position[bar], expected, rtol=0.0, atol=1e-12, equal_nan=True)
    assert (known.sum(axis=1) < 3).any() and outcome.gain == 1.0
    assert np.array_equal(outcome.epoch_positions[0][fit.kept_epoch], outcome.validation_position, equal_nan=True)
    assert not np.allclose(outcome.validation_position, fit.validation_position[fit.kept_epoch], equal_nan=True)
