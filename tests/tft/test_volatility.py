"""Volatility against pandas, its finite memory; labels and held returns against loops over bars."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tft.volatility import MEMORY_BARS, MIN_RETURNS, Timing, ewm_volatility, held_return, label, scaled_label


def sample(n_bars: int = 330, n_assets: int = 2, *, gaps: float = 0.1, seed: int = 0) -> NDArray[np.float64]:
    draws = np.random.default_rng(seed)
    returns = 0.01 * draws.standard_t(4, size=(n_bars, n_assets)) + 0.002
    returns[draws.random(returns.shape) < gaps] = np.nan
    return returns


@pytest.mark.parametrize("gaps", [0.0, 0.15])
def test_sigma_is_pandas_ewm_over_the_last_252_bars(gaps: float) -> None:
    """ewm(span=60, adjust=True).std(bias=False) of the last 252 rows, from 20 returns on."""
    returns = sample(gaps=gaps)
    sigma = ewm_volatility(returns)
    for asset in range(returns.shape[1]):
        for t in range(len(returns)):
            recent = pd.Series(returns[max(0, t - 251) : t + 1, asset])
            if recent.notna().sum() < 20:
                assert math.isnan(sigma[t, asset])
            else:
                expected = recent.ewm(span=60, adjust=True).std(bias=False).iloc[-1]
                assert sigma[t, asset] == pytest.approx(expected, rel=1e-10)


def test_the_last_252_bars_alone_give_the_same_bits() -> None:
    """A live table of 252 bars, one instrument or all, decides exactly as the whole history does."""
    returns = sample()
    sigma = ewm_volatility(returns)
    for t in (251, 252, 300, 329):
        recent = returns[t + 1 - MEMORY_BARS : t + 1]
        np.testing.assert_array_equal(ewm_volatility(recent)[-1], sigma[t])
        np.testing.assert_array_equal(ewm_volatility(recent[:, :1])[-1], sigma[t, :1])


def test_nothing_after_t_and_nothing_older_than_the_memory_enters() -> None:
    returns = sample()
    sigma = ewm_volatility(returns)
    t = 290
    later = returns.copy()
    later[t + 1 :] = 9.0
    np.testing.assert_array_equal(ewm_volatility(later)[: t + 1], sigma[: t + 1])
    older = returns.copy()
    older[: t - 251] = 9.0
    np.testing.assert_array_equal(ewm_volatility(older)[t], sigma[t])
    # ... and what does lie at the edges enters.
    for edge in (t, t - 251):
        changed = np.where(np.isnan(returns), 0.0, returns)
        base = ewm_volatility(changed)[t]
        changed[edge] = 9.0
        assert (ewm_volatility(changed)[t] != base).all()


def test_at_least_20_returns_are_needed() -> None:
    returns = sample(30, 1, gaps=0.0)
    returns[3] = np.nan
    sigma = ewm_volatility(returns)[:, 0]
    assert np.flatnonzero(np.isfinite(sigma))[0] == MIN_RETURNS == 20


@pytest.mark.parametrize("value", [0.0, 0.01, 0.003, -0.2])
def test_returns_without_variation_have_no_volatility(value: float) -> None:
    """Rounding does not turn a constant return into a tiny volatility."""
    assert np.isnan(ewm_volatility(np.full((60, 1), value))).all()


@pytest.mark.parametrize(("delay", "horizon"), [(0, 1), (1, 1), (0, 3), (1, 5), (3, 2)])
def test_the_label_equals_a_loop_over_the_bars_it_spans(delay: int, horizon: int) -> None:
    """Compounded from the close of t + delay to that of t + delay + horizon; bars without a trade count as 0."""
    returns = sample(40, 3, gaps=0.4)
    found = label(returns, Timing(delay_bars=delay, horizon=horizon))
    for t in range(40):
        for asset in range(3):
            ahead = [t + delay + step for step in range(1, horizon + 1)]
            if ahead[-1] >= 40 or all(math.isnan(returns[bar, asset]) for bar in ahead):
                assert math.isnan(found[t, asset])
                continue
            growth = 1.0
            for bar in ahead:
                if not math.isnan(returns[bar, asset]):
                    growth *= 1.0 + returns[bar, asset]
            assert found[t, asset] == pytest.approx(growth - 1.0, abs=1e-15)


def test_the_label_agrees_with_prices() -> None:
    returns = sample(50, 1, gaps=0.0)
    close = 100.0 * np.cumprod(1.0 + returns, axis=0)
    found = label(returns, Timing(delay_bars=2, horizon=4))
    np.testing.assert_allclose(found[: 50 - 6], close[6:] / close[2:-4] - 1.0, rtol=1e-10)


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_the_held_return_is_that_of_bar_t_plus_1_plus_delay(delay: int) -> None:
    returns = sample(30, 2, gaps=0.2)
    found = held_return(returns, Timing(delay_bars=delay))
    for t in range(30):
        later = t + 1 + delay
        np.testing.assert_array_equal(found[t], returns[later] if later < 30 else [np.nan, np.nan])


def test_with_a_horizon_of_one_the_label_is_the_held_return() -> None:
    returns = sample(30, 2, gaps=0.2)
    timing = Timing(delay_bars=2, horizon=1)
    np.testing.assert_allclose(label(returns, timing), held_return(returns, timing), atol=1e-15)


@pytest.mark.parametrize("n_bars", [1, 2, 3])
def test_fewer_bars_than_the_label_spans_have_no_label(n_bars: int) -> None:
    timing = Timing(delay_bars=3, horizon=2)
    assert np.isnan(label(np.full((n_bars, 2), 0.01), timing)).all()
    assert np.isnan(held_return(np.full((n_bars, 2), 0.01), timing)).all()


def test_a_label_ends_delay_plus_horizon_bars_after_the_decision() -> None:
    """The return of that bar changes it, the one after does not, nor does the bar in which it is decided."""
    timing = Timing(delay_bars=1, horizon=3)
    assert timing.label_bars == 4
    returns = sample(20, 1, gaps=0.0)
    base = label(returns, timing)[10, 0]
    reached = []
    for bar in range(20):
        changed = returns.copy()
        changed[bar] += 0.1
        if label(changed, timing)[10, 0] != base:
            reached.append(bar)
    assert reached == [12, 13, 14]


def test_the_target_is_the_label_in_units_of_volatility_over_the_horizon() -> None:
    timing = Timing(delay_bars=1, horizon=4)
    returns = sample(60, 2)
    sigma = ewm_volatility(returns)
    y = scaled_label(returns, sigma, timing)
    np.testing.assert_allclose(y * sigma * 2.0, np.where(np.isnan(sigma), np.nan, label(returns, timing)), rtol=1e-12)
    assert np.isfinite(y).any()
