"""Drift and skill beside statsmodels' regression, literal portfolios and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from statsmodels.regression.linear_model import OLS

from pipeline.statistics.drift import NO_ACTIVE_RETURN, Drift, drift_of, seed_skills, skill_inference
from pipeline.statistics.sharpe import deflated_sharpe_ratio, expected_maximum
from pipeline.statistics.standard_errors import automatic_lags, per_bar_sharpe
from tests.pipeline.statistics.series import autoregression
from tft.folds import Fold
from tft.market import Market
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.record import RawForecast, Record, stitch
from tft.volatility import Timing

Array = NDArray[np.float64]
POSITIONS = PositionsConfig(max_position=0.5, position_smooth=0.6, cost_bps=2.0)


def market(n_bars: int = 500, *, n_assets: int = 3, seed: int = 0, drift: float = 0.0006) -> Market:
    """Correlated returns with a drift; one instrument begins late and does not trade on every bar."""
    rng = np.random.default_rng(seed)
    returns = drift + 0.01 * (rng.standard_normal((n_bars, 1)) + rng.standard_normal((n_bars, n_assets)))
    if n_assets > 1:
        returns[:60, 0] = np.nan
        returns[200:203, 0] = np.nan
    times = np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D")
    features = rng.standard_normal((n_bars, n_assets, 1)).astype(np.float32)
    symbols = tuple("ABCDEFGH"[:n_assets])
    panel = Panel(times=times, symbols=symbols, feature_names=("x",), features=features, returns=returns)
    return Market(panel, Timing(), torch.device("cpu"))


def record(of: Market, raw: Array, first: int = 100) -> Record:
    """The record of raw positions (n, A) decided from bar `first` on; the holdout begins at bar 200."""
    bars = range(first, first + len(raw))
    fold = Fold(0, range(50), range(50, 100), bars)
    return stitch([RawForecast(fold, bars, raw)], of.panel, of.sigma, POSITIONS, of.timing, n_development=200)


def series(n_bars: int = 400, seed: int = 1) -> Drift:
    market, tilt, noise = autoregression(n_bars, 0.2, seed, 3) * 0.01
    tilt = 0.5 * market + tilt
    return Drift(0.0004 + 0.7 * market - 0.2 * tilt + noise, market, tilt, varies=True)


def test_alpha_and_beta_are_those_of_a_regression_with_hac_errors() -> None:
    drift = series()
    found = skill_inference(drift, periods_per_year=252)
    x = np.column_stack([np.ones(400), drift.market, drift.tilt])
    plain = OLS(drift.net, x).fit()
    influence = plain.resid[:, None] * (x @ np.linalg.inv(x.T @ x / 400))
    errors = [
        OLS(drift.net, x)
        .fit(cov_type="HAC", cov_kwds={"maxlags": automatic_lags(influence[:, i]), "use_correction": True})
        .bse[i]
        for i in (0, 1)
    ]
    assert found.alpha_annual == pytest.approx(252 * plain.params[0], rel=1e-9)
    assert found.alpha_annual_se == pytest.approx(252 * errors[0], rel=1e-9)
    assert found.beta == pytest.approx(plain.params[1], rel=1e-9)
    assert found.beta_se == pytest.approx(errors[1], rel=1e-9)
    sd = drift.net.std(ddof=1)
    assert found.skill == pytest.approx(plain.params[0] / sd * math.sqrt(252), rel=1e-9)
    assert found.skill_se == pytest.approx(errors[0] / sd * math.sqrt(252), rel=1e-9)
    residual_sd = math.sqrt(plain.ssr / (400 - 3))
    neutral = found.neutral
    assert neutral.sharpe == pytest.approx(plain.params[0] / residual_sd * math.sqrt(252), rel=1e-9)
    # One statistic in three units.
    t = plain.params[0] / errors[0]
    assert neutral.sharpe is not None and neutral.standard_error is not None
    assert neutral.sharpe / neutral.standard_error == pytest.approx(t, rel=1e-9)
    assert neutral.p_value == pytest.approx(OLS(drift.net, x).fit().t_test(np.eye(3)[0]).dist.sf(t, 397), rel=1e-6)


def test_skill_and_drift_add_up_to_what_was_earned() -> None:
    drift = series()
    found = skill_inference(drift, periods_per_year=252)
    assert found.skill is not None and found.drift is not None
    assert found.sharpe == pytest.approx(per_bar_sharpe(drift.net) * math.sqrt(252))
    assert found.skill + found.drift == pytest.approx(found.sharpe)


def test_deflation_is_by_the_neutral_sharpe() -> None:
    drift = series()
    found = skill_inference(drift, periods_per_year=252, n_trials=7, trial_variance=0.002).neutral
    benchmark = expected_maximum(7, 0.002)
    assert found.benchmark == pytest.approx(benchmark * math.sqrt(252))
    assert found.n_trials == 7 and found.sharpe_per_bar is not None and found.p_value_deflated is not None
    assert found.p_value is not None and found.p_value_deflated > found.p_value
    x = np.column_stack([np.ones(400), drift.market, drift.tilt])
    fit = OLS(drift.net, x).fit()
    left = fit.params[0] + fit.resid
    z = (left - left.mean()) / left.std()
    assert found.dsr == pytest.approx(
        deflated_sharpe_ratio(
            found.sharpe_per_bar,
            n_bars=400,
            skewness=float((z**3).mean()),
            kurtosis=float((z**4).mean()),
            n_trials=7,
            trial_variance=0.002,
        )
    )


def test_seeds_are_part_of_the_error() -> None:
    """SE^2 = HAC^2 + v / K, degrees of freedom by Satterthwaite; with one seed nothing is known of their spread."""
    alone = skill_inference(series(), periods_per_year=252)
    one = skill_inference(series(), periods_per_year=252, seed_skills=[1.0])
    assert (one, one.seed_sd) == (alone, None)
    skills = [0.2, 1.0, -0.5, 1.5]
    found = skill_inference(series(), periods_per_year=252, seed_skills=skills)
    v, hac = float(np.var(skills, ddof=1)), alone.skill_se
    assert hac is not None and found.hac_se == hac and found.n_seeds == 4
    assert found.seed_sd == pytest.approx(math.sqrt(v))
    assert found.skill == alone.skill
    assert found.skill_se == pytest.approx(math.sqrt(hac**2 + v / 4))
    freedom = (hac**2 + v / 4) ** 2 / (hac**4 / 397 + (v / 4) ** 2 / 3)
    assert found.degrees_of_freedom == pytest.approx(freedom)
    assert found.neutral.p_value is not None and alone.neutral.p_value is not None
    assert abs(found.neutral.p_value - 0.5) < abs(alone.neutral.p_value - 0.5)


def test_the_market_and_the_tilt_by_hand() -> None:
    """A loop over bars and instruments: long only has vol_target / sigma_t of each, the tilt its mean position."""
    of = market()
    raw = np.random.default_rng(3).uniform(-1.0, 1.0, (390, 3))
    own = record(of, raw)
    drift = drift_of(own, of, POSITIONS, "holdout")
    judged = range(200, 490)
    exposure = np.full((500, 3), np.nan)
    smoothed, scale = [0.0] * 3, [math.nan] * 3
    held_scale = np.full((500, 3), np.nan)
    for t in range(100, 490):
        for a in range(3):
            sigma = of.sigma[t, a]
            if np.isfinite(of.panel.returns[t, a]) and np.isfinite(sigma):
                smoothed[a] = 0.6 * smoothed[a] + 0.4 * float(np.clip(raw[t - 100, a], -0.5, 0.5))
                scale[a] = min(0.15 / (sigma * math.sqrt(252)), 4.0)
            exposure[t, a], held_scale[t, a] = smoothed[a], scale[a]
    exposure[~np.isfinite(held_scale)] = np.nan
    mean = [np.nanmean([exposure[t, a] for t in judged]) for a in range(3)]
    for row, t in enumerate(judged):
        legs = [held_scale[t, a] * np.nan_to_num(of.panel.returns[t + 2, a]) for a in range(3)]
        assert drift.market[row] == pytest.approx(np.mean(legs), rel=1e-9)
        assert drift.tilt[row] == pytest.approx(np.mean(np.multiply(legs, mean)), rel=1e-9)
    assert drift.varies and np.array_equal(drift.net, own.net()[100:])


@pytest.mark.parametrize("raw", [(1.0, 1.0, 1.0), (0.3, 0.0, -0.2)], ids=["long only", "static tilt"])
def test_exposure_that_does_not_vary_has_no_active_return(raw: tuple[float, float, float]) -> None:
    of = market(drift=0.002)
    own = record(of, np.tile(raw, (390, 1)))
    found = skill_inference(drift_of(own, of, POSITIONS, "holdout"), periods_per_year=252)
    assert found.neutral.undefined == NO_ACTIVE_RETURN
    assert (found.neutral.p_value, found.neutral.p_value_deflated) == (1.0, 1.0)
    assert found.skill == 0.0 and found.drift == found.sharpe


@pytest.mark.parametrize("size", [1e-5, 1e-3])
def test_what_rounding_and_costs_leave_of_a_static_position_is_no_active_return(size: float) -> None:
    of = market(drift=0.002)
    raw = 0.3 + size * np.random.default_rng(3).standard_normal((390, 3))
    found = skill_inference(drift_of(record(of, raw), of, POSITIONS, "holdout"), periods_per_year=252)
    assert found.neutral.undefined == NO_ACTIVE_RETURN and found.neutral.p_value == 1.0


def test_without_a_market_that_moves_the_tilts_coefficient_is_not_taken_for_beta() -> None:
    drift = series()
    still = Drift(drift.net, np.full(400, 0.001), drift.tilt, True)
    found = skill_inference(still, periods_per_year=252)
    plain = OLS(drift.net, np.column_stack([np.ones(400), drift.tilt])).fit()
    assert (found.beta, found.beta_se, found.beta_p_value) == (None, None, None)
    assert found.alpha_annual == pytest.approx(252 * plain.params[0], rel=1e-9)


def test_a_tilt_that_wobbles_is_still_drift() -> None:
    """A large static tilt in instruments that drift apart, and random timing around it: the timing alone is judged."""
    of = market(1200, n_assets=8, drift=0.001)
    rng = np.random.default_rng(5)
    raw = np.linspace(-0.4, 0.4, 8) + 0.05 * rng.standard_normal((1090, 8))
    found = skill_inference(drift_of(record(of, raw), of, POSITIONS, "holdout"), periods_per_year=252)
    assert found.neutral.p_value is not None and 0.02 < found.neutral.p_value < 0.98
    assert found.skill is not None and found.sharpe is not None and abs(found.skill) < 0.5


def test_timing_is_skill() -> None:
    """Long where the return to come is up: the sign of what is not known beforehand, whatever the market did."""
    of = market()
    held = np.nan_to_num(of.panel.returns[102:492])
    found = skill_inference(
        drift_of(record(of, 0.2 + 0.3 * np.sign(held)), of, POSITIONS, "holdout"), periods_per_year=252
    )
    assert found.neutral.p_value is not None and found.neutral.p_value < 1e-6


def test_the_tilt_of_a_single_instrument_is_the_market() -> None:
    of = market(n_assets=1)
    raw = np.random.default_rng(3).uniform(-0.5, 1.0, (390, 1))
    drift = drift_of(record(of, raw), of, POSITIONS, "holdout")
    found = skill_inference(drift, periods_per_year=252)
    known = np.isfinite(drift.net)
    plain = OLS(drift.net[known], np.column_stack([np.ones(known.sum()), drift.market[known]])).fit()
    assert found.alpha_annual == pytest.approx(252 * plain.params[0], rel=1e-9)
    assert found.degrees_of_freedom == known.sum() - 2


def test_a_benchmark_takes_the_place_of_long_only() -> None:
    """Its return is that of the bar in which the position is held, two bars after the decision."""
    of = market()
    own = record(of, np.random.default_rng(3).uniform(-1.0, 1.0, (390, 3)))
    benchmark = np.random.default_rng(4).standard_normal(500)
    drift = drift_of(own, of, POSITIONS, "holdout", benchmark)
    assert drift.market.tolist() == benchmark[202:492].tolist()
    assert np.array_equal(drift.tilt, drift_of(own, of, POSITIONS, "holdout").tilt, equal_nan=True)


def test_the_last_bars_have_no_return_and_are_not_judged() -> None:
    of = market()
    own = record(of, np.random.default_rng(3).uniform(-1.0, 1.0, (400, 3)))
    drift = drift_of(own, of, POSITIONS, "holdout")
    assert len(drift.net) == 300 and np.isnan(drift.net[-2:]).all() and np.isnan(drift.market[-2:]).all()
    assert skill_inference(drift, periods_per_year=252).neutral.n_bars == 298


@pytest.mark.parametrize(
    ("n_bars", "scale", "said"),
    [(9, 1.0, "9 bars have a known return"), (62, 1.0, "62 bars are too few"), (300, 0.0, "the positions stayed flat")],
)
def test_what_cannot_be_judged_says_why(n_bars: int, scale: float, said: str) -> None:
    drift = series(n_bars)
    found = skill_inference(Drift(scale * drift.net, drift.market, drift.tilt, True), periods_per_year=252)
    assert said in found.neutral.undefined
    assert found.skill is None and found.neutral.p_value is None


def test_each_seed_is_judged_beside_its_own_mean_positions() -> None:
    of = market()
    rng = np.random.default_rng(3)
    records = [record(of, rng.uniform(-1.0, 1.0, (390, 3))) for _ in range(3)]
    assert seed_skills(records, of, POSITIONS, "holdout") == tuple(
        skill_inference(drift_of(one, of, POSITIONS, "holdout"), periods_per_year=252).skill for one in records
    )
    assert seed_skills([records[0], record(of, np.zeros((390, 3)))], of, POSITIONS, "holdout")[1] == 0.0
