"""A record of k times the size: what changes with it and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.statistics.equal_volatility import at_volatility, realised_volatility, scaled
from tests.pipeline.reporting.test_page import small_record
from tft.positions import PositionsConfig
from tft.record import block_earnings
from tft.volatility import Timing

RECORD = small_record(160, holdout_bars=80)
HOLDOUT = RECORD.segment == "holdout"


def test_the_chosen_bars_have_the_target() -> None:
    net = at_volatility(RECORD, HOLDOUT, 0.15).net()[HOLDOUT]
    assert np.nanstd(net, ddof=1) * np.sqrt(252.0) == pytest.approx(0.15)
    assert realised_volatility(RECORD, HOLDOUT) == pytest.approx(
        np.nanstd(RECORD.net()[HOLDOUT], ddof=1) * np.sqrt(252.0)
    )


def test_returns_turnover_and_volatility_scale_and_sharpes_stay() -> None:
    before, after = RECORD.performance("holdout"), scaled(RECORD, 3.0).performance("holdout")
    assert before is not None and after is not None
    for name in ("annual_return", "annual_volatility", "turnover"):
        assert getattr(after, name) == pytest.approx(3.0 * getattr(before, name))
    for name in ("n_bars", "sharpe", "sharpe_gross", "hit_rate"):
        assert getattr(after, name) == pytest.approx(getattr(before, name))


def test_it_is_the_record_that_positions_of_that_size_would_have_earned() -> None:
    """Positions times 3, and from them returns and costs anew: the scaled record, cell by cell."""
    n_bars = len(RECORD.bars)
    returns = np.concatenate([np.zeros((2, 2)), np.nan_to_num(RECORD.earned.held_return)])[:n_bars]
    earned = [
        block_earnings(factor * RECORD.position, range(n_bars), returns, PositionsConfig(), Timing())
        for factor in (1.0, 3.0)
    ]
    large = scaled(replace(RECORD, earned=earned[0]), 3.0)
    np.testing.assert_allclose(large.position, 3.0 * RECORD.position)
    for name in ("gross", "net", "change", "held_return"):
        np.testing.assert_allclose(getattr(large.earned, name), getattr(earned[1], name), atol=1e-15, err_msg=name)


def test_a_drawdown_is_that_of_the_scaled_returns() -> None:
    """By hand: a gain of 1 % and then a loss of 2 %, doubled, is 2 % and then 4 %."""
    net = np.full((160, 2), 0.0)
    net[90], net[91] = 0.01, -0.02
    record = replace(RECORD, earned=replace(RECORD.earned, net=net))
    (doubled,) = [scaled(record, 2.0).performance("holdout")]
    assert doubled is not None and doubled.max_drawdown == pytest.approx(-0.04)


@pytest.mark.parametrize("net", [0.0, 0.001, np.nan])
def test_a_record_without_volatility_stays_as_it_is(net: float) -> None:
    """Never in the market, a constant return, no known return."""
    still = replace(RECORD, earned=replace(RECORD.earned, net=np.full((160, 2), net)))
    assert realised_volatility(still, HOLDOUT) is None
    assert at_volatility(still, HOLDOUT, 0.15) is still
