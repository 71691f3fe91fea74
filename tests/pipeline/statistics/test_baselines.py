"""Simple rules against values worked by hand, loops, and closed forms; and the model against them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline.reporting import luck_figures as luck_plots
from pipeline.statistics import baselines
from pipeline.statistics.baseline_comparison import BaselineRow, against
from pipeline.statistics.baselines import (
    LONG_ONLY,
    MACD,
    MOMENTUM,
    RIDGE,
    TREES,
    Cells,
    macd,
    metrics,
    ridge,
    run_baselines,
    time_series_momentum,
    verdict,
)
from pipeline.statistics.significance import sharpe_difference
from tests.conftest import small_panel
from tests.pipeline.reporting.test_figures import drawn
from tft.folds import Fold
from tft.metrics import max_drawdown, sharpe
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
    """Of a model that guesses."""
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
    raw[model.bars.start : model.bars.stop] = model.raw_position
    monkeypatch.setattr(baselines, "macd", lambda returns: raw)
    record = run(panel)[MACD]
    assert (record.bars, record.symbols, record.timing) == (model.bars, model.symbols, model.timing)
    for kind in ("times", "fold", "raw_position", "position", "segment"):
        np.testing.assert_array_equal(getattr(record, kind), getattr(model, kind), err_msg=kind)
    np.testing.assert_array_equal(record.net(), model.net())
    np.testing.assert_array_equal(record.gross(), model.gross())


def test_bars_without_a_label_are_forecast_too() -> None:
    panel = market()
    for name, record in run(panel).items():
        assert record.bars == range(FOLDS[0].test.start, N_BARS)
        assert np.isfinite(record.position[-1]).all(), name
        assert np.isnan(record.net()[-TIMING.label_bars :]).all()


# ---- the model against them


def test_a_row_is_the_paired_difference_made_annual() -> None:
    panel = market()
    model, records = model_record(panel), run(panel)
    rows = against(model, records, "holdout")
    assert [row.baseline for row in rows] == list(records)
    for row, record in zip(rows, records.values(), strict=True):
        common = (model.segment == "holdout") & np.isfinite(model.net()) & np.isfinite(record.net())
        mine, theirs = model.net()[common], record.net()[common]
        expected = sharpe_difference(mine, theirs)
        assert row.segment == "holdout"
        assert row.n_bars == common.sum() >= 63
        assert row.difference_annual == pytest.approx(expected.difference * math.sqrt(252.0), rel=1e-12)
        assert row.difference_se_annual == pytest.approx(expected.standard_error * math.sqrt(252.0), rel=1e-12)
        assert row.interval_low_annual == pytest.approx(expected.interval[0] * math.sqrt(252.0), rel=1e-12)
        assert row.interval_high_annual == pytest.approx(expected.interval[1] * math.sqrt(252.0), rel=1e-12)
        assert row.detectable_annual == pytest.approx(expected.detectable * math.sqrt(252.0), rel=1e-12)
        assert row.p_value == expected.p_value
        assert row.sharpe_annual == pytest.approx(theirs.mean() / theirs.std(ddof=1) * math.sqrt(252.0))
        assert row.model_sharpe_annual == pytest.approx(mine.mean() / mine.std(ddof=1) * math.sqrt(252.0))
        assert row.max_drawdown == max_drawdown(theirs)
        assert row.turnover_annual == pytest.approx(float(np.nanmean(record.earned.change[common])) * 252.0)
        assert row.sharpe_gross_annual == pytest.approx(sharpe(record.gross()[common], periods_per_year=252.0))
        assert row.remark == ""


def test_a_baseline_that_begins_later_is_compared_where_both_are_known() -> None:
    """MACD begins at bar 313, three bars into the holdout: the model's Sharpe is that of the same bars."""
    panel = market()
    model = model_record(panel)
    long_only, trend = against(model, {name: run(panel)[name] for name in (LONG_ONLY, MACD)}, "holdout")
    assert (long_only.n_bars, trend.n_bars) == (108, 105)
    assert trend.model_sharpe_annual == pytest.approx(
        sharpe(model.net()[model.segment == "holdout"][3:], periods_per_year=252.0)
    )
    assert trend.model_sharpe_annual != long_only.model_sharpe_annual


def figures_of(row: BaselineRow) -> list[float | None]:
    return [value for name, value in vars(row).items() if name not in ("baseline", "segment", "n_bars", "remark")]


def test_what_cannot_be_inferred_is_none_and_said() -> None:
    """Fewer than 63 bars, fewer than 10, none at all; a series that does not move; the model itself."""
    panel = market()
    model = model_record(panel)
    flat = stitching(panel)([RawForecast(FOLDS[0], model.bars, np.zeros_like(model.raw_position))])

    def held_from(bar: int) -> Record:
        raw = np.where(np.arange(len(model.bars))[:, None] + model.bars.start < bar, NAN, model.raw_position)
        return stitching(panel)([RawForecast(FOLDS[0], model.bars, raw)])

    records = {
        "short": held_from(N_BARS - 40),
        "shorter": held_from(N_BARS - 8),
        "never": held_from(N_BARS),
        "flat": flat,
        "itself": model,
    }
    short, shorter, never, still, itself = against(model, records, "holdout")
    assert short.n_bars == 38
    assert short.sharpe_annual is not None and short.difference_annual is not None
    assert short.interval_low_annual is short.p_value is short.difference_se_annual is short.detectable_annual is None
    assert "38 common bars" in short.remark and "63" in short.remark
    assert shorter.n_bars == 6 and set(figures_of(shorter)) == {None} and "10 are the least" in shorter.remark
    assert never.n_bars == 0 and set(figures_of(never)) == {None} and "no position" in never.remark
    assert still.sharpe_annual == 0.0 and still.difference_annual == still.model_sharpe_annual
    assert still.p_value is None and "of the baseline is the same on every bar" in still.remark
    assert (itself.difference_annual, itself.p_value, itself.remark) == (0.0, 1.0, "")
    both_flat = against(flat, {"flat": flat}, "holdout")[0]
    assert "of the model and of the baseline" in both_flat.remark


