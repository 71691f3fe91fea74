"""Positions, their earnings and regimes: tables worked by hand, and loops over bars and instruments."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tft.positions import (
    PositionsConfig,
    RegimeConfig,
    earnings,
    next_regime,
    portfolio_return,
    position_path,
    volatility_scale,
)
from tft.volatility import Timing

NAN = float("nan")
# sqrt(225) = 15: a sigma of 0.01 a bar is exactly the target of 0.15 a year.
BY_HAND = PositionsConfig(max_position=0.3, position_smooth=0.5, vol_target=0.15, max_leverage=4.0, cost_bps=10.0)
BY_HAND_TIMING = Timing(periods_per_year=225.0, delay_bars=1)


def sample(
    n_bars: int = 60, n_assets: int = 3, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Raw positions, sigma and returns, each with gaps."""
    draws = np.random.default_rng(seed)
    raw = draws.uniform(-1.0, 1.0, (n_bars, n_assets))
    sigma = draws.uniform(0.001, 0.03, (n_bars, n_assets))
    returns = draws.normal(0.0, 0.01, (n_bars, n_assets))
    for values in (raw, sigma, returns):
        values[draws.random(values.shape) < 0.15] = NAN
    raw[:7, 1] = NAN  # one instrument starts late
    return raw, sigma, returns


def test_a_path_worked_by_hand() -> None:
    """Cap at 0.3, halve the way from the last one, scale by target over volatility, at most 4; keep without forecast.

    bar        0     1      2          3           4         5
    capped     0.3   0.2    none       -0.3        -0.3      none (no sigma)
    smoothed   0.15  0.175  0.175      -0.0625     -0.18125  -0.18125
    scale      1     1      (ignored)  2           4 (cap)   none
    position   0.15  0.175  0.175      -0.125      -0.725    -0.725
    """
    raw = np.array([1.0, 0.2, NAN, -1.0, -0.3, 0.9])[:, None]
    sigma = np.array([0.01, 0.01, 0.005, 0.005, 0.001, NAN])[:, None]
    path = position_path(raw, sigma, BY_HAND, BY_HAND_TIMING)
    np.testing.assert_allclose(path.position[:, 0], [0.15, 0.175, 0.175, -0.125, -0.725, -0.725], rtol=1e-12)
    np.testing.assert_allclose(path.smoothed, [-0.18125], rtol=1e-12)
    np.testing.assert_allclose(path.last_position, [-0.725], rtol=1e-12)


def test_earnings_worked_by_hand() -> None:
    """With a delay of 1 the decision of bar t earns the return of bar t + 2; 10 basis points on every change."""
    position = np.array([NAN, 0.15, 0.175, 0.175, -0.125, -0.125])[:, None]
    returns = np.array([9.0, 9.0, 9.0, 0.02, NAN, -0.04])[:, None]
    earned = earnings(position, returns, BY_HAND, BY_HAND_TIMING)
    np.testing.assert_allclose(earned.held_return[:, 0], [9.0, 0.02, NAN, -0.04, NAN, NAN])
    np.testing.assert_allclose(earned.change[:, 0], [NAN, 0.15, 0.025, 0.0, 0.3, 0.0], atol=1e-15)
    np.testing.assert_allclose(earned.gross[:, 0], [NAN, 0.003, 0.0, -0.007, NAN, NAN], atol=1e-15)
    np.testing.assert_allclose(earned.net[:, 0], [NAN, 0.003 - 0.00015, -0.000025, -0.007, NAN, NAN], atol=1e-15)


def test_the_path_equals_a_loop_over_bars_and_instruments() -> None:
    raw, sigma, _ = sample()
    config, timing = PositionsConfig(max_position=0.4, position_smooth=0.7), Timing(periods_per_year=252.0)
    path = position_path(raw, sigma, config, timing)
    for asset in range(raw.shape[1]):
        smoothed, held = 0.0, NAN
        for t in range(len(raw)):
            if not math.isnan(raw[t, asset]) and not math.isnan(sigma[t, asset]):
                capped = max(-0.4, min(0.4, raw[t, asset]))
                smoothed = 0.7 * smoothed + 0.3 * capped
                held = smoothed * min(0.15 / (sigma[t, asset] * math.sqrt(252.0)), 4.0)
            assert path.position[t, asset] == pytest.approx(held, rel=1e-12, nan_ok=True)


@given(cuts=st.lists(st.integers(1, 59), max_size=4, unique=True))
@settings(max_examples=25, deadline=None)
def test_a_path_carried_across_blocks_equals_one_pass(cuts: list[int]) -> None:
    """To the last bit, wherever the borders of the blocks lie."""
    raw, sigma, _ = sample()
    config, timing = PositionsConfig(), Timing()
    whole = position_path(raw, sigma, config, timing)
    parts, before = [], None
    borders = [0, *sorted(cuts), len(raw)]
    for start, stop in pairwise(borders):
        before = position_path(raw[start:stop], sigma[start:stop], config, timing, before=before)
        parts.append(before.position)
    assert before is not None
    np.testing.assert_array_equal(np.concatenate(parts), whole.position)
    np.testing.assert_array_equal(before.smoothed, whole.smoothed)
    np.testing.assert_array_equal(before.last_position, whole.last_position)


