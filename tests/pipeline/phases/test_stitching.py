"""From the folds' forecasts to one record: each fold by its own cap and smoothing, seeds averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.phases.stitching import average, stitch_by_fold, with_gain
from tests.conftest import CPU, small_panel, small_recipe
from tft.backtest import gain_for_volatility, walk
from tft.checkpoint import TrainedModel
from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.head import LOSS_MODES, LossMode
from tft.market import Market
from tft.metrics import sharpe
from tft.panel import Panel
from tft.positions import PositionsConfig, RegimeConfig, volatility_scale
from tft.predict import Predictor
from tft.recipe import Recipe
from tft.record import RawForecast, stitch
from tft.volatility import Timing


def naive_path(
    raw: np.ndarray, scale: np.ndarray, positions: Mapping[int, PositionsConfig], ruling: list[int]
) -> np.ndarray:
    smoothed, out = np.zeros(raw.shape[1]), np.empty_like(raw)
    for t, fold in enumerate(ruling):
        own = positions[fold]
        capped = np.clip(raw[t], -own.max_position, own.max_position)
        smoothed = own.position_smooth * smoothed + (1.0 - own.position_smooth) * capped
        out[t] = smoothed * scale[t]
    return out


def test_each_fold_is_held_by_its_own_cap_and_smoothing() -> None:
    """Bar by bar, over the border, where the smoothed position goes on; where all are alike it is tft's own stitch."""
    panel = small_panel(150, 2, 1, seed=1)
    market = Market(panel, Timing(), CPU)
    rng = np.random.default_rng(2)
    blocks = [range(100, 120), range(120, 133), range(133, 150)]
    forecasts = [
        RawForecast(Fold(i + 4, range(50), range(60, 70), block), block, rng.uniform(-1, 1, (len(block), 2)))
        for i, block in enumerate(blocks)
    ]
    one = PositionsConfig(max_position=0.3, position_smooth=0.5)
    alike = stitch_by_fold(forecasts, dict.fromkeys((4, 5, 6), one), market, n_development=110)
    expected = stitch(forecasts, panel, market.sigma, one, market.timing, n_development=110)
    for name in ("position", "raw_position", "fold", "segment", "times"):
        np.testing.assert_array_equal(getattr(alike, name), getattr(expected, name))
    np.testing.assert_array_equal(alike.net(), expected.net())

    positions = {4: one, 5: replace(one, max_position=0.9, position_smooth=0.1), 6: replace(one, position_smooth=0.9)}
    record = stitch_by_fold(forecasts, positions, market, n_development=0)
    raw = np.concatenate([forecast.raw_position for forecast in forecasts])
    ruling = [4] * 20 + [5] * 13 + [6] * 17
    scale = volatility_scale(market.sigma[100:150], one, market.timing)
    held = naive_path(raw, scale, positions, ruling)
    np.testing.assert_allclose(record.position, held, rtol=1e-12)
    change = np.abs(np.diff(held, axis=0, prepend=np.zeros((1, 2))))
    net = held[:-2] * panel.returns[102:150] - 5e-4 * change[:-2]
    np.testing.assert_allclose(record.net()[:-2], net.mean(axis=1), rtol=1e-12)
    assert set(record.segment) == {"holdout"}


def test_seeds_of_a_fold_are_averaged_in_their_positions() -> None:
    """The validation Sharpe is that of the averaged positions, written out here; of the best epochs it is the mean.
    Curves go as far as the seed that stopped first; one seed is what it is."""
    market, positions = Market(small_panel(120), Timing(), CPU), PositionsConfig(position_smooth=0.4)
    fold = Fold(3, range(20, 60), range(62, 75), range(77, 90))
    outcomes = [
        next(walk(market, [fold], small_recipe(epochs=epochs, seed=seed, positions=positions)))[1]
        for seed, epochs in ((5, 3), (6, 2))
    ]
    first, second = outcomes
    found = average(outcomes, market, positions)
    raw = (first.forecast.raw_position + second.forecast.raw_position) / 2.0
    np.testing.assert_array_equal(found.forecast.raw_position, raw)
    assert (found.forecast.fold, found.forecast.bars) == (fold, fold.test)

    position = (first.validation_position + second.validation_position) / 2.0
    scale = volatility_scale(market.sigma[62:75], positions, market.timing)
    held = naive_path(position, scale, {3: positions}, [3] * 13)
    change = np.abs(np.diff(held, axis=0, prepend=np.zeros((1, 2))))
    net = (held * market.panel.returns[64:77] - positions.cost_bps * 1e-4 * change).mean(axis=1)
    assert found.val_sharpe == pytest.approx(sharpe(net, periods_per_year=252.0), rel=1e-9)
    assert found.val_sharpe_best_epoch == (first.val_sharpe_best_epoch + second.val_sharpe_best_epoch) / 2.0
    np.testing.assert_allclose(found.train_loss, (first.train_loss[:2] + second.train_loss) / 2.0)
    np.testing.assert_allclose(found.vsn_weight, (first.vsn_weight + second.vsn_weight) / 2.0)
    assert found.seconds == first.seconds + second.seconds
    up = (first.probability_up + second.probability_up) / 2.0
    np.testing.assert_array_equal(found.probability_up, up)
    assert average([first], market, positions) is first