def test_returns_of_few_values_end_in_a_remark() -> None:
    """Both in the market on two bars of the holdout, not the same ones: most resamples hold none of them."""
    panel = market(n_assets=1)
    bars = range(FOLDS[0].test.start, N_BARS)

    def on(*rows: int) -> Record:
        raw = np.zeros((len(bars), 1))
        raw[list(rows)] = 1.0
        return stitching(panel, PositionsConfig(position_smooth=0.0))([RawForecast(FOLDS[0], bars, raw)])

    (row,) = against(on(150, 151), {"other": on(120, 121)}, "holdout")
    assert row.difference_annual is not None and row.interval_low_annual is None and row.p_value is None
    assert row.remark.startswith("No inference: ") and row.remark.endswith(".")


def row(name: str, *, low: float | None, difference: float = 0.0, high: float | None = None) -> BaselineRow:
    return BaselineRow(
        name, "holdout", 100, 0.5, 0.6, 7.0, -0.1, 0.5 + difference, difference, 0.4, low, high, 0.5, 1.0, ""
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], ""),
        ([row("A", low=None)], "The model could not be compared with any simple rule."),
        (
            [row("A", low=0.1, difference=1.0, high=2.0), row("B", low=0.2, difference=1.0, high=2.0)],
            "The model beats every simple rule beyond chance: A and B.",
        ),
        (
            [row("A", low=0.1, difference=1.0, high=2.0), row("B", low=-0.2, difference=1.0, high=2.0)],
            "The model does not beat B beyond chance.",
        ),
        (
            [row(name, low=-1.0, difference=d, high=1.0) for name, d in (("A", 0.1), ("B", 0.0), ("C", -0.2))],
            "The model does not beat any simple rule beyond chance; at least as well did B (Sharpe 0.50) and C (Sharpe "
            "0.50).",
        ),
        (
            [row("A", low=0.0, difference=0.5, high=1.0), row("B", low=-2.0, difference=-1.0, high=-0.1)],
            "The model does not beat any simple rule beyond chance, and is worse beyond chance than B (Sharpe 0.50).",
        ),
    ],
)
def test_the_verdict_says_what_was_not_beaten(rows: list[BaselineRow], expected: str) -> None:
    assert verdict(rows) == expected


def test_metrics_are_named_after_the_baselines() -> None:
    rows = [replace(row(MOMENTUM, low=0.1, difference=0.25, high=2.0), sharpe_annual=None)]
    assert metrics(rows) == {
        "baseline_time_series_momentum_sharpe": None,
        "baseline_time_series_momentum_difference": 0.25,
        "baseline_time_series_momentum_p_value": 0.5,
    }


# ---- the figure


def test_the_figure_shows_every_record_and_every_difference() -> None:
    panel = market()
    model, records = model_record(panel), run(panel)
    rows = against(model, records, "holdout")
    figure = luck_plots.baselines(model, records, rows)
    above, below = figure.axes
    lines = {str(line.get_label()): np.asarray(line.get_ydata(), dtype=np.float64) for line in above.lines}
    # The model's curve ends where its compounded net return does.
    net = model.net()
    assert lines["model"][-1] == pytest.approx(np.prod(1.0 + net[np.isfinite(net)]) - 1.0)
    assert lines.keys() >= records.keys()
    # A curve begins with its first known return.
    assert np.isnan(lines[MACD]).sum() == (~np.isfinite(records[MACD].net())).sum() - TIMING.label_bars
    points = [np.asarray(line.get_xdata(), dtype=np.float64)[0] for line in below.lines if line.get_marker() == "o"]
    assert points == [row.difference_annual for row in rows]
    text = drawn(figure)
    for row in rows:
        assert row.baseline in text and f"p = {row.p_value:.3f}" in text
    assert "holdout" in text


def test_the_figure_survives_what_is_missing() -> None:
    """No row, rows without figures, a record without a known bar."""
    panel = market()
    model, records = model_record(panel), run(panel)
    assert len(luck_plots.baselines(model, records, ()).axes) == 1
    nothing = replace(
        records[MACD], earned=replace(records[MACD].earned, net=np.full_like(panel.returns[model.bars.start :], NAN))
    )
    rows = against(model, {MACD: nothing}, "holdout")
    text = drawn(luck_plots.baselines(model, {MACD: nothing}, rows))
    assert "n/a" in text and text.count(MACD) == 1  # a name beside the missing difference, and no line
    assert "no bar with a known return" in drawn(luck_plots.baselines(nothing, {}, ()))
