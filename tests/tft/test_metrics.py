"""Each figure against plain Python on lists."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from numpy.typing import NDArray

from tft.metrics import (
    MIN_BARS,
    annual_return,
    annual_volatility,
    drawdown,
    hit_rate,
    max_drawdown,
    performance,
    sharpe,
    turnover,
)

NAN = float("nan")


def sample(n_bars: int = 80, seed: int = 0) -> NDArray[np.float64]:
    draws = np.random.default_rng(seed)
    returns = draws.normal(0.001, 0.01, n_bars)
    returns[draws.random(n_bars) < 0.1] = NAN
    return returns


def known(values: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in values.reshape(-1) if not math.isnan(value)]


def test_sharpe_is_mean_over_deviation_of_the_known_bars_annualised() -> None:
    """With the sample deviation (ddof 1)."""
    returns = sample()
    expected = statistics.mean(known(returns)) / statistics.stdev(known(returns)) * math.sqrt(365.0)
    assert sharpe(returns, periods_per_year=365.0) == pytest.approx(expected, rel=1e-12)


def test_sharpe_worked_by_hand() -> None:
    """1 % and 3 %: mean 2 %, sample deviation sqrt(2) %; 4 periods a year double the ratio."""
    assert sharpe(np.array([0.01, 0.03]), periods_per_year=4.0) == pytest.approx(2.0 * math.sqrt(2.0))


@pytest.mark.parametrize("returns", [[], [0.01], [NAN, 0.01, NAN]])
def test_sharpe_needs_two_bars(returns: list[float]) -> None:
    assert math.isnan(sharpe(np.array(returns), periods_per_year=252.0))


def test_a_flat_strategy_has_sharpe_zero_and_a_constant_gain_none() -> None:
    """A constant return has nothing to divide by, whatever rounding leaves of its deviation."""
    assert sharpe(np.zeros(30), periods_per_year=252.0) == 0.0
    for value in (0.01, -0.003, 0.1):
        assert math.isnan(sharpe(np.full(30, value), periods_per_year=252.0))


def test_drawdown_worked_by_hand() -> None:
    """The curve 1.1, 0.55, 1.1, 1.21, 0.605; the capital at the start counts as a high."""
    np.testing.assert_allclose(drawdown(np.array([0.1, -0.5, 1.0, 0.1, -0.5])), [0.0, -0.5, 0.0, 0.0, -0.5], atol=1e-15)
    np.testing.assert_allclose(drawdown(np.array([-0.1, NAN, 0.05])), [-0.1, -0.1, 0.9 * 1.05 - 1.0])


def test_drawdown_equals_a_loop() -> None:
    returns = sample()
    equity, high = 1.0, 1.0
    for found, value in zip(drawdown(returns), returns, strict=True):
        equity *= 1.0 if math.isnan(value) else 1.0 + value
        high = max(high, equity)
        assert found == pytest.approx(equity / high - 1.0, abs=1e-14)
    assert max_drawdown(returns) == min(drawdown(returns))
    assert max_drawdown(np.array([])) == 0.0


def test_return_volatility_and_turnover_are_per_year_over_what_is_known() -> None:
    returns = sample()
    assert annual_return(returns, periods_per_year=252.0) == pytest.approx(252.0 * statistics.mean(known(returns)))
    expected = statistics.stdev(known(returns)) * math.sqrt(252.0)
    assert annual_volatility(returns, periods_per_year=252.0) == pytest.approx(expected)
    change = np.array([[NAN, 0.2], [0.1, 0.0]])
    assert turnover(change, periods_per_year=10.0) == pytest.approx(1.0)


def test_the_hit_rate_counts_cells_with_a_position_and_a_move() -> None:
    """Three of them here: right, wrong, right. Flat, still and unknown cells do not count."""
    position = np.array([[0.1, -0.2], [-0.3, 0.0], [0.2, NAN], [0.1, 0.1]])
    moved = np.array([[0.01, 0.02], [-0.01, 0.03], [0.0, 0.01], [NAN, 0.0]])
    assert hit_rate(position, moved) == pytest.approx(2.0 / 3.0)
    assert math.isnan(hit_rate(np.zeros((3, 2)), np.ones((3, 2))))


def test_performance_gathers_the_figures() -> None:
    draws = np.random.default_rng(3)
    net, gross = sample(seed=1), sample(seed=2)
    position, moved, change = (draws.normal(size=(80, 2)) for _ in range(3))
    found = performance(net, gross, position, moved, np.abs(change), periods_per_year=252.0)
    assert found is not None
    assert found.n_bars == len(known(net)) < 80
    assert found.sharpe == sharpe(net, periods_per_year=252.0)
    assert found.sharpe_gross == sharpe(gross, periods_per_year=252.0)
    assert found.annual_return == annual_return(net, periods_per_year=252.0)
    assert found.annual_volatility == annual_volatility(net, periods_per_year=252.0)
    assert found.max_drawdown == max_drawdown(net)
    assert found.turnover == turnover(np.abs(change), periods_per_year=252.0)
    assert found.hit_rate == hit_rate(position, moved)


def test_nothing_is_said_of_fewer_than_ten_known_bars() -> None:
    assert MIN_BARS == 10
    cells = np.ones((12, 1))
    for n_known, said in ((9, False), (10, True)):
        net = np.where(np.arange(12) < n_known, np.linspace(-0.01, 0.02, 12), NAN)
        assert (performance(net, net, cells, cells, cells, periods_per_year=252.0) is not None) == said
