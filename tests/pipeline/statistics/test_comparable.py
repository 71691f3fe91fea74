"""Records in a form in which they can be compared."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics.comparable import MODEL, comparable, curves, metrics
from pipeline.statistics.equal_volatility import at_volatility, scaled
from pipeline.statistics.frictions import (
    COSTS_BPS,
    DELAYS_BARS,
    break_even_cost_bps,
    cost_per_risk,
    sharpe_by_cost,
    sharpe_by_delay,
)
from tests.pipeline.statistics.test_baselines import market, model_record

PANEL = market()
RECORD = model_record(PANEL)
ROWS = comparable(
    {MODEL: RECORD, "a half": scaled(RECORD, 0.5)}, "holdout", volatility_target=0.1, returns=PANEL.returns
)


def test_a_row_holds_the_scaled_figures_beside_the_realised_volatility() -> None:
    holdout = RECORD.segment == "holdout"
    model, _ = ROWS
    before, after = (one.performance("holdout") for one in (RECORD, at_volatility(RECORD, holdout, 0.1)))
    assert before is not None and after is not None
    assert model.volatility == pytest.approx(before.annual_volatility)
    assert (model.return_at_target, model.max_drawdown_at_target, model.turnover_at_target) == (
        after.annual_return,
        after.max_drawdown,
        after.turnover,
    )
    assert model.n_bars == before.n_bars == 108
    assert model.sharpe == pytest.approx(before.sharpe) and model.sharpe_gross == pytest.approx(before.sharpe_gross)
    assert model.cost_per_risk == cost_per_risk(RECORD, holdout)
    assert model.break_even_cost_bps == break_even_cost_bps(RECORD, holdout)
    assert model.sharpe_by_cost == sharpe_by_cost(RECORD, holdout)
    assert model.sharpe_by_delay == sharpe_by_delay(RECORD, holdout, PANEL.returns)


def test_size_changes_the_realised_volatility_alone() -> None:
    model, half = (vars(row) for row in ROWS)
    for name, value in model.items():
        if name == "volatility":
            assert half[name] == pytest.approx(value / 2.0)
        elif name != "name":
            assert half[name] == pytest.approx(value), name


def test_a_record_without_a_position_has_a_row_without_figures() -> None:
    (row,) = comparable({"x": RECORD}, "between", volatility_target=0.1, returns=PANEL.returns)
    assert row.n_bars == 2
    known = {name for name, value in vars(row).items() if value is not None and set(np.atleast_1d(value)) != {None}}
    assert known == {"name", "segment", "n_bars", "volatility_target"}


def test_metrics_are_named_after_segment_or_baseline() -> None:
    named = metrics(ROWS)
    assert set(named) == {
        *(
            f"{prefix}_{name}"
            for prefix in ("holdout", "baseline_a_half")
            for name in (
                "return_at_target",
                "max_drawdown_at_target",
                "turnover_at_target",
                "cost_per_risk",
                "break_even_cost_bps",
            )
        ),
        "baseline_a_half_annual_volatility",  # the model's is among the figures of its segment
    }
    assert named["holdout_break_even_cost_bps"] == ROWS[0].break_even_cost_bps


def test_curves_have_a_row_for_each_record_and_cost_or_delay() -> None:
    columns = curves(ROWS)
    rows = list(zip(*columns.values(), strict=True))
    assert len(rows) == 2 * (len(COSTS_BPS) + len(DELAYS_BARS))
    assert (MODEL, "holdout", "cost_bps", 20.0, ROWS[0].sharpe_by_cost[-1]) in rows
    assert ("a half", "holdout", "delay_bars", 3.0, ROWS[1].sharpe_by_delay[3]) in rows
