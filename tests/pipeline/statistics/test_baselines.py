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

from pipeline.phases.stitching import stitch_by_fold
from pipeline.statistics import baselines, position_lstm, regressions
from pipeline.statistics.baselines import (
    LONG_ONLY,
    LSTM,
    MACD,
    MOMENTUM,
    RIDGE,
    SMOOTHINGS,
    TREES,
    Baseline,
    NetworkSettings,
    Stitch,
    macd,
    run_baselines,
    time_series_momentum,
)
from pipeline.statistics.regressions import PENALTIES, Cells, Regression, boosted_trees, ridge
from tests.conftest import CPU, small_panel
from tft.folds import Fold
from tft.market import Market
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


def baselines_of(
    panel: Panel,
    features: Sequence[Sequence[str]] | None = None,
    *,
    chosen_before: Sequence[int] = (N_DEVELOPMENT, N_DEVELOPMENT),
    lstm: NetworkSettings | None = None,
) -> dict[str, Baseline]:
    """All baselines over FOLDS, the last one forecasting to the end of the panel."""
    columns = features or [panel.feature_names] * len(FOLDS)
    sigma = ewm_volatility(panel.returns)
    return run_baselines(
        panel,
        FOLDS,
        columns,
        sigma,
        TIMING,
        by_fold(panel),
        positions=POSITIONS,
        chosen_before=chosen_before,
        test_until=N_BARS,
        lstm=lstm,
    )


def records_of(panel: Panel, features: Sequence[Sequence[str]] | None = None) -> dict[str, Record]:
    return {name: one.record for name, one in baselines_of(panel, features).items()}


def by_fold(panel: Panel) -> Stitch:
    """Each fold with its own positions."""
    on = Market(panel, TIMING, CPU)
    return lambda forecasts, positions: stitch_by_fold(forecasts, positions, on, n_development=N_DEVELOPMENT)


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
    record = records_of(market())[LONG_ONLY]
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
    np.testing.assert_allclose(ridge(Cells(x, y), penalties=[0.5])(x)[:, 0], expected, rtol=1e-9)