def trained_model(panel: Panel, recipes: Sequence[Recipe], fits: Sequence[FoldFit], gain: float) -> TrainedModel:
    """What a live process gets of one fold's fits, one a seed."""
    first = recipes[0]
    return TrainedModel(
        config=first.model,
        loss_mode=first.training.loss_mode,
        feature_names=panel.feature_names,
        known=(),
        symbols=panel.symbols,
        scaler=fits[0].scaler,
        parameters={name: torch.stack([fit.parameters[name] for fit in fits]) for name in fits[0].parameters},
        correlation=fits[0].correlation,
        gain=gain,
        timing=first.timing,
        positions=first.positions,
        regime=RegimeConfig(),
        seed=first.seed,
        fit_end="2020-01-01",
        data_sha256="",
    )


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_the_averaged_distribution_is_the_one_that_a_live_decision_states(loss_mode: LossMode, seeds: int) -> None:
    """The checkpoint of the same fits, on the same bars: probability_up to the last bit, the parameters in return
    units; where an instrument has no forecast neither has one."""
    panel = small_panel(120)
    panel.features[80:100, 1] = np.nan
    timing, positions = Timing(horizon=2), PositionsConfig()
    market = Market(panel, timing, CPU)
    fold = Fold(3, range(20, 60), range(64, 75), range(80, 100))
    recipes = [replace(small_recipe(epochs=1, seed=5 + n, loss_mode=loss_mode), timing=timing) for n in range(seeds)]
    fits, outcomes = zip(*(next(walk(market, [fold], recipe)) for recipe in recipes), strict=True)
    found = average(outcomes, market, positions)

    live = Predictor(trained_model(panel, recipes, fits, found.gain)).run(panel)
    rows = np.searchsorted(live.times, panel.times[80:100])
    np.testing.assert_array_equal(found.forecast.raw_position, live.raw_position[rows])
    if loss_mode == "sharpe":
        assert found.distribution.shape == (20, 2, 0) and np.isnan(found.probability_up).all()
        return
    assert live.probability_up is not None
    np.testing.assert_array_equal(found.probability_up, live.probability_up[rows])
    assert np.isfinite(found.probability_up[:, 0]).all() and not np.isfinite(found.probability_up[10:, 1]).any()
    if loss_mode == "joint_mle":
        assert live.mu is not None and live.sigma is not None
        stated = np.stack([live.mu, live.sigma], axis=-1)[rows]
    else:
        assert live.quantiles is not None
        stated = live.quantiles[rows]
    unit = market.sigma[80:100, :, None] * np.sqrt(2.0)
    np.testing.assert_allclose(found.distribution * unit, stated, rtol=1e-12)


def test_with_gain_multiplies_what_was_forecast_and_states_the_validation_of_that() -> None:
    """Two seeds averaged: every epoch's returns are those of the multiplied positions, the best the seeds' mean."""
    market, positions = (
        Market(small_panel(120, signal=0.3), Timing(), CPU),
        PositionsConfig(max_position=1.0, vol_target=0.5),
    )
    fold = Fold(3, range(20, 60), range(62, 75), range(77, 90))
    recipes = [small_recipe(epochs=2, seed=seed, objective="portfolio", positions=positions) for seed in (5, 6)]
    outcomes = [next(walk(market, [fold], recipe))[1] for recipe in recipes]
    for own in (outcomes[:1], outcomes):
        plain = average(own, market, positions)
        found = with_gain(plain, market, recipes[0])
        block = fold.validation, market.panel, market.sigma, positions, market.timing
        assert found.gain == gain_for_volatility(plain.validation_position, *block) > 1.0
        np.testing.assert_array_equal(found.forecast.raw_position, found.gain * plain.forecast.raw_position)
        np.testing.assert_array_equal(found.validation_position, found.gain * plain.validation_position)
        np.testing.assert_array_equal(found.distribution, plain.distribution)
        scale = volatility_scale(market.sigma[62:75], positions, market.timing)
        by_seed = []
        for outcome in own:
            returns = []
            for raw in found.gain * outcome.epoch_positions[0]:
                held = naive_path(raw, scale, {3: positions}, [3] * 13)
                change = np.abs(np.diff(held, axis=0, prepend=np.zeros((1, 2))))
                returns.append((held * market.panel.returns[64:77] - 5e-4 * change).mean(axis=1))
            by_seed.append(np.stack(returns))
        np.testing.assert_allclose(found.validation_returns, np.mean(by_seed, axis=0), atol=1e-12)
        best = [max(sharpe(epoch, periods_per_year=252.0) for epoch in returns) for returns in by_seed]
        assert found.val_sharpe_best_epoch == pytest.approx(np.mean(best))
        if len(own) == 1:
            kept = found.validation_returns[found.kept_epoch]
            assert found.val_sharpe == pytest.approx(sharpe(kept, periods_per_year=252.0))
            assert found.val_sharpe_best_epoch >= found.val_sharpe - 1e-9


@pytest.mark.usefixtures("few_steps")
def test_a_live_decision_is_hedged_averaged_and_multiplied_as_the_backtest_is() -> None:
    """To the last bit, with three seeds of objective portfolio, instruments that move together, one of them absent."""
    panel = small_panel(120, 3)
    panel.returns[:] += 0.02 * np.random.default_rng(1).standard_normal((120, 1))
    panel.features[80:90, 1] = np.nan
    timing, positions = Timing(), PositionsConfig()
    market, fold = Market(panel, timing, CPU), Fold(3, range(20, 60), range(64, 75), range(80, 100))
    recipes = [small_recipe(epochs=1, seed=5 + n, objective="portfolio") for n in range(3)]
    fits, outcomes = zip(*(next(walk(market, [fold], recipe)) for recipe in recipes), strict=True)
    found = with_gain(average(outcomes, market, positions), market, recipes[0])
    assert found.gain > 1.0 and fits[0].correlation > 0.3
    live = Predictor(trained_model(panel, recipes, fits, found.gain)).run(panel)
    rows = np.searchsorted(live.times, panel.times[80:100])
    np.testing.assert_array_equal(found.forecast.raw_position, live.raw_position[rows])
