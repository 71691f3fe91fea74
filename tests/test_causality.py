"""Nothing known after bar t enters a decision of bar t, from the raw table to the position.

What lies after t is corrupted: every feature value and every return, never the number of bars, the symbols, or what is
missing. Everything up to t must be the same to the last bit.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.phases.stitching import with_gain
from tests.conftest import CPU, small_panel, small_recipe
from tft import backtest
from tft.backtest import walk
from tft.checkpoint import TrainedModel
from tft.cross_section import hedged
from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.forecast import Forecasts
from tft.head import LossMode
from tft.market import Market
from tft.panel import Panel
from tft.positions import PositionsConfig, RegimeConfig
from tft.predict import Prediction, Predictor
from tft.recipe import OBJECTIVES, Objective
from tft.record import RawForecast, Record, stitch
from tft.train import Recipe, fit_folds, forecast_fit
from tft.volatility import ewm_volatility

pytestmark = pytest.mark.usefixtures("few_steps")

N_BARS = 170
EARLIER = Fold(0, range(20, 70), range(75, 90), range(95, 120))
LATER = Fold(1, range(45, 95), range(100, 115), range(120, N_BARS))
POSITIONS = PositionsConfig(max_position=0.5, position_smooth=0.4)


def corrupted(panel: Panel, after: int) -> Panel:
    """Values of bars after `after` replaced: larger, of another sign, and without relation to what they were."""
    rng = np.random.default_rng(after)
    features, returns = panel.features.copy(), panel.returns.copy()
    for values, size in ((features[after + 1 :], 50.0), (returns[after + 1 :], 0.3)):
        values[...] = np.where(np.isfinite(values), size * rng.standard_normal(values.shape), np.nan)
    return Panel(
        times=panel.times, symbols=panel.symbols, feature_names=panel.feature_names, features=features, returns=returns
    )


def the_panel() -> Panel:
    """With a listing after the start, a day without trade, and single values missing."""
    panel = small_panel(N_BARS, 2, 4, missing=0.1)
    panel.features[:30, 1] = np.nan
    panel.returns[:30, 1] = np.nan
    panel.features[130] = np.nan
    panel.returns[130] = np.nan
    return panel


def walk_forward(
    panel: Panel, folds: tuple[Fold, ...], recipe: Recipe
) -> tuple[list[FoldFit], list[Forecasts], Record]:
    """The whole way: scaler, fit, forecast, stitched positions."""
    market = Market(panel, recipe.timing, CPU)
    fits = list(fit_folds(market, folds, recipe, stack_size=1))
    forecasts, raws = [], []
    for fit in fits:
        bars = fit.fold.test
        forecast, cells = forecast_fit(fit, market, recipe, bars)
        grid = np.full((len(bars), 2), np.nan)
        grid.reshape(-1)[cells - bars.start * 2] = forecast.position
        grid = hedged(grid, np.isfinite(grid), fit.correlation)
        forecasts.append(forecast)
        raws.append(RawForecast(fit.fold, bars, grid))
    return fits, forecasts, stitch(raws, panel, market.sigma, POSITIONS, recipe.timing, n_development=140)


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("loss_mode", "n_context"), [("joint_mle", 2), ("joint_quantile", 0), ("sharpe", 2)])
def test_the_backtest_up_to_t_does_not_see_what_comes_after_t(
    loss_mode: LossMode, n_context: int, objective: Objective
) -> None:
    """Folds whose validation labels are known by t are refitted on the corrupted panel, t included."""
    recipe = small_recipe(epochs=1, loss_mode=loss_mode, n_context=n_context, objective=objective)
    panel, folds = the_panel(), (EARLIER, LATER)
    fits, forecasts, record = walk_forward(panel, folds, recipe)
    last_label = LATER.validation.stop - 1 + recipe.timing.label_bars
    for t in (last_label, 125, 133, N_BARS - 2):
        other_fits, other_forecasts, other = walk_forward(corrupted(panel, t), folds, recipe)
        for a, b in zip(fits, other_fits, strict=True):
            assert all(torch.equal(a.parameters[name], b.parameters[name]) for name in a.parameters)
            assert equal(a.scaler.mean, b.scaler.mean)
            assert equal(a.validation_position, b.validation_position)
        rows = t - record.bars[0] + 1
        for name in ("raw_position", "position"):
            assert equal(getattr(record, name)[:rows], getattr(other, name)[:rows])
        # and what was earned by then
        known = rows - 1 - recipe.timing.delay_bars
        assert equal(record.earned.net[:known], other.earned.net[:known])
        for fold, a, b in zip(folds, forecasts, other_forecasts, strict=True):
            cells = Market(panel, recipe.timing, CPU).space(fits[fold.index].scaler, recipe.model).targets(fold.test)
            before = cells // 2 <= t
            for name in ("position", "distribution"):
                assert equal(getattr(a, name)[before], getattr(b, name)[before])
            if not before.all():
                assert not equal(a.position[~before], b.position[~before])


def test_the_gain_does_not_see_what_comes_after_the_last_validation_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And does see that label: it is chosen by what the validation block earned. An untrained network needs a large
    one; volatility turns out twice what it was."""
    monkeypatch.setattr(backtest, "MAX_GAIN", 1000.0)
    positions = PositionsConfig(max_position=1.0, position_smooth=0.0)
    recipe, panel = small_recipe(epochs=1, objective="portfolio", positions=positions), the_panel()
    last_label = LATER.validation.stop - 1 + recipe.timing.label_bars

    def gain(panel: Panel) -> float:
        market = Market(panel, recipe.timing, CPU, sigma=0.5 * ewm_volatility(panel.returns))
        ((_, outcome),) = walk(market, [LATER], recipe)
        return with_gain(outcome, market, recipe).gain

    found = gain(panel)
    assert 1.0 < found < 999.0
    assert gain(corrupted(panel, last_label)) == found
    assert gain(corrupted(panel, last_label - 1)) != found