def test_a_path_leaves_its_inputs_and_the_carried_state_alone() -> None:
    raw, sigma, _ = sample()
    first = position_path(raw[:30], sigma[:30], PositionsConfig(), Timing())
    kept = raw.copy(), first.smoothed.copy(), first.last_position.copy()
    position_path(raw[30:], sigma[30:], PositionsConfig(), Timing(), before=first)
    for value, was in zip((raw, first.smoothed, first.last_position), kept, strict=True):
        np.testing.assert_array_equal(value, was)


def test_without_smoothing_the_position_is_the_capped_forecast_scaled() -> None:
    raw, sigma, _ = sample()
    config = PositionsConfig(max_position=0.5, position_smooth=0.0)
    expected = np.clip(raw, -0.5, 0.5) * volatility_scale(sigma, config, Timing())
    known = np.isfinite(expected)
    np.testing.assert_allclose(position_path(raw, sigma, config, Timing()).position[known], expected[known])


def test_earnings_equal_a_loop_over_bars_and_instruments() -> None:
    """Not traded while held: earns 0, still pays. The last bars have no return yet and no pnl."""
    raw, sigma, returns = sample()
    config, timing = PositionsConfig(cost_bps=7.0), Timing(delay_bars=2)
    position = position_path(raw, sigma, config, timing).position
    earned = earnings(position, returns, config, timing)
    n_not_traded = 0
    for asset in range(3):
        last = 0.0
        for t in range(60):
            if math.isnan(position[t, asset]):
                assert all(math.isnan(v[t, asset]) for v in (earned.gross, earned.net, earned.change))
                continue
            change = abs(position[t, asset] - last)
            last = position[t, asset]
            assert earned.change[t, asset] == pytest.approx(change, abs=1e-15)
            if t + 3 >= 60:
                assert math.isnan(earned.gross[t, asset])
                assert math.isnan(earned.net[t, asset])
                continue
            move = returns[t + 3, asset]
            n_not_traded += math.isnan(move)
            gross = 0.0 if math.isnan(move) else position[t, asset] * move
            assert earned.gross[t, asset] == pytest.approx(gross, abs=1e-15)
            assert earned.net[t, asset] == pytest.approx(gross - 7e-4 * change, abs=1e-15)
    assert n_not_traded > 5


def test_the_total_cost_is_the_rate_times_the_way_travelled() -> None:
    """A round trip from flat to 0.2, to -0.2 and back travels 0.8."""
    position = np.array([0.2, -0.2, 0.0, 0.0])[:, None]
    earned = earnings(position, np.zeros((4, 1)), PositionsConfig(cost_bps=100.0), Timing(delay_bars=0))
    assert np.nansum(earned.gross - earned.net) == pytest.approx(0.01 * 0.8)


def test_the_portfolio_return_is_the_mean_over_instruments_with_a_known_pnl() -> None:
    pnl = np.array([[0.01, 0.03], [NAN, 0.02], [NAN, NAN], [0.0, -0.02]])
    np.testing.assert_allclose(portfolio_return(pnl), [0.02, 0.02, NAN, -0.01])


def test_regimes_worked_by_hand() -> None:
    """Entered at 0.55, left below 0.52; a missing forecast keeps the regime; the other side is its mirror image."""
    table = [
        # probability of a rise, regime after it
        (0.54, 0),
        (0.55, 1),
        (0.53, 1),
        (0.52, 1),
        (NAN, 1),
        (0.519, 0),
        (0.53, 0),
        (0.60, 1),
        (0.40, -1),
        (0.47, -1),
        (0.48, -1),
        (NAN, -1),
        (0.485, 0),
        (0.47, 0),
        (0.45, -1),
        (0.50, 0),
        (NAN, 0),
    ]
    regime = np.zeros(1, dtype=np.int64)
    for probability, after in table:
        regime = next_regime(regime, np.array([0.0]), np.array([probability]), RegimeConfig())
        assert regime.tolist() == [after], f"after a probability of {probability}"


def test_the_regime_of_an_instrument_ignores_the_others() -> None:
    before = np.array([1, 0, -1, -1])
    probability = np.array([0.53, 0.53, 0.47, 0.56])
    assert next_regime(before, np.zeros(4), probability, RegimeConfig()).tolist() == [1, 0, -1, 1]


def test_without_a_probability_the_position_alone_decides() -> None:
    position = np.array([0.05, 0.049, -0.05, -0.2, 0.0, NAN])
    before = np.array([-1, 1, 1, 0, 1, 1])
    assert next_regime(before, position, None, RegimeConfig()).tolist() == [1, 0, -1, -1, 0, 0]


def test_every_fault_of_a_configuration_is_named() -> None:
    assert PositionsConfig().faults() == []
    assert PositionsConfig(0.0, 1.0, 0.0, -1.0, -0.5).faults() == [
        "positions.max_position is 0.0, it must lie in (0, 1]",
        "positions.position_smooth is 1.0, it must lie in [0, 1)",
        "positions.vol_target is 0.0, it must be positive",
        "positions.max_leverage is -1.0, it must be positive",
        "positions.cost_bps is -0.5, it must be at least 0",
    ]
    assert RegimeConfig().faults() == []
    assert RegimeConfig(enter=0.5, leave=0.52, min_position=-0.1).faults() == [
        "regime.leave (0.52) and regime.enter (0.5) must satisfy 0.5 <= leave <= enter <= 1",
        "regime.min_position is -0.1, it must be at least 0",
    ]
