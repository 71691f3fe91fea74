"""Targets without signal: what is shifted, what stays, and that no feature can know its own label."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.schema import Config
from pipeline.config.sections import DataConfig
from pipeline.data.dataset import Dataset, panel_sha256
from pipeline.experiments.null_targets import MIN_SHIFTS, NullTargets, checked_null_targets
from tests.conftest import CPU, small_panel
from tests.pipeline.jobs import job_of
from tft.folds import WalkForwardConfig
from tft.market import Market
from tft.model import ModelConfig
from tft.volatility import Timing, ewm_volatility, scaled_label


def settings_of(*, lookback: int = 10, seq_len: int = 6, delay: int = 1, horizon: int = 1, seed: int = 7) -> Config:
    return Config(
        seed=seed,
        execution_delay_bars=delay,
        horizon=horizon,
        data=DataConfig(feature_lookback_bars=lookback),
        model=ModelConfig(d_hidden=8, n_heads=2, seq_len=seq_len, n_context=2),
    )


def table(n_bars: int = 150, n_assets: int = 3, *, seed: int = 0) -> Dataset:
    """Instruments that do not always trade: the last begins at bar 15, and all have gaps."""
    panel = small_panel(n_bars, n_assets, seed=seed)
    returns = panel.returns.copy()
    returns[:15, -1] = np.nan
    returns[np.random.default_rng(seed).random(returns.shape) < 0.02] = np.nan
    panel = replace(panel, returns=returns)
    return Dataset(panel=panel, sha256=panel_sha256(panel), source="table", n_rows=returns.size)


def complete_bars(returns: np.ndarray, sigma: np.ndarray) -> list[int]:
    return [
        t
        for t in range(1, len(returns))
        if all(math.isfinite(r) for r in returns[t]) and all(math.isfinite(s) for s in sigma[t - 1])
    ]


def test_the_shifted_targets_are_those_of_a_naive_loop() -> None:
    data = table()
    null = NullTargets(data, settings_of())
    assert null.method == "shift"
    returns, sigma = data.panel.returns, ewm_volatility(data.panel.returns)
    bars = complete_bars(returns, sigma)
    assert 0 < len(bars) < len(returns)
    for repetition in (1, 2, 40):
        shift = null.shift(repetition)
        assert shift is not None
        expected = np.full_like(returns, np.nan)
        for i, t in enumerate(bars):
            source = bars[(i - shift) % len(bars)]
            for a in range(returns.shape[1]):
                expected[t, a] = sigma[t - 1, a] * returns[source, a] / sigma[source - 1, a]
        np.testing.assert_allclose(null.returns(repetition), expected, rtol=1e-13)


@pytest.mark.parametrize("repetition", [1, 7])
def test_the_volatility_scaled_values_are_a_permutation_of_the_real_ones(repetition: int) -> None:
    """Of whole cross-sections, so that what the instruments do together stays too."""
    data = table()
    null = NullTargets(data, settings_of())
    sigma = ewm_volatility(data.panel.returns)
    bars = np.array(complete_bars(data.panel.returns, sigma))
    real = data.panel.returns[bars] / sigma[bars - 1]
    shifted = null.returns(repetition)[bars] / sigma[bars - 1]
    order = np.lexsort(real.T), np.lexsort(shifted.T)
    np.testing.assert_allclose(shifted[order[1]], real[order[0]], rtol=1e-12)
    assert not np.allclose(shifted, real)


def test_features_times_and_sigma_stay_and_what_is_not_complete_is_not_traded() -> None:
    data = table()
    null = NullTargets(data, settings_of())
    shifted = null.dataset(1)
    np.testing.assert_array_equal(shifted.panel.features, data.panel.features)
    np.testing.assert_array_equal(shifted.panel.times, data.panel.times)
    np.testing.assert_array_equal(shifted.sigma, ewm_volatility(data.panel.returns))
    assert shifted.panel.symbols == data.panel.symbols
    traded = np.isfinite(shifted.panel.returns)
    assert (traded.all(axis=1) == traded.any(axis=1)).all()
    assert np.flatnonzero(traded.all(axis=1)).tolist() == complete_bars(data.panel.returns, shifted.sigma)
    assert shifted.sha256 != data.sha256
    assert shifted.sha256 == panel_sha256(shifted.panel, shifted.sigma)


def test_a_market_on_them_scales_by_the_real_sigma() -> None:
    data = table()
    null = NullTargets(data, settings_of())
    shifted = null.dataset(1)
    timing = settings_of().timing
    market = Market(shifted.panel, timing, CPU, sigma=shifted.sigma)
    expected = scaled_label(shifted.panel.returns, ewm_volatility(data.panel.returns), timing)
    np.testing.assert_allclose(market.y, expected)


@settings(max_examples=40, deadline=None)
@given(
    lookback=st.integers(1, 12),
    seq_len=st.integers(1, 8),
    delay=st.integers(0, 2),
    horizon=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_no_feature_that_a_decision_sees_remembers_a_bar_of_its_label(
    lookback: int, seq_len: int, delay: int, horizon: int, seed: int
) -> None:
    """For every decision: the bars from which its shifted label is made lie before or after all that it looks at."""
    data = table(120, seed=seed)
    null = NullTargets(data, settings_of(lookback=lookback, seq_len=seq_len, delay=delay, horizon=horizon))
    assert null.method == "shift"
    bars = null.complete
    for repetition in (1, 2, MIN_SHIFTS):
        source_of = np.full(len(data.panel.times), -1)
        source_of[bars] = bars[null.rows(repetition)]
        for t in range(seq_len - 1, len(source_of) - delay - horizon):
            oldest_remembered = t - (seq_len - 1) - (lookback - 1)
            label = source_of[t + delay + 1 : t + delay + horizon + 1]
            label = label[label >= 0]
            assert ((label < oldest_remembered) | (label > t)).all()


def test_shifts_are_drawn_once_each_in_an_order_that_the_seed_decides() -> None:
    data = table()
    null = NullTargets(data, settings_of(seed=7))
    n, m = len(null.complete), 10 + 6 - 1 + 2
    every = [null.shift(i + 1) for i in range(null.most(10_000))]
    assert sorted(every) == list(range(m, n - m + 1))  # type: ignore[type-var]
    assert every == [NullTargets(data, settings_of(seed=7)).shift(i + 1) for i in range(len(every))]
    assert every != [NullTargets(data, settings_of(seed=8)).shift(i + 1) for i in range(len(every))]
    assert null.most(5) == 5


def test_too_few_shifts_resample_rows_in_blocks() -> None:
    data = table()
    null = NullTargets(data, settings_of(lookback=252))
    assert null.method == "stationary bootstrap"
    assert null.shift(1) is None
    assert null.most(99) == 99
    n = len(null.complete)
    rows = null.rows(3)
    np.testing.assert_array_equal(rows, NullTargets(data, settings_of(lookback=252)).rows(3))
    assert not np.array_equal(rows, null.rows(4))
    expected = null.sigma[null.complete - 1] * null.scaled[rows]
    np.testing.assert_allclose(null.returns(3)[null.complete], expected)
    # Over many repetitions: every row equally often, and a new block begins at one bar in n^(1/3).
    many = np.stack([null.rows(i) for i in range(1, 1001)])
    counts = np.bincount(many.ravel(), minlength=n)
    assert counts.min() > 0.7 * counts.mean() and counts.max() < 1.3 * counts.mean()
    # A block drawn anew may go on by chance, once in n.
    begun = (np.diff(many, axis=1) % n != 1).mean()
    assert begun == pytest.approx(n ** (-1 / 3) * (1 - 1 / n), rel=0.03)


@pytest.mark.parametrize(("n_shifts", "method"), [(18, "stationary bootstrap"), (19, "shift")])
def test_nineteen_shifts_are_enough(n_shifts: int, method: str) -> None:
    m = 10 + 6 - 1 + 2
    panel = small_panel(20 + 2 * m - 1 + n_shifts)  # sigma is known from the twentieth bar on
    null = NullTargets(Dataset(panel=panel, sha256="", source="", n_rows=1), settings_of())
    assert len(null.complete) - 2 * m + 1 == n_shifts
    assert null.method == method


def test_instruments_that_never_trade_together_are_refused() -> None:
    data = table()
    returns = data.panel.returns.copy()
    returns[::2, 0] = np.nan
    returns[1::2, 1] = np.nan
    apart = replace(data, panel=replace(data.panel, returns=returns))
    with pytest.raises(ValueError, match="table has 0 bars on which all of S0, S1, S2 trade"):
        NullTargets(apart, settings_of())


def test_a_fold_without_targets_in_the_placebo_is_refused_before_anything_runs() -> None:
    """An instrument that begins late: its early folds hold no bar on which all trade."""
    panel = small_panel(300, 3)
    config = Config(
        walk_forward=WalkForwardConfig(train_window=80, validation_window=14),
        model=ModelConfig(d_hidden=8, n_heads=2, seq_len=6),
        periods_per_year=Timing().periods_per_year,
    )
    job = job_of(panel, config)
    checked_null_targets(job)
    returns = panel.returns.copy()
    returns[:60, 1] = np.nan
    late = replace(job.data, panel=replace(panel, returns=returns))
    with pytest.raises(ValueError, match=r"of fold 0 hold 0 targets, the least is 10: .* \(S1 alone is missing in 60"):
        checked_null_targets(replace(job, data=late))
