"""A column that knows the future is found, whatever column it is; honest ones are left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr, t

from pipeline.config.sections import DataConfig
from pipeline.data.dataset import load_panel
from pipeline.data.leaks import FALSE_ALARMS, HONEST_ERRORS, HONEST_IC, NOTABLE_IC, Suspect, _standard_errors, suspects
from pipeline.data.sample import write_sample
from tft.panel import Panel
from tft.volatility import Timing, ewm_volatility, held_return, scaled_label

TIMING = Timing()
N_COLUMNS = 276
Array = np.ndarray[Any, np.dtype[np.float64]]


def market(seed: int, n_bars: int = 420, n_assets: int = 4, n_features: int = N_COLUMNS) -> Panel:
    """Fat-tailed returns that move together, and columns that know nothing of what comes: noise, slow and quick, past
    returns, flags, and gaps in all of them."""
    rng = np.random.default_rng(seed)
    calm = np.exp(0.3 * rng.standard_normal(n_bars // 20 + 1)).repeat(20)[:n_bars, None]
    returns = 0.01 * calm * (rng.standard_t(6, (n_bars, 1)) + 0.8 * rng.standard_t(6, (n_bars, n_assets)))
    features = rng.standard_normal((n_bars, n_assets, n_features))
    slow = slice(0, n_features // 3)
    for bar in range(1, n_bars):
        features[bar, :, slow] = 0.97 * features[bar - 1, :, slow] + 0.24 * features[bar, :, slow]
    past = range(n_features // 3, n_features // 2)
    for column in past:
        lag = column - past[0]
        features[lag:, :, column] = returns[: n_bars - lag]
    features[:, :, -n_features // 6 :] = features[:, :, -n_features // 6 :] > 1.0
    features[rng.random(features.shape) < 0.03] = np.nan
    return Panel(
        times=np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        feature_names=tuple(f"group_{i}" for i in range(n_features)),
        features=features.astype(np.float32),
        returns=returns,
    )


def with_column(panel: Panel, column: int, values: Array, asset: int | slice = slice(None)) -> Panel:
    """Another column in the place of one, in all instruments or in one."""
    features = panel.features.copy()
    features[:, asset, column] = values[:, asset]
    return replace(panel, features=features)


def ahead(panel: Panel, bars: int) -> Array:
    """(T, A): the return of bar t + bars."""
    future = np.full_like(panel.returns, np.nan)
    future[:-bars] = panel.returns[bars:]
    return future


def noisy(values: Array, correlation: float, seed: int = 0) -> Array:
    noise = np.random.default_rng(seed).standard_normal(values.shape)
    return correlation * values / np.nanstd(values, axis=0) + np.sqrt(1.0 - correlation**2) * noise


LEAKS = {
    "tomorrow's return": lambda panel: ahead(panel, 1),
    "held return": lambda panel: held_return(panel.returns, TIMING),
    "label": lambda panel: scaled_label(panel.returns, ewm_volatility(panel.returns), TIMING),
    "return a week ahead": lambda panel: ahead(panel, 5),
    "scaled and shifted": lambda panel: 3.0 - 1e6 * ahead(panel, 1),
    "squashed": lambda panel: np.tanh(50.0 * ahead(panel, 2)),
    "its sign": lambda panel: np.sign(ahead(panel, 1)),
    "noisy": lambda panel: noisy(ahead(panel, 1), 0.6),
    "noisy and held": lambda panel: noisy(held_return(panel.returns, TIMING), -0.6),
    "market's return": lambda panel: np.broadcast_to(ahead(panel, 1).mean(axis=1, keepdims=True), panel.returns.shape),
}


def leaking(found: list[Suspect]) -> set[str]:
    return {suspect.column for suspect in found if suspect.is_leak}


@pytest.mark.parametrize("asset", [slice(None), 2], ids=["all instruments", "one instrument"])
@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_found_in_any_column_and_named(kind: str, asset: int | slice) -> None:
    """The first, the last, one of each sort between; in one instrument alone it is that one that is named."""
    for seed, column in enumerate((0, 40, 100, 180, N_COLUMNS - 1)):
        honest = market(seed)
        planted = with_column(honest, column, LEAKS[kind](honest), asset)
        found = suspects(planted, TIMING)
        assert leaking(found) == {f"group_{column}"}, (seed, column)
        if isinstance(asset, int):
            assert "S2" in {suspect.instrument for suspect in found if suspect.is_leak}


@pytest.mark.parametrize("bars", [1, 2])
def test_half_a_leak_is_found_in_one_instrument_alone(bars: int) -> None:
    """Correlation 0.5 on 420 bars: always noticed, column and instrument named, and mostly beyond what is honest."""
    n_errors = 0
    for seed in range(10):
        honest = market(seed)
        found = suspects(with_column(honest, 27 * seed, noisy(ahead(honest, bars), 0.5, seed), 2), TIMING)
        assert {suspect.column for suspect in found} == {f"group_{27 * seed}"}
        assert "S2" in {suspect.instrument for suspect in found}
        n_errors += bool(leaking(found))
    assert n_errors >= 7


@pytest.mark.parametrize("bars", [1, 2, 7, 21])
def test_an_exact_copy_is_called_one_and_its_bar_is_named(bars: int) -> None:
    planted = market(1)
    planted = with_column(planted, 7, -0.5 * ahead(planted, bars), 1)
    copies = {(s.column, s.instrument, s.target) for s in suspects(planted, TIMING) if s.is_copy}
    assert copies == {("group_7", "S1", f"the return of bar t + {bars}")}


def test_past_returns_are_no_leak() -> None:
    """However many bars: `market` has the last 46 as columns. The same columns read one bar late are."""
    panel = market(3)
    assert leaking(suspects(panel, TIMING)) == set()
    late = replace(panel, returns=np.roll(panel.returns, 1, axis=0))
    assert leaking(suspects(late, TIMING)) == {f"group_{N_COLUMNS // 3}"}


def test_honest_noise_is_left_alone() -> None:
    """No error in 20 tables; a suspect of any kind in more than one has a chance of 1 in 5,000 by the bound derived."""
    tables = [suspects(market(100 + seed), TIMING) for seed in range(20)]
    assert [leaking(found) for found in tables] == [set()] * 20
    assert FALSE_ALARMS == 0.001
    assert sum(bool(found) for found in tables) <= 1


@pytest.mark.parametrize(
    ("sizes", "n_development"),
    [
        ({"n_bars": 600}, 420),
        ({"n_bars": 300, "n_symbols": 3, "n_features": 12, "n_degenerate": 4}, 210),
        ({"n_bars": 1500, "n_symbols": 4, "n_features": 30, "n_degenerate": 4}, 1050),
    ],
)
def test_a_table_that_really_predicts_is_no_leak(tmp_path: Path, sizes: dict[str, int], n_development: int) -> None:
    """An oracle Sharpe of 8: planted columns may be noticed, which is right, and no others."""
    for seed in range(5):
        truth = write_sample(tmp_path / "sample.parquet", oracle_sharpe=8.0, seed=seed, **sizes)
        panel = load_panel(DataConfig(source=str(tmp_path / "sample.parquet"))).panel.first_bars(n_development)
        found = suspects(panel, TIMING)
        assert leaking(found) == set()
        assert {suspect.column for suspect in found} <= truth.planted.keys()


def test_slow_columns_and_overlapping_labels_are_no_leak() -> None:
    """A label of 21 bars leaves 20 independent ones in 420: the errors know."""
    for seed in range(10):
        found = suspects(market(200 + seed, n_features=60), Timing(horizon=21))
        assert leaking(found) == set()


def test_a_leak_of_a_long_label_is_found() -> None:
    panel = market(4, n_bars=900)
    timing = Timing(horizon=5)
    y = scaled_label(panel.returns, ewm_volatility(panel.returns), timing)
    found = suspects(with_column(panel, 50, noisy(y, 0.8)), timing)
    assert leaking(found) == {"group_50"}
    assert max((s for s in found if s.is_leak), key=lambda s: s.least_ic).target == "the label"


def test_few_bars_prove_nothing_but_copies() -> None:
    """With 60 bars a noisy leak in one instrument may be luck; a copy is not."""
    panel = market(5, n_bars=60)
    assert leaking(suspects(with_column(panel, 9, noisy(ahead(panel, 1), 0.5), 1), TIMING)) == set()
    assert leaking(suspects(with_column(panel, 9, ahead(panel, 1), 1), TIMING)) == {"group_9"}


def test_the_coefficient_is_spearmans() -> None:
    """Of each instrument by scipy, ties included; ranks are taken over all bars of a column, hence the tolerance."""
    panel = market(6)
    planted = with_column(panel, 3, np.round(noisy(ahead(panel, 2), 0.7)))
    found = [s for s in suspects(planted, TIMING) if s.instrument and s.target == "the return of bar t + 2"]
    assert {s.instrument for s in found} == set(panel.symbols)
    for suspect in found:
        a = panel.symbols.index(str(suspect.instrument))
        x, y = planted.features[:-2, a, 3], panel.returns[2:, a]
        assert suspect.ic == pytest.approx(spearmanr(x, y).statistic, abs=2e-3)
        assert suspect.n_bars == len(x)


def test_instruments_that_move_together_are_not_counted_as_independent() -> None:
    """The pool's standard error is the spread of its IC over many samples, for a column that all instruments share."""
    drawn = []
    for seed in range(150):
        panel = market(1000 + seed, n_bars=250, n_assets=3, n_features=1)
        common = ahead(panel, 1).mean(axis=1, keepdims=True)
        shared = np.broadcast_to(noisy(common, 0.7, seed), panel.returns.shape)
        found = suspects(with_column(panel, 0, shared), TIMING)
        drawn += [s for s in found if s.instrument is None and s.target == "the return of bar t + 1"]
    assert len(drawn) == 150
    spread = float(np.std([s.ic for s in drawn], ddof=1))
    assert np.mean([s.standard_error for s in drawn]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("n_bars", [63, 126, 420])
def test_standard_errors_are_large_enough_in_short_samples(n_bars: int) -> None:
    """Of 4,000 correlations of noise no more lie beyond the t quantiles than they say, one half more at the most."""
    rng = np.random.default_rng(n_bars)
    x, y = rng.random((n_bars, 1, 4000)), rng.random((n_bars, 1, 4000))
    ic = np.array([np.corrcoef(x[:, 0, i], y[:, 0, i])[0, 1] for i in range(4000)])
    error, present, freedom = _standard_errors(x.astype(np.float32), y, max_overlap=0)
    assert (present == n_bars).all()
    for level in (0.05, 0.01):
        assert np.mean(np.abs(ic) / error > t.ppf(1.0 - level / 2.0, freedom)) <= 1.5 * level


def test_the_limits_are_in_order() -> None:
    """Nothing notable is an error for its size alone."""
    assert 0.0 < NOTABLE_IC < HONEST_IC < HONEST_IC + HONEST_ERRORS / np.sqrt(420) < 0.5
