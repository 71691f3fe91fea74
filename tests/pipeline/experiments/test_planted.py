"""A planted signal: its strength, what it leaves alone, and what is said of how it was found."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from pipeline.config.schema import Config
from pipeline.config.sections import DataConfig
from pipeline.data.dataset import Dataset
from pipeline.experiments.null_targets import NullTargets
from pipeline.experiments.planted import Planted
from pipeline.experiments.planted_targets import (
    Plan,
    PlantedRepetition,
    oracle_sharpe,
    p_value_beyond_drift,
    plant,
    signal_of,
)
from pipeline.phases.production import Walked
from tests.conftest import small_panel
from tft.folds import Fold
from tft.market import Market
from tft.metrics import sharpe
from tft.model import ModelConfig
from tft.positions import PositionsConfig
from tft.record import RawForecast, Record, stitch
from tft.volatility import Timing, ewm_volatility

CONFIG = Config(data=DataConfig(feature_lookback_bars=10), model=ModelConfig(d_hidden=8, n_heads=2, seq_len=6))


def table(n_bars: int = 400, n_assets: int = 3, *, missing: float = 0.03) -> Dataset:
    panel = small_panel(n_bars, n_assets, missing=missing)
    returns = panel.returns.copy()
    returns[np.random.default_rng(1).random(returns.shape) < 0.01] = np.nan
    return Dataset(panel=replace(panel, returns=returns), sha256="", source="table", n_rows=returns.size)


def test_the_signal_is_the_columns_standardised_and_added_up() -> None:
    features = table().panel.features[:, :, :2]
    signal = signal_of(features, np.array([1.0, -1.0]))
    naive = np.zeros(features.shape[:2])
    for column, sign in ((0, 1.0), (1, -1.0)):
        values = [float(x) for x in features[:, :, column].ravel() if math.isfinite(x)]
        mean, deviation = np.mean(values), np.std(values)
        for t, a in np.ndindex(naive.shape):
            if math.isfinite(features[t, a, column]):
                naive[t, a] += sign * (features[t, a, column] - mean) / deviation
    np.testing.assert_allclose(signal, naive / naive.std(), atol=1e-6)
    assert signal.std() == pytest.approx(1.0)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_returns_are_those_without_signal_and_the_signal_that_was_known(delay: int) -> None:
    data, timing = table(), Timing(delay_bars=delay)
    null = NullTargets(data, CONFIG)
    signal = signal_of(data.panel.features[:, :, :1], np.array([1.0]))
    returns, strength = plant(null, 3, signal, oracle_sharpe=4.0, timing=timing)
    plain, sigma = null.returns(3), ewm_volatility(data.panel.returns)
    assert strength > 0.0
    for t in range(len(returns)):
        if t not in set(null.complete.tolist()):
            assert np.isnan(returns[t]).all()
        elif t <= delay:
            np.testing.assert_array_equal(returns[t], plain[t])
        else:
            expected = plain[t] + strength * sigma[t - 1] * signal[t - 1 - delay]
            np.testing.assert_allclose(returns[t], expected, rtol=1e-12)


@pytest.mark.parametrize("asked", [1.0, 4.0, 8.0])
def test_the_oracle_earns_the_sharpe_that_was_asked_for_on_average(asked: float) -> None:
    """Over all shifts the noise has next to no mean; the oracle's trade is written out here once more."""
    data, timing = table(1500), Timing()
    null = NullTargets(data, CONFIG)
    sigma = ewm_volatility(data.panel.returns)
    signal = signal_of(data.panel.features[:, :, :2], np.array([1.0, 1.0]))
    earned = []
    for repetition in range(1, 101):
        returns, _ = plant(null, repetition, signal, oracle_sharpe=asked, timing=timing)
        pnl = (signal[:-2] / sigma[:-2] * returns[2:]).mean(axis=1)
        earned.append(sharpe(pnl, periods_per_year=252.0))
    standard_error = np.std(earned) / np.sqrt(len(earned))
    assert np.mean(earned) == pytest.approx(asked, abs=3 * standard_error + 0.02 * asked)


def test_more_than_the_columns_can_carry_is_refused() -> None:
    data = table()
    null = NullTargets(data, CONFIG)
    signal = signal_of(data.panel.features[:, :, :1], np.array([1.0]))
    with pytest.raises(ValueError, match=r"^oracle_sharpe is 60, these columns carry less than \d+\.\d: lower it$"):
        plant(null, 1, signal, oracle_sharpe=60.0, timing=Timing())


