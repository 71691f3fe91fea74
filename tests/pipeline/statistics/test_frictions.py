"""What costs and delays leave of a record, against loops over bars and instruments, and a table worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.statistics.equal_volatility import scaled
from pipeline.statistics.frictions import break_even_cost_bps, cost_per_risk, sharpe_by_cost, sharpe_by_delay
from tests.pipeline.statistics.test_baselines import N_DEVELOPMENT, POSITIONS, market, model_record, stitching
from tft.folds import Fold
from tft.metrics import sharpe
from tft.positions import PositionsConfig, volatility_scale
from tft.record import RawForecast, Record, stitch
from tft.volatility import Timing

PANEL = market()
RECORD = model_record(PANEL)
HOLDOUT = RECORD.segment == "holdout"


def net_by_hand(record: Record, cost_bps: float, delay: int, last: int) -> list[float]:
    """Mean over instruments of position x return - cost x |change|, bar by bar of the holdout up to bar `last`."""
    out = []
    for row, bar in enumerate(record.bars):
        if bar < N_DEVELOPMENT or bar > last:
            continue
        cells = []
        for asset in range(2):
            held, before = record.position[row, asset], record.position[row - 1, asset]
            earned = PANEL.returns[bar + 1 + delay, asset]
            earned = 0.0 if np.isnan(earned) else earned
            cells.append(held * earned - cost_bps * 1e-4 * abs(held - before))
        out.append(sum(cells) / 2)
    return out


def test_sharpe_by_cost_is_that_of_a_loop() -> None:
    last = len(PANEL.times) - 1 - Timing().label_bars
    for cost, found in zip((0.0, 3.0, 20.0), sharpe_by_cost(RECORD, HOLDOUT, (0.0, 3.0, 20.0)), strict=True):
        expected = sharpe(np.array(net_by_hand(RECORD, cost, 1, last)), periods_per_year=252.0)
        assert found == pytest.approx(expected, rel=1e-9)


def test_sharpe_by_delay_is_that_of_a_loop_on_common_bars() -> None:
    """Bars up to the last whose return is known at the longest delay of 4."""
    last = len(PANEL.times) - 1 - 5
    for delay, found in zip((0, 1, 4), sharpe_by_delay(RECORD, HOLDOUT, PANEL.returns, (0, 1, 4)), strict=True):
        expected = sharpe(np.array(net_by_hand(RECORD, 5.0, delay, last)), periods_per_year=252.0)
        assert found == pytest.approx(expected, rel=1e-9)


def test_at_the_configured_cost_and_delay_stands_the_records_own_sharpe() -> None:
    performance = RECORD.performance("holdout")
    assert performance is not None
    assert sharpe_by_cost(RECORD, HOLDOUT, (POSITIONS.cost_bps,))[0] == pytest.approx(performance.sharpe)
    assert sharpe_by_cost(RECORD, HOLDOUT, (0.0,))[0] == pytest.approx(performance.sharpe_gross)
    assert sharpe_by_delay(RECORD, HOLDOUT, PANEL.returns, (1,))[0] == pytest.approx(performance.sharpe)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_stitched_anew_at_the_break_even_cost_nothing_is_left(seed: int) -> None:
    record = model_record(PANEL, seed)
    cost = break_even_cost_bps(record, HOLDOUT)
    assert cost is not None
    assert sharpe_by_cost(record, HOLDOUT, (cost,))[0] == pytest.approx(0.0, abs=1e-9)
    if cost >= 0.0:  # a configuration has no negative cost
        bars = range(int(record.bars[0]), int(record.bars[-1]) + 1)
        forecast = RawForecast(Fold(0, range(0), range(0), bars), bars, record.raw_position)
        anew = stitching(PANEL, replace(POSITIONS, cost_bps=cost))([forecast])
        assert anew.net()[HOLDOUT & np.isfinite(anew.net())].mean() == pytest.approx(0.0, abs=1e-12)


def test_figures_of_a_table_worked_by_hand() -> None:
    """One instrument long and short in turn: positions 1, -1, 1, ... times the volatility scaling, returns of +1 % and
    -1 % that always agree. A change is twice a position, so that of a return of 1 % a position 50 bps of each unit
    traded are left: that is the break-even cost."""
    n_bars = 41
    sign = np.where(np.arange(n_bars) % 2 == 0, 1.0, -1.0)
    panel = replace(market(n_assets=1).first_bars(n_bars), returns=0.01 * sign[:, None])
    config = PositionsConfig(max_position=1.0, position_smooth=0.0, cost_bps=10.0)
    timing = Timing(252.0, 1, 1)  # held two bars later, when the sign is the same again
    sigma = np.full((n_bars, 1), 0.01)
    bars = range(n_bars)
    forecast = RawForecast(Fold(0, range(0), range(0), bars), bars, sign[:, None])
    record = stitch([forecast], panel, sigma, config, timing, n_development=0)
    size = float(volatility_scale(sigma, config, timing)[0, 0])
    rows = np.arange(n_bars) >= 1  # the first change is from flat
    assert break_even_cost_bps(record, rows) == pytest.approx(50.0)
    np.testing.assert_allclose(record.net()[1:-2], size * (0.01 - 2.0 * 10e-4))
    # Held one bar earlier or later it is always wrong; after three as after one.
    by_delay = sharpe_by_delay(record, rows, panel.returns + 1e-5 * np.arange(n_bars)[:, None], (0, 1, 2, 3))
    assert [value is not None and value > 0.0 for value in by_delay] == [False, True, False, True]


def test_cost_per_risk_is_annual_cost_over_annual_volatility_whatever_the_size() -> None:
    net, gross = (series[HOLDOUT & np.isfinite(RECORD.net())] for series in (RECORD.net(), RECORD.gross()))
    expected = (gross - net).mean() * 252.0 / (net.std(ddof=1) * np.sqrt(252.0))
    assert cost_per_risk(RECORD, HOLDOUT) == pytest.approx(expected)
    assert cost_per_risk(scaled(RECORD, 7.0), HOLDOUT) == pytest.approx(expected)
    assert break_even_cost_bps(scaled(RECORD, 7.0), HOLDOUT) == pytest.approx(break_even_cost_bps(RECORD, HOLDOUT))


def test_what_is_undefined_is_none() -> None:
    """Fewer than ten bars; a record that never trades."""
    few = HOLDOUT & (RECORD.bars < N_DEVELOPMENT + 9)
    flat = stitching(PANEL)(
        [RawForecast(Fold(0, range(0), range(0), range(220, 420)), range(220, 420), np.zeros((200, 2)))]
    )
    for record, rows in ((RECORD, few), (flat, flat.segment == "holdout")):
        assert break_even_cost_bps(record, rows) is None
        assert cost_per_risk(record, rows) is None
    assert sharpe_by_cost(RECORD, few, (5.0,)) == (None,)
    assert sharpe_by_delay(RECORD, few, PANEL.returns, (1,)) == (None,)
    assert sharpe_by_cost(flat, flat.segment == "holdout", (5.0,)) == (0.0,)
