"""Simple rules and regressions against values worked by hand, loops, and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline.statistics import baselines
from pipeline.statistics.baselines import (
    LONG_ONLY,
    MACD,
    MOMENTUM,
    RIDGE,
    TREES,
    Cells,
    macd,
    ridge,
    run_baselines,
    time_series_momentum,
)
from tests.conftest import small_panel
from tft.folds import Fold
from tft.metrics import sharpe
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.record import RawForecast, Record, stitch
from tft.scaling import Scaler
from tft.volatility import Timing, ewm_volatility, scaled_label

NAN = float("nan")

Array = NDArray[np.float64]

TIMING = Timing()

POSITIONS = PositionsConfig()

N_BARS = 420

FOLDS = (
    Fold(0, range(40, 180), range(185, 215), range(220, 320)),
    Fold(1, range(140, 280), range(285, 315), range(320, 418)),
)

N_DEVELOPMENT = 310

needs_trees = pytest.mark.skipif(find_spec("lightgbm") is None, reason="LightGBM is an optional extra")


def market(*, seed: int = 0, signal: float = 0.3, n_assets: int = 2, n_features: int = 4) -> Panel:
    """Noise with a signal in the first feature, features and bars missing here and there."""
    panel = small_panel(N_BARS, n_assets, n_features, seed=seed, signal=signal)
    returns = panel.returns.copy()
    returns[np.random.default_rng(seed + 1).random(returns.shape) < 0.02] = NAN
    return replace(panel, returns=returns)


def stitching(panel: Panel, positions: PositionsConfig = POSITIONS) -> Callable[[Sequence[RawForecast]], Record]:
    sigma = ewm_volatility(panel.returns)
    return lambda forecasts: stitch(forecasts, panel, sigma, positions, TIMING, n_development=N_DEVELOPMENT)


def run(panel: Panel, features: Sequence[Sequence[str]] | None = None) -> dict[str, Record]:
    """All baselines over FOLDS, the last one forecasting to the end of the panel."""
    columns = features or [panel.feature_names] * len(FOLDS)
    sigma = ewm_volatility(panel.returns)
    return run_baselines(panel, FOLDS, columns, sigma, TIMING, stitching(panel), test_until=N_BARS)


def model_record(panel: Panel, seed: int = 3) -> Record:
    """The record of a model that guesses."""
    draws = np.random.default_rng(seed)
    shape = (len(FOLDS[0].test), len(panel.symbols))
    last = range(FOLDS[1].test.start, N_BARS)
    forecasts = [
        RawForecast(FOLDS[0], FOLDS[0].test, draws.uniform(-1.0, 1.0, shape)),
        RawForecast(FOLDS[1], last, draws.uniform(-1.0, 1.0, (len(last), shape[1]))),
    ]
    return stitching(panel)(forecasts)


# ---- rules


def test_momentum_worked_by_hand() -> None:
    """Over 2 bars: price 1.1, 1.1, 0.99, 0.99, 1.0395; one not traded carries its price, and starts with its first."""
    returns = np.array([[0.1, NAN], [0.0, NAN], [-0.1, 0.2], [NAN, 0.1], [0.05, -0.5]])
    raw = time_series_momentum(returns, lookback_bars=2)
    np.testing.assert_array_equal(raw[:, 0], [NAN, NAN, -1.0, -1.0, 1.0])
    np.testing.assert_array_equal(raw[:, 1], [NAN, NAN, NAN, NAN, -1.0])


def test_momentum_is_the_sign_of_the_compounded_return_of_the_bars_up_to_this_one() -> None:
    returns = market().returns
    lookback = 30
    raw = time_series_momentum(returns, lookback_bars=lookback)
    for asset in range(returns.shape[1]):
        first = int(np.flatnonzero(np.isfinite(returns[:, asset]))[0])
        for t in range(len(returns)):
            past = [r for r in returns[max(t - lookback + 1, 0) : t + 1, asset] if not math.isnan(r)]
            expected = NAN if t - lookback < first else np.sign(math.prod(1.0 + r for r in past) - 1.0)
            np.testing.assert_equal(raw[t, asset], expected)


def test_a_price_that_does_not_move_has_no_momentum_and_no_trend() -> None:
    still = np.zeros((400, 1))
    np.testing.assert_array_equal(time_series_momentum(still, lookback_bars=5)[5:], 0.0)
    assert np.isnan(macd(still)).all()


def test_macd_against_a_loop_over_bars() -> None:
    """Averages with weight (1 - 1/n)^age, spreads with ddof 1 over exactly 63 prices and 252 signals."""
    returns = market().returns[:330, :1]
    price, level = [], 1.0
    for r in returns[:, 0]:
        level *= 1.0 + (0.0 if math.isnan(r) else r)
        price.append(level)

    def average(t: int, n: int) -> float:
        weights = [(1.0 - 1.0 / n) ** age for age in range(t + 1)]
        return sum(w * price[t - age] for age, w in enumerate(weights)) / sum(weights)

    expected = []
    for t in range(326, 330):
        responses = []
        for fast, slow in ((8, 24), (16, 48), (32, 96)):
            signals = [
                (average(s, fast) - average(s, slow)) / float(np.std(price[s - 62 : s + 1], ddof=1))
                for s in range(t - 251, t + 1)
            ]
            x = signals[-1] / float(np.std(signals, ddof=1))
            responses.append(x * math.exp(-x * x / 4.0) / 0.89)
        expected.append(sum(responses) / 3.0)
    raw = macd(returns)[:, 0]
    np.testing.assert_allclose(raw[326:330], expected, rtol=1e-9)
    # 63 prices and 252 signals after each other: the first signal is that of bar 62, the first position of bar 313.
    assert np.flatnonzero(np.isfinite(raw))[0] == 62 + 251
    assert np.abs(raw[313:]).max() <= math.sqrt(2.0) * math.exp(-0.5) / 0.89


def test_the_time_scales_of_macd_are_half_lives_of_baz_et_al() -> None:
    """log(0.5) / log(1 - 1/n) bars, as the source has it."""
    price = pd.Series(np.cumprod(1.0 + market(n_assets=1).returns[:, 0][:50].clip(-0.05, 0.05)))
    for n in (8, 96):
        half_life = math.log(0.5) / math.log(1.0 - 1.0 / n)
        pd.testing.assert_series_equal(price.ewm(halflife=half_life).mean(), price.ewm(alpha=1.0 / n).mean())


def test_long_only_is_long_at_full_size_wherever_it_can_be() -> None:
    record = run(market())[LONG_ONLY]
    held = np.isfinite(record.position)
    assert held[-1].all()
    assert (record.position[held] > 0.0).all()
    assert (record.raw_position == 1.0).all()


# ---- regressions


def test_ridge_is_the_closed_form() -> None:
    """w = (X'X + penalty n I)^-1 X'y of centred columns, a missing value counting as 0 before centring."""
    draws = np.random.default_rng(0)
    x = draws.standard_normal((40, 3)).astype(np.float32)
    x[draws.random(x.shape) < 0.1] = NAN
    y = draws.standard_normal(40)
    filled = np.where(np.isnan(x), 0.0, x.astype(np.float64))
    centred = filled - filled.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + 0.5 * 40 * np.eye(3), centred.T @ (y - y.mean()))
    expected = (filled - filled.mean(axis=0)) @ weights + y.mean()
    np.testing.assert_allclose(ridge(Cells(x, y), Cells(x, y), penalties=[0.5])(x), expected, rtol=1e-9)


@pytest.mark.parametrize(("signal", "expected"), [(1.0, 0.01), (0.0, 100.0)])
def test_the_validation_block_chooses_the_penalty(signal: float, expected: float) -> None:
    """A clear line asks for the least shrinkage, noise for the most."""
    draws = np.random.default_rng(1)
    x = draws.standard_normal((2, 400, 5)).astype(np.float32)
    y = signal * x[:, :, 0] + 0.5 * draws.standard_normal((2, 400))
    train, validation = Cells(x[0], y[0]), Cells(x[1], y[1])
    alone = ridge(train, validation, penalties=[expected])
    np.testing.assert_allclose(ridge(train, validation)(x[1]), alone(x[1]), rtol=1e-9)


def test_ridge_by_hand_from_the_panel_to_the_raw_position() -> None:
    """Scaled by training rows, fitted on labelled cells, 2 Phi(mu / sd of residuals) - 1 on the test bars."""
    panel = market()
    y = scaled_label(panel.returns, ewm_volatility(panel.returns), TIMING)
    raw = run(panel)[RIDGE].raw_position
    for fold in FOLDS:
        scaler = Scaler.fit(panel.features[fold.train.start : fold.train.stop])

        def cells(block: range, scaler: Scaler = scaler) -> Cells:
            x = scaler.transform(panel.features[block.start : block.stop]).reshape(-1, 4)
            target = y[block.start : block.stop].ravel()
            known = np.isfinite(target) & np.isfinite(x).any(axis=1)
            return Cells(x[known], target[known])

        train = cells(fold.train)
        forecast = ridge(train, cells(fold.validation))
        sigma = float(np.sqrt(np.mean((train.y - forecast(train.x) - np.mean(train.y - forecast(train.x))) ** 2)))
        mu = forecast(scaler.transform(panel.features[fold.test.start : fold.test.stop]).reshape(-1, 4))
        expected = [math.erf(value / sigma / math.sqrt(2.0)) for value in mu]  # 2 Phi(z) - 1
        start = fold.test.start - FOLDS[0].test.start
        np.testing.assert_allclose(raw[start : start + len(fold.test)].ravel(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [RIDGE, pytest.param(TREES, marks=needs_trees)])
def test_a_planted_linear_truth_is_found(name: str) -> None:
    """Half of the variance of the return is in the first column; in noise there is nothing to be found."""
    planted, noise = run(market(signal=0.7))[name], run(market(signal=0.0))[name]
    assert sharpe(planted.gross(), periods_per_year=252.0) > 5.0
    assert abs(sharpe(noise.gross(), periods_per_year=252.0)) < 2.5


@needs_trees
def test_trees_see_what_is_not_linear() -> None:
    """y = |x|: of no use to a line."""
    draws = np.random.default_rng(2)
    x = draws.standard_normal((2, 600, 3)).astype(np.float32)
    x[draws.random(x.shape) < 0.05] = NAN
    y = np.abs(np.nan_to_num(x[:, :, 0], nan=0.0)) + 0.1 * draws.standard_normal((2, 600))
    train, validation = Cells(x[0], y[0]), Cells(x[1], y[1])
    grown, line = baselines.boosted_trees(train, validation)(x[1]), ridge(train, validation)(x[1])
    assert np.var(y[1] - grown) < 0.2 * np.var(y[1]) < np.var(y[1] - line)


def test_trees_are_left_out_where_lightgbm_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    assert list(run(market())) == [LONG_ONLY, MOMENTUM, MACD, RIDGE]


@needs_trees
def test_trees_are_there_where_it_is_present_and_runs_repeat_exactly() -> None:
    first, second = run(market()), run(market())
    assert list(first) == [LONG_ONLY, MOMENTUM, MACD, RIDGE, TREES]
    for name, record in first.items():
        np.testing.assert_array_equal(record.raw_position, second[name].raw_position)


def test_each_fold_reads_its_own_columns() -> None:
    """What a column holds matters to the fold that reads it alone."""
    panel = market()
    names = panel.feature_names
    other = panel.features.copy()
    other[:, :, 3] = -(other[:, :, 3] ** 3)
    changed = replace(panel, features=other)
    columns = [names[:3], (names[3], names[0])]
    before, after = (run(one, columns)[RIDGE].raw_position for one in (panel, changed))
    border = FOLDS[1].test.start - FOLDS[0].test.start
    np.testing.assert_array_equal(before[:border], after[:border])
    assert (before[border:] != after[border:]).mean() > 0.9


# ---- what they may see


def corrupted(panel: Panel, bars: Sequence[int]) -> Panel:
    """Other values in these bars; what is missing stays missing, and nothing else does."""
    draws = np.random.default_rng(99)
    features, returns = panel.features.copy(), panel.returns.copy()
    rows = np.asarray(bars)
    features[rows] += draws.normal(3.0, 10.0, features[rows].shape).astype(np.float32)
    returns[rows] += draws.uniform(0.05, 0.2, returns[rows].shape)
    return replace(panel, features=features, returns=returns)


@pytest.mark.parametrize("t", [250, 330, 380])
def test_no_position_sees_a_later_bar(t: int) -> None:
    """Every bar after t corrupted: no raw position and no holding up to t changes, in any baseline."""
    panel = market()
    before, after = run(panel), run(corrupted(panel, range(t + 1, N_BARS)))
    assert before.keys() == after.keys()
    upto = t + 1 - FOLDS[0].test.start
    for name, record in before.items():
        for kind in ("raw_position", "position"):
            was, now = getattr(record, kind), getattr(after[name], kind)
            np.testing.assert_array_equal(was[:upto], now[:upto], err_msg=name)
        if name != LONG_ONLY:  # and the corruption is one that would be seen
            assert (np.nan_to_num(record.raw_position) != np.nan_to_num(after[name].raw_position)).any(), name


def test_a_fold_is_fitted_on_its_own_training_and_validation_rows_alone() -> None:
    """Features outside its blocks corrupted, the second fold forecasts the same; labels stay as they are."""
    panel = market()
    fold = FOLDS[1]
    used = {*fold.train, *fold.validation, *fold.test, *range(fold.test.stop, N_BARS)}
    others = [bar for bar in range(N_BARS) if bar not in used]
    changed = replace(panel, features=corrupted(panel, others).features)
    border = fold.test.start - FOLDS[0].test.start
    before, after = run(panel), run(changed)
    for name in before.keys() & {RIDGE, TREES}:
        was, now = before[name].raw_position, after[name].raw_position
        np.testing.assert_array_equal(was[border:], now[border:])
        assert (was[:border] != now[:border]).any()


def test_test_rows_standardise_and_fit_nothing() -> None:
    """One test bar corrupted: no other bar's forecast changes, of those whose label and volatility it is not."""
    panel = market()
    bar = 350
    features = corrupted(panel, [bar]).features
    before, after = run(panel), run(replace(panel, features=features))
    row = bar - FOLDS[0].test.start
    for name in before.keys() & {RIDGE, TREES}:
        same = (before[name].raw_position == after[name].raw_position).all(axis=1)
        assert np.flatnonzero(~same).tolist() == [row]


# ---- the model's own path


def test_raw_positions_equal_to_the_models_give_the_identical_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delay, volatility scaling, smoothing, costs and the last bars without a label are the model's."""
    panel = market()
    model = model_record(panel)
    raw = np.full_like(panel.returns, NAN)
    raw[model.bars] = model.raw_position
    monkeypatch.setattr(baselines, "macd", lambda returns: raw)
    record = run(panel)[MACD]
    assert np.array_equal(record.bars, model.bars)
    assert (record.symbols, record.timing) == (model.symbols, model.timing)
    for kind in ("times", "fold", "raw_position", "position", "segment"):
        np.testing.assert_array_equal(getattr(record, kind), getattr(model, kind), err_msg=kind)
    np.testing.assert_array_equal(record.net(), model.net())
    np.testing.assert_array_equal(record.gross(), model.gross())


def test_bars_without_a_label_are_forecast_too() -> None:
    panel = market()
    for name, record in run(panel).items():
        assert record.bars.tolist() == list(range(FOLDS[0].test.start, N_BARS))
        assert np.isfinite(record.position[-1]).all(), name
        assert np.isnan(record.net()[-TIMING.label_bars :]).all()
