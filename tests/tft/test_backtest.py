"""From the folds' raw positions to one record, and from the record to its figures."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from tests.conftest import CPU, small_panel, small_recipe
from tft.backtest import (
    SEGMENTS,
    RawForecast,
    Record,
    block_earnings,
    fold_row,
    segments,
    stitch,
    validation_returns,
    walk,
)
from tft.folds import Fold, walk_forward
from tft.market import Market
from tft.metrics import MIN_BARS, Performance
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.train import fit_folds, forecast_fit, selection_of_fit
from tft.volatility import Timing, ewm_volatility

POSITIONS = PositionsConfig(max_position=0.6, position_smooth=0.4, cost_bps=7.0, max_leverage=1.2)
N_DEVELOPMENT = 110


def the_panel() -> Panel:
    """A late listing, a day without any trade, single days without one."""
    panel = small_panel(170, 3)
    panel.returns[:80, 2] = np.nan
    panel.returns[120] = np.nan
    panel.returns[[101, 140, 169], [0, 1, 0]] = np.nan
    return panel


def overlapping(panel: Panel, *, n_bars: int = 170, step: int = 10, test: int = 25) -> list[RawForecast]:
    """Random raw positions of folds whose test blocks overlap, with holes."""
    rng = np.random.default_rng(3)
    folds = walk_forward(n_bars, train_window=80, validation_window=10, test_window=test, step_size=step, purge_gap=5)
    out = []
    for fold in folds:
        raw = rng.uniform(-1, 1, (len(fold.test), len(panel.symbols)))
        raw[rng.random(raw.shape) < 0.1] = np.nan
        out.append(RawForecast(fold, fold.test, raw))
    return out


def the_record(timing: Timing | None = None, **options: int) -> tuple[Panel, list[RawForecast], Record]:
    panel, timing = the_panel(), timing or Timing()
    forecasts = overlapping(panel, **options)
    sigma = ewm_volatility(panel.returns)
    return panel, forecasts, stitch(forecasts, panel, sigma, POSITIONS, timing, n_development=N_DEVELOPMENT)


# Stitching


def test_a_cell_belongs_to_the_most_recently_fitted_fold_that_forecasts_it() -> None:
    _, forecasts, record = the_record()
    assert record.bars == range(85, 170)
    owners = set()
    for row, bar in enumerate(record.bars):
        for asset in range(3):
            expected, raw = -1, np.nan
            for one in forecasts:
                if bar in one.bars and np.isfinite(one.raw_position[bar - one.bars.start, asset]):
                    expected, raw = one.fold.index, one.raw_position[bar - one.bars.start, asset]
            assert record.fold[row, asset] == expected
            assert np.array_equal(record.raw_position[row, asset], raw, equal_nan=True)
            owners.add(expected)
    assert -1 in owners
    assert len(owners) == len(forecasts) + 1


def test_bars_between_test_blocks_that_do_not_touch_are_no_part_of_the_record() -> None:
    """Positions are carried across them by the path, but nothing is earned, counted or listed there."""
    panel, forecasts, record = the_record(step=20, test=8)
    tested = {bar for forecast in forecasts for bar in forecast.bars}
    untested = [row for row, bar in enumerate(record.bars) if bar not in tested]
    assert untested
    assert np.isnan(record.net()[untested]).all()
    assert np.isnan(record.position[untested]).all()
    listed = set(record.to_columns()["time"].tolist())
    assert listed.isdisjoint(panel.times[[record.bars[row] for row in untested]].tolist())


def test_the_order_in_which_folds_arrive_does_not_matter() -> None:
    panel, forecasts, record = the_record()
    sigma = ewm_volatility(panel.returns)
    other = stitch(forecasts[::-1], panel, sigma, POSITIONS, Timing(), n_development=N_DEVELOPMENT)
    assert np.array_equal(record.fold, other.fold)
    assert np.array_equal(record.position, other.position, equal_nan=True)


@pytest.mark.parametrize("timing", [Timing(), Timing(delay_bars=0), Timing(delay_bars=2, periods_per_year=365.0)])
def test_positions_and_earnings_equal_a_naive_loop(timing: Timing) -> None:
    """One path per instrument across fold borders, starting flat; costs on every change; the last bars earn nothing."""
    panel, _, record = the_record(timing)
    sigma = ewm_volatility(panel.returns)
    lead, to_label = 1 + timing.delay_bars, timing.delay_bars + timing.horizon
    for asset in range(3):
        smoothed, position, held = 0.0, np.nan, 0.0
        for row, bar in enumerate(record.bars):
            raw, vol = record.raw_position[row, asset], sigma[bar, asset]
            if np.isfinite(raw) and np.isfinite(vol) and np.isfinite(panel.returns[bar, asset]):
                smoothed = 0.4 * smoothed + 0.6 * min(max(raw, -0.6), 0.6)
                position = smoothed * min(0.15 / (vol * timing.periods_per_year**0.5), 1.2)
            assert record.position[row, asset] == pytest.approx(position, nan_ok=True, rel=1e-12)
            if not np.isfinite(position) or bar + to_label >= 170:
                assert np.isnan(record.earned.net[row, asset])
                assert np.isnan(record.earned.gross[row, asset])
            else:
                earned = panel.returns[bar + lead, asset]
                gross = position * (earned if np.isfinite(earned) else 0.0)
                assert record.earned.gross[row, asset] == pytest.approx(gross, rel=1e-12)
                net = gross - 7e-4 * abs(position - held)
                assert record.earned.net[row, asset] == pytest.approx(net, rel=1e-12)
            held = position if np.isfinite(position) else 0.0
    assert np.isnan(record.net()[-to_label:]).all()
    assert np.isfinite(record.net()[: -to_label - 1]).all()


def test_the_bars_before_the_end_of_the_panel_earn_what_comes_after_the_block() -> None:
    """A block that ends before the panel does knows all its returns."""
    panel = the_panel()
    position = np.ones((10, 3))
    earned = block_earnings(position, range(90, 100), panel.returns, POSITIONS, Timing())
    assert np.array_equal(earned.held_return, panel.returns[92:102], equal_nan=True)
    assert np.isfinite(earned.net).all()
    at_the_end = block_earnings(position, range(160, 170), panel.returns, POSITIONS, Timing())
    assert np.isfinite(at_the_end.net).sum(axis=1).tolist() == [3] * 8 + [0] * 2


# Segments


@pytest.mark.parametrize(
    ("timing", "expected"),
    [
        (Timing(delay_bars=0, horizon=1), "d d d d d d d d d b h h h h h"),
        (Timing(delay_bars=1, horizon=1), "d d d d d d d d b b h h h h h"),
        (Timing(delay_bars=1, horizon=3), "d d d d d d b b b b h h h h h"),
    ],
)
def test_segments(timing: Timing, expected: str) -> None:
    """Development labels end before bar 20, the holdout decides from bar 20 on; bars 10 .. 24."""
    found = segments(range(10, 25), n_development=20, timing=timing)
    assert [name[0] for name in found] == expected.split()
    assert set(found) == set(SEGMENTS)


# Figures


def by_pandas(table: pd.DataFrame, segment: str, *, periods_per_year: float) -> dict[str, float]:
    """The figures of a segment, from nothing but the long table."""
    held = table.assign(before=table.groupby("symbol")["position"].shift().fillna(0.0))
    rows = held[held["segment"] == segment]
    by_bar = rows.groupby("time")[["pnl", "pnl_gross"]].mean().dropna()
    annual = periods_per_year**0.5
    equity = pd.concat([pd.Series([1.0]), (1.0 + by_bar["pnl"]).cumprod()])
    moved = rows[(rows["position"] != 0) & (rows["return"] != 0) & rows["return"].notna()]
    return {
        "n_bars": len(by_bar),
        "sharpe": by_bar["pnl"].mean() / by_bar["pnl"].std() * annual,
        "sharpe_gross": by_bar["pnl_gross"].mean() / by_bar["pnl_gross"].std() * annual,
        "annual_return": by_bar["pnl"].mean() * periods_per_year,
        "annual_volatility": by_bar["pnl"].std() * annual,
        "max_drawdown": (equity / equity.cummax() - 1.0).min(),
        "turnover": (rows["position"] - rows["before"]).abs().mean() * periods_per_year,
        "hit_rate": (np.sign(moved["position"]) == np.sign(moved["return"])).mean(),
    }


@pytest.mark.parametrize("segment", ["development", "holdout"])
def test_the_figures_can_be_had_from_the_long_table_alone(segment: str) -> None:
    _, _, record = the_record()
    table = pd.DataFrame(dict(record.to_columns()))
    performance = record.performance(segment)
    assert performance is not None
    expected = by_pandas(table, segment, periods_per_year=252.0)
    assert expected.keys() == {field.name for field in fields(Performance)}
    for name, value in expected.items():
        assert getattr(performance, name) == pytest.approx(value, rel=1e-9), name


def test_the_last_bars_are_forecast_and_left_out_of_the_figures() -> None:
    """They hold a position and have no pnl yet."""
    panel, _, record = the_record()
    table = pd.DataFrame(dict(record.to_columns()))
    last = table[table["time"] >= panel.times[168]]
    assert len(last) == 2 * 3
    assert last["pnl"].isna().all()
    assert last["position"].notna().all()
    performance = record.performance("holdout")
    assert performance is not None
    assert performance.n_bars == 170 - N_DEVELOPMENT - 2


def test_a_fold_s_sharpe_is_over_the_cells_it_owns() -> None:
    _, forecasts, record = the_record()
    table = pd.DataFrame(dict(record.to_columns()))
    known = 0
    for one in forecasts:
        by_bar = table[table["fold"] == one.fold.index].groupby("time")["pnl"].mean().dropna()
        found = record.fold_sharpe(one.fold.index)
        if len(by_bar) < MIN_BARS:
            assert found is None
        else:
            known += 1
            assert found == pytest.approx(by_bar.mean() / by_bar.std() * 252.0**0.5, rel=1e-9)
    assert 0 < known < len(forecasts)


def test_a_segment_of_too_few_bars_has_no_figures() -> None:
    _, _, record = the_record()
    assert record.performance("between") is None


def test_the_long_table_has_one_row_per_position_in_order_of_time() -> None:
    _, _, record = the_record()
    table = pd.DataFrame(dict(record.to_columns()))
    assert len(table) == np.isfinite(record.position).sum()
    assert table["time"].is_monotonic_increasing
    assert not table.duplicated(["time", "symbol"]).any()
    carried = table[table["fold"] == -1]
    assert len(carried)
    assert carried["raw_position"].isna().all()


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
    outcomes = [outcome for _, outcome in walk(market, folds, recipe, POSITIONS, test_until=170)]
    assert [one.forecast.bars for one in outcomes] == [*(fold.test for fold in folds[:-1]), range(145, 170)]
    assert len(folds[-1].test) == 15
    for fold, outcome, fit in zip(folds, outcomes, fit_folds(market, folds, recipe), strict=True):
        forecasts, cells = forecast_fit(fit, market, recipe, outcome.forecast.bars)
        grid = outcome.forecast.raw_position.reshape(-1)
        assert np.array_equal(grid[cells - outcome.forecast.bars.start * 3], forecasts.position)
        assert np.isfinite(grid).sum() == len(cells)
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


def test_the_last_fold_that_is_tested_goes_on_whatever_is_fitted_after_it() -> None:
    """To bar 160 of 160; the fold without a test block forecasts nothing."""
    panel, recipe = the_panel(), small_recipe(epochs=1)
    tested = (
        Fold(0, range(20, 60), range(65, 75), range(80, 110)),
        Fold(1, range(50, 90), range(95, 105), range(110, 140)),
    )
    final = Fold(2, range(80, 120), range(125, 135), range(140, 140))
    market = Market(panel, recipe.timing, CPU)
    outcomes = [outcome for _, outcome in walk(market, (*tested, final), recipe, POSITIONS, test_until=160)]
    assert [one.forecast.bars for one in outcomes] == [range(80, 110), range(110, 160), range(140, 140)]
    assert outcomes[2].forecast.raw_position.shape == (0, 3)