def test_ridge_with_more_columns_than_cells_is_the_closed_form_too() -> None:
    draws = np.random.default_rng(0)
    x, y = draws.standard_normal((12, 40)).astype(np.float32), draws.standard_normal(12)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    for penalty, forecast in zip(PENALTIES, ridge(Cells(x, y))(x).T, strict=True):
        weights = np.linalg.solve(centred.T @ centred + penalty * 12 * np.eye(40), centred.T @ (y - y.mean()))
        np.testing.assert_allclose(forecast, centred @ weights + y.mean(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("signal", "expected"), [(0.99, 0.01), (0.0, 100.0)])
def test_validation_blocks_choose_the_penalty(signal: float, expected: float) -> None:
    """A clear line asks for the least shrinkage, noise for the most."""
    assert baselines_of(market(signal=signal))[RIDGE].strength == (expected, expected)


def test_ridge_by_hand_from_the_panel_to_the_raw_position() -> None:
    """Scaled by training rows, fitted on labelled cells, 2 Phi(mu / sd of residuals) - 1 on the test bars. The penalty
    is that of least squared error over the validation cells of both folds whose label is known before the holdout."""
    panel = market()
    y = scaled_label(panel.returns, ewm_volatility(panel.returns), TIMING)
    ridge_baseline = baselines_of(panel)[RIDGE]
    raw = ridge_baseline.record.raw_position
    error = dict.fromkeys(PENALTIES, 0.0)
    for fold in FOLDS:
        scaler = Scaler.fit(panel.features[fold.train.start : fold.train.stop])
        scaled = scaler.transform(panel.features)
        train = [
            (scaled[t, a], y[t, a])
            for t in fold.train
            for a in range(2)
            if np.isfinite(y[t, a]) and np.isfinite(scaled[t, a]).any()
        ]
        forecasts = ridge(Cells(np.array([x for x, _ in train]), np.array([target for _, target in train])))
        for t in fold.validation:
            for a in range(2):
                if t + TIMING.label_bars < N_DEVELOPMENT and np.isfinite(y[t, a]) and np.isfinite(scaled[t, a]).any():
                    for penalty, mu in zip(PENALTIES, forecasts(scaled[t, a][None])[0], strict=True):
                        error[penalty] += (mu - y[t, a]) ** 2
    chosen = min(error, key=lambda penalty: error[penalty])
    assert ridge_baseline.strength == (chosen, chosen)
    for fold in FOLDS:
        scaler = Scaler.fit(panel.features[fold.train.start : fold.train.stop])

        def cells(block: range, scaler: Scaler = scaler) -> Cells:
            x = scaler.transform(panel.features[block.start : block.stop]).reshape(-1, 4)
            target = y[block.start : block.stop].ravel()
            known = np.isfinite(target) & np.isfinite(x).any(axis=1)
            return Cells(x[known], target[known])

        train = cells(fold.train)
        forecasts = ridge(train, [chosen])

        def forecast(x: NDArray[np.float32], forecasts: regressions.Forecasts = forecasts) -> Array:
            return forecasts(x)[:, 0]

        sigma = float(np.sqrt(np.mean((train.y - forecast(train.x) - np.mean(train.y - forecast(train.x))) ** 2)))
        mu = forecast(scaler.transform(panel.features[fold.test.start : fold.test.stop]).reshape(-1, 4))
        expected = [math.erf(value / sigma / math.sqrt(2.0)) for value in mu]  # 2 Phi(z) - 1
        start = fold.test.start - FOLDS[0].test.start
        np.testing.assert_allclose(raw[start : start + len(fold.test)].ravel(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [RIDGE, pytest.param(TREES, marks=needs_trees)])
def test_a_planted_linear_truth_is_found(name: str) -> None:
    """Half of the variance of the return is in the first column; in noise there is nothing to be found."""
    planted, noise = records_of(market(signal=0.7))[name], records_of(market(signal=0.0))[name]
    assert sharpe(planted.gross(), periods_per_year=252.0) > 5.0
    assert abs(sharpe(noise.gross(), periods_per_year=252.0)) < 2.5


@needs_trees
def test_trees_see_what_is_not_linear() -> None:
    """y = |x|: of no use to a line."""
    draws = np.random.default_rng(2)
    x = draws.standard_normal((2, 600, 3)).astype(np.float32)
    x[draws.random(x.shape) < 0.05] = NAN
    y = np.abs(np.nan_to_num(x[:, :, 0], nan=0.0)) + 0.1 * draws.standard_normal((2, 600))
    train = Cells(x[0], y[0])
    grown, line = boosted_trees(train)(x[1])[:, -1], ridge(train)(x[1])[:, 0]
    assert np.var(y[1] - grown) < 0.2 * np.var(y[1]) < np.var(y[1] - line)


@needs_trees
def test_the_first_trees_of_many_are_those_of_few() -> None:
    """A column of forecasts is what LightGBM gives with so many rounds."""
    import lightgbm

    draws = np.random.default_rng(3)
    x, y = draws.standard_normal((300, 3)).astype(np.float32), draws.standard_normal(300)
    forecasts = boosted_trees(Cells(x, y))(x)
    for number, column in zip(regressions.N_TREES, forecasts.T, strict=True):
        parameters = dict(regressions.TREE_PARAMETERS)
        few = lightgbm.train(parameters, lightgbm.Dataset(x, y, params=parameters), number)
        np.testing.assert_allclose(column, few.predict(x), rtol=1e-12)


def test_trees_are_left_out_where_lightgbm_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    assert list(records_of(market())) == [LONG_ONLY, MOMENTUM, MACD, RIDGE]


@needs_trees
def test_trees_are_there_where_it_is_present_and_runs_repeat_exactly() -> None:
    first, second = records_of(market()), records_of(market())
    assert list(first) == [LONG_ONLY, MOMENTUM, MACD, RIDGE, TREES]
    for name, record in first.items():
        np.testing.assert_array_equal(record.raw_position, second[name].raw_position)


@pytest.fixture
def one_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is chosen by what folds have in common."""
    monkeypatch.setattr(regressions, "N_TREES", (40,))
    monkeypatch.setattr(baselines, "RIDGE_REGRESSION", Regression((1.0,), lambda train: ridge(train, [1.0])))
    monkeypatch.setattr(baselines, "TREE_REGRESSION", Regression((40.0,), boosted_trees))


@pytest.mark.usefixtures("one_strength")
def test_each_fold_reads_its_own_columns() -> None:
    """What a column holds matters to the fold that reads it alone."""
    panel = market()
    names = panel.feature_names
    other = panel.features.copy()
    other[:, :, 3] = -(other[:, :, 3] ** 3)
    changed = replace(panel, features=other)
    columns = [names[:3], (names[3], names[0])]
    before, after = (records_of(one, columns)[RIDGE].raw_position for one in (panel, changed))
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


NESTED = tuple(fold.validation.stop for fold in FOLDS)


@pytest.mark.parametrize("t", [250, 330, 380])
def test_no_position_sees_a_later_bar(t: int) -> None:
    """Every bar after t corrupted: no raw position and no holding up to t changes, in any baseline, where every fold
    chooses on its own past."""
    panel = market()
    before, after = (
        {name: found.record for name, found in baselines_of(one, chosen_before=NESTED).items()}
        for one in (panel, corrupted(panel, range(t + 1, N_BARS)))
    )
    assert before.keys() == after.keys()
    upto = t + 1 - FOLDS[0].test.start
    for name, record in before.items():
        for kind in ("raw_position", "position"):
            was, now = getattr(record, kind), getattr(after[name], kind)
            np.testing.assert_array_equal(was[:upto], now[:upto], err_msg=name)
        if name != LONG_ONLY:  # and the corruption is one that would be seen
            assert (np.nan_to_num(record.raw_position) != np.nan_to_num(after[name].raw_position)).any(), name


@pytest.mark.usefixtures("one_strength")
def test_a_fold_is_fitted_on_its_own_training_and_validation_rows_alone() -> None:
    """Features outside its blocks corrupted, the second fold forecasts the same; labels stay as they are."""
    panel = market()
    fold = FOLDS[1]
    used = {*fold.train, *fold.validation, *fold.test, *range(fold.test.stop, N_BARS)}
    others = [bar for bar in range(N_BARS) if bar not in used]
    changed = replace(panel, features=corrupted(panel, others).features)
    border = fold.test.start - FOLDS[0].test.start
    before, after = records_of(panel), records_of(changed)
    for name in before.keys() & {RIDGE, TREES}:
        was, now = before[name].raw_position, after[name].raw_position
        np.testing.assert_array_equal(was[border:], now[border:])
        assert (was[:border] != now[:border]).any()


def test_test_rows_standardise_and_fit_nothing() -> None:
    """One test bar corrupted: no other bar's forecast changes, of those whose label and volatility it is not."""
    panel = market()
    bar = 350
    features = corrupted(panel, [bar]).features
    before, after = records_of(panel), records_of(replace(panel, features=features))
    row = bar - FOLDS[0].test.start
    for name in before.keys() & {RIDGE, TREES}:
        same = (before[name].raw_position == after[name].raw_position).all(axis=1)
        assert np.flatnonzero(~same).tolist() == [row]


def test_nothing_is_chosen_by_a_bar_that_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bar of the holdout corrupted, penalties, numbers of trees and smoothings stay; development corrupted, they
    do not."""
    monkeypatch.setattr(position_lstm, "EPOCHS", 2)
    panel, lstm = market(), NetworkSettings(3, CPU)
    before = baselines_of(panel, lstm=lstm)
    after = baselines_of(corrupted(panel, range(N_DEVELOPMENT, N_BARS)), lstm=lstm)
    early = baselines_of(corrupted(panel, range(185, N_DEVELOPMENT)), lstm=lstm)
    assert before.keys() == after.keys() and LSTM in before

    def choices(found: dict[str, Baseline]) -> dict[str, tuple[tuple[float, ...], ...]]:
        return {name: (one.position_smooth, one.strength) for name, one in found.items()}

    assert choices(before) == choices(after)
    assert choices(before)[RIDGE] != choices(early)[RIDGE]
    # One choice for all folds, which is made before any of them is scored.
    assert all(len(set(part)) <= 1 for both in choices(before).values() for part in both)


def test_with_nested_selection_a_fold_chooses_on_its_own_past() -> None:
    """Every bar from the end of the first fold's validation block on corrupted: its own choices stay, those of the next
    fold move. The first has no record to choose a smoothing by, and has the configured one."""
    panel = market()
    before = baselines_of(panel, chosen_before=NESTED)
    after = baselines_of(corrupted(panel, range(NESTED[0], N_BARS)), chosen_before=NESTED)
    for name, one in before.items():
        assert one.position_smooth[0] == POSITIONS.position_smooth == after[name].position_smooth[0]
        assert one.strength[:1] == after[name].strength[:1]
    assert any(one.position_smooth[1] != after[name].position_smooth[1] for name, one in before.items())


def test_the_smoothing_is_that_of_the_highest_development_sharpe() -> None:
    """Each smoothing stitched anew and summed up bar by bar, over bars whose label ends before the holdout."""
    panel = market()
    for name, one in baselines_of(panel).items():
        sharpes = {}
        for smoothing in sorted({*SMOOTHINGS, POSITIONS.position_smooth}):
            forecasts = [
                RawForecast(fold, bars, one.record.raw_position[bars.start - 220 : bars.stop - 220])
                for fold, bars in zip(FOLDS, (FOLDS[0].test, range(320, N_BARS)), strict=True)
            ]
            record = stitching(panel, replace(POSITIONS, position_smooth=smoothing))(forecasts)
            net = [r for bar, r in zip(record.bars, record.net(), strict=True) if bar + 2 < N_DEVELOPMENT and r == r]
            if len(net) > 2 and np.std(net) > 0.0:
                sharpes[smoothing] = np.mean(net) / np.std(net, ddof=1)
        n_bars = len(net)
        assert n_bars >= 63 or name in (MOMENTUM, MACD), name  # which begin late
        expected = max(sharpes, key=lambda each: sharpes[each]) if n_bars >= 63 else POSITIONS.position_smooth
        assert one.position_smooth == (expected, expected), name


@pytest.mark.parametrize("n_bars", [62, 63])
def test_too_few_bars_choose_no_smoothing(n_bars: int) -> None:
    """Test bars 220 to 281 or 282 with a label that ends before bar 284 or 285."""
    panel = replace(market(), returns=small_panel(N_BARS, 2, 4).returns)
    chosen = baselines_of(panel, chosen_before=[220 + n_bars + TIMING.label_bars] * 2)
    others = [one.position_smooth for name, one in chosen.items() if set(one.position_smooth) != {0.46}]
    assert bool(others) == (n_bars == 63)


# ---- the model's own path


def test_raw_positions_equal_to_the_models_give_the_identical_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delay, volatility scaling, smoothing, costs and the last bars without a label are the model's."""
    panel = market()
    model = model_record(panel)
    raw = np.full_like(panel.returns, NAN)
    raw[model.bars] = model.raw_position
    monkeypatch.setattr(baselines, "macd", lambda returns: raw)
    monkeypatch.setattr(baselines, "SMOOTHINGS", ())
    record = records_of(panel)[MACD]
    assert np.array_equal(record.bars, model.bars)
    assert (record.symbols, record.timing) == (model.symbols, model.timing)
    for kind in ("times", "fold", "raw_position", "position", "segment"):
        np.testing.assert_array_equal(getattr(record, kind), getattr(model, kind), err_msg=kind)
    np.testing.assert_array_equal(record.net(), model.net())
    np.testing.assert_array_equal(record.gross(), model.gross())


def test_bars_without_a_label_are_forecast_too() -> None:
    panel = market()
    for name, record in records_of(panel).items():
        assert record.bars.tolist() == list(range(FOLDS[0].test.start, N_BARS))
        assert np.isfinite(record.position[-1]).all(), name
        assert np.isnan(record.net()[-TIMING.label_bars :]).all()
