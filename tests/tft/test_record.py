"""From the folds' raw positions to one record, and from the record to its figures, its columns and its parts."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests.conftest import small_panel
from tft.folds import walk_forward
from tft.metrics import MIN_BARS, Performance
from tft.panel import Panel
from tft.positions import Earnings, PositionsConfig
from tft.record import RawForecast, Record, block_earnings, segments, stitch
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
    np.testing.assert_array_equal(record.bars, np.arange(85, 170))
    owners = set()
    for row, bar in enumerate(record.bars.tolist()):
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
    untested = [row for row, bar in enumerate(record.bars.tolist()) if bar not in tested]
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
        for row, bar in enumerate(record.bars.tolist()):
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
    assert set(found) == {"development", "between", "holdout"}


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


# Columns and rows


def assert_equal(found: Record, expected: Record, *, but: tuple[str, ...] = ()) -> None:
    for field in fields(Record):
        if field.name == "earned":
            for of_earned in fields(Earnings):
                if of_earned.name not in but:
                    np.testing.assert_array_equal(
                        getattr(found.earned, of_earned.name), getattr(expected.earned, of_earned.name), of_earned.name
                    )
        elif field.name not in but:
            np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), field.name)


def listed(record: Record) -> Record:
    """The record without forecasts of cells that hold no position: those are not in the long table."""
    held = np.isfinite(record.position)
    return replace(
        record,
        fold=np.where(held, record.fold, -1),
        raw_position=np.where(held, record.raw_position, np.nan),
        earned=replace(record.earned, held_return=np.where(held, record.earned.held_return, np.nan)),
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_record_is_read_back_from_its_columns(shuffled: bool) -> None:
    """In every number of the cells that hold a position, whatever the order of the rows; bars are counted anew, as the
    table does not know the panel."""
    _, _, record = the_record()
    columns = record.to_columns()
    if shuffled:
        order = np.random.default_rng(1).permutation(len(columns["time"]))
        columns = {name: values[order] for name, values in columns.items()}
    found = Record.from_columns(columns, record.timing)
    assert_equal(found, listed(record), but=("bars",))
    assert found.bars.tolist() == list(range(85))
    table = pd.DataFrame(dict(found.to_columns()))
    pd.testing.assert_frame_equal(table, pd.DataFrame(dict(record.to_columns())))


def test_where_test_blocks_do_not_touch_a_table_begins_again_from_flat() -> None:
    """Bars that no fold tests are not in the table, nor is the position that was carried across them."""
    _, _, record = the_record(step=20, test=8)
    held = listed(record.rows(np.isfinite(record.position).any(axis=1)))
    found = Record.from_columns(record.to_columns(), record.timing)
    assert_equal(found, held, but=("bars", "change"))
    before = np.vstack([np.zeros(3), np.nan_to_num(held.position[:-1])])
    expected = np.where(np.isfinite(held.position), np.abs(np.nan_to_num(held.position) - before), np.nan)
    np.testing.assert_array_equal(found.earned.change, expected)


@pytest.mark.parametrize(
    "rows", [slice(40, 70), np.arange(40, 70), np.isin(np.arange(85), range(40, 70)), np.array([3, 50, 51, 84])]
)
def test_rows_of_a_record_are_its_part_over_these_bars(rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> None:
    """Bars, times, positions and what was earned stay together, changes of position included."""
    _, _, record = the_record()
    part = record.rows(rows)
    for row, bar in enumerate(part.bars.tolist()):
        of_record = bar - 85
        assert (part.times[row], part.segment[row]) == (record.times[of_record], record.segment[of_record])
        for asset in range(3):
            for name in ("fold", "raw_position", "position"):
                found, expected = getattr(part, name)[row, asset], getattr(record, name)[of_record, asset]
                assert np.array_equal(found, expected, equal_nan=True)
            for of_earned in fields(Earnings):
                found, expected = (getattr(one.earned, of_earned.name) for one in (part, record))
                assert np.array_equal(found[row, asset], expected[of_record, asset], equal_nan=True)
    assert len(part.times) == len(part.position) == len(np.arange(85)[rows])
    assert (part.symbols, part.timing) == (record.symbols, record.timing)


def test_figures_of_marked_bars_are_those_of_the_record_of_these_bars() -> None:
    _, _, record = the_record()
    marked = np.arange(85) % 3 > 0
    part = record.rows(marked)
    assert record.performance_of(marked) == part.performance_of(np.ones(len(part.times), dtype=bool))
    assert record.performance_of(np.arange(85) < MIN_BARS - 1) is None