@pytest.mark.parametrize("t", [121, 133, 150])
def test_the_test_can_fail_what_happens_at_t_does_change_the_decision_of_t(t: int) -> None:
    recipe = small_recipe(epochs=2)
    panel = the_panel()
    _, _, record = walk_forward(panel, (EARLIER, LATER), recipe)
    _, _, other = walk_forward(corrupted(panel, t - 1), (EARLIER, LATER), recipe)
    row = t - record.bars[0]
    assert equal(record.position[:row], other.position[:row])
    assert (record.raw_position[row] != other.raw_position[row]).all()
    assert (record.position[row] != other.position[row]).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_fold_whose_labels_are_not_known_yet_is_changed_by_what_comes(objective: Objective) -> None:
    """The reverse for the fit: the last validation label is one bar within reach."""
    recipe = small_recipe(epochs=2, objective=objective)
    panel = the_panel()
    last_label = LATER.validation.stop - 1 + recipe.timing.label_bars
    market, other = (Market(p, recipe.timing, CPU) for p in (panel, corrupted(panel, last_label - 1)))
    (a,), (b,) = (list(fit_folds(m, (LATER,), recipe)) for m in (market, other))
    assert not equal(a.validation_score, b.validation_score)
    in_training = LATER.train.stop - 1 + recipe.timing.label_bars
    (c,) = fit_folds(Market(corrupted(panel, in_training - 1), recipe.timing, CPU), (LATER,), recipe)
    assert not equal(a.train_loss, c.train_loss)


@pytest.mark.parametrize("loss_mode", ["joint_mle", "joint_quantile"])
def test_live_decisions_up_to_t_do_not_see_what_comes_after_t(loss_mode: LossMode) -> None:
    """A model fitted on an earlier fold, run on a table that goes on after t."""
    recipe, panel = small_recipe(epochs=2, loss_mode=loss_mode, objective="portfolio"), the_panel()
    (fit,) = fit_folds(Market(panel, recipe.timing, CPU), (EARLIER,), recipe)
    predictor = Predictor(
        TrainedModel(
            config=recipe.model,
            loss_mode=loss_mode,
            feature_names=panel.feature_names,
            known=(),
            symbols=panel.symbols,
            scaler=fit.scaler,
            parameters={name: value[None] for name, value in fit.parameters.items()},
            correlation=fit.correlation,
            gain=1.5,
            timing=recipe.timing,
            positions=POSITIONS,
            regime=RegimeConfig(),
            seed=recipe.seed,
            fit_end=str(panel.times[91]),
            data_sha256="",
        )
    )

    def fields(result: Prediction, rows: slice) -> list[np.ndarray]:
        names = ("raw_position", "position", "probability_up", "mu", "sigma", "quantiles", "regime")
        return [getattr(result, name)[rows] for name in names if getattr(result, name) is not None]

    distribution = "mu" if loss_mode == "joint_mle" else "quantiles"
    whole = predictor.run(panel)
    first = recipe.model.seq_len - 1
    for t in (40, 91, 129, 131, N_BARS - 2):
        other = predictor.run(corrupted(panel, t))
        upto, then = slice(t - first + 1), slice(t - first + 1, t - first + 3)
        assert all(equal(a, b) for a, b in zip(fields(whole, upto), fields(other, upto), strict=True))
        assert not equal(getattr(whole, distribution)[then], getattr(other, distribution)[then])