def record(data: Dataset, sigma: np.ndarray, raw: np.ndarray) -> Record:
    bars = range(100, 400)
    fold = Fold(index=0, train=range(80), validation=range(80, 95), test=bars)
    return stitch(
        [RawForecast(fold, bars, raw[100:])], data.panel, sigma, PositionsConfig(), Timing(), n_development=250
    )


def test_the_oracle_and_the_p_value_are_of_the_holdout_bars() -> None:
    data = table()
    sigma = ewm_volatility(data.panel.returns)
    signal = np.random.default_rng(3).standard_normal(data.panel.returns.shape)
    own = record(data, sigma, signal)
    pnl = (signal[250:398] / sigma[250:398] * data.panel.returns[252:]).mean(axis=1)
    got = oracle_sharpe(signal, sigma, data.panel.returns, own, Timing())
    assert got == pytest.approx(sharpe(pnl, periods_per_year=252.0))


def test_the_p_value_is_of_what_is_beyond_drift_on_the_holdout() -> None:
    """Foresight has a tiny one, noise around a long bias has none, and too few bars are refused."""
    data = table()
    market = Market(data.panel, Timing(), torch.device("cpu"))
    rng = np.random.default_rng(3)
    ahead = np.concatenate([np.sign(np.nan_to_num(data.panel.returns[2:])), np.zeros((2, data.panel.returns.shape[1]))])

    def walked(raw: np.ndarray, n_development: int = 250) -> Walked:
        own = record(data, market.sigma, raw)
        segment = np.where(own.bars < n_development, "development", "holdout")
        stands_in = SimpleNamespace(
            record=replace(own, segment=segment), market=market, last_positions=PositionsConfig()
        )
        return cast(Walked, stands_in)

    assert p_value_beyond_drift(walked(ahead)) < 1e-6
    assert p_value_beyond_drift(walked(0.2 + 0.05 * rng.standard_normal(ahead.shape))) > 0.05
    with pytest.raises(ValueError, match="the holdout has no p-value: 58 bars are too few for any inference"):
        p_value_beyond_drift(walked(ahead, 340))


def test_columns_are_given_by_name_or_by_number() -> None:
    assert Plan.of(2.0, " a_x, b_y ", 3) == Plan(2.0, ("a_x", "b_y"), repetitions=3)
    assert Plan.of(2.0, "7", 3) == Plan(2.0, n_drawn=7, repetitions=3)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan.of(2.0, "a,z,y", 5), ["columns names z, y, which the table does not have"]),
        (Plan.of(2.0, "0", 5), ["columns is 0, it must lie between 1 and the table's 2"]),
        (Plan.of(2.0, "-1", 5), ["columns is -1, it must lie between 1 and the table's 2"]),
        (Plan.of(2.0, "3", 100), ["columns is 3", "repetitions is 100, it must lie between 1 and 99"]),
        (Plan.of(0.0, "a", 0), ["oracle_sharpe is 0, it must be above 0", "repetitions is 0"]),
        (Plan.of(math.inf, "a", 1), ["oracle_sharpe is inf, it must be above 0 and finite"]),
    ],
)
def test_all_faults_of_a_plan_are_said_together(plan: Plan, said: list[str]) -> None:
    with pytest.raises(ValueError) as refused:
        plan.check(("a", "b"))
    lines = str(refused.value).splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


def test_power_and_shares_by_hand() -> None:
    def one(number: int, oracle: float, found: float, p_value: float, own: float, others: float) -> PlantedRepetition:
        return PlantedRepetition(number, 5, ("a",), 0.1, oracle, found, found, p_value, own, others, 1.0)

    result = Planted(Plan(4.0), (one(1, 5.0, 3.0, 0.01, 1.0, 0.2), one(2, 3.0, 1.0, 0.05, 0.5, 0.0)), 2)
    assert (result.power, result.recovered, result.planted_kept, result.others_kept) == (0.5, 0.5, 0.75, 0.1)
    assert result.sentence == (
        "A signal worth an oracle Sharpe of 4 was found (holdout p < 0.05) in 1 of 2 repetitions; the job recovered "
        "50% of the oracle's Sharpe and kept 75% of the planted columns, 10% of the others."
    )
