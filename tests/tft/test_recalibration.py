"""How far a forecast distribution is believed, against simulated forecasters and plain least squares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student_t
from sklearn.linear_model import Ridge

from tft.head import QUANTILE_LEVELS
from tft.recalibration import INTERQUARTILE, SPREADS, centre_and_spread, recalibration


def equicorrelated(rng: np.random.Generator, n_bars: int, n_assets: int, correlation: float) -> np.ndarray:
    own = rng.standard_normal((n_bars, n_assets)) * np.sqrt(1.0 - correlation)
    return own + np.sqrt(correlation) * rng.standard_normal((n_bars, 1))


def test_the_slope_is_that_of_ridge_regression_towards_one() -> None:
    """(y - centre) / spread on centre / spread with a penalty of 4, missing labels left out, by scikit-learn."""
    rng = np.random.default_rng(1)
    n, assets = 200, 4
    mu, sigma = 0.3 * rng.standard_normal((n, assets)), rng.uniform(0.8, 1.2, (n, assets))
    y = 0.5 * mu + sigma * equicorrelated(rng, n, assets, 0.6)
    y[rng.random(y.shape) < 0.1] = np.nan
    slope, _ = recalibration(np.stack([mu, sigma], axis=-1), y, y)
    known = np.isfinite(y)
    x = (mu / sigma)[known][:, None]
    fitted = Ridge(alpha=4.0, fit_intercept=False).fit(x, ((y - mu) / sigma)[known])
    assert slope == pytest.approx(1.0 + fitted.coef_[0], rel=1e-9)
    assert 0.2 < slope < 0.8


def test_a_block_of_two_bars_says_next_to_nothing() -> None:
    rng = np.random.default_rng(6)
    mu = 0.1 * rng.standard_normal((2, 3))
    y = -5.0 * mu
    assert recalibration(np.stack([mu, np.ones_like(mu)], axis=-1), y, y)[0] > 0.8


@pytest.mark.parametrize(("truth", "expected"), [(-1.0, 0.0), (2.0, 1.0)])
def test_the_slope_lies_between_nothing_and_the_forecast(truth: float, expected: float) -> None:
    rng = np.random.default_rng(2)
    mu = 0.5 * rng.standard_normal((400, 3))
    y = truth * mu + rng.standard_normal(mu.shape)
    slope, _ = recalibration(np.stack([mu, np.ones_like(mu)], axis=-1), y, y)
    assert slope == expected


def test_the_spread_is_that_of_the_labels_less_what_is_explained() -> None:
    """Explained and unexplained variance add up to the mean square of all labels of the past."""
    rng = np.random.default_rng(3)
    mu, sigma = 0.4 * rng.standard_normal((300, 2)), np.full((300, 2), 0.7)
    y = mu + 1.1 * rng.standard_normal(mu.shape)
    past = np.concatenate([1.1 * rng.standard_normal((900, 2)), y])
    slope, spread = recalibration(np.stack([mu, sigma], axis=-1), y, past)
    assert (spread * 0.7) ** 2 + slope**2 * (mu**2).mean() == pytest.approx((past**2).mean(), rel=1e-9)


def test_a_forecaster_who_knows_the_distribution_is_left_alone() -> None:
    rng = np.random.default_rng(4)
    mu = 0.3 * rng.standard_normal((20_000, 3))
    y = mu + equicorrelated(rng, len(mu), 3, 0.5)
    slope, spread = recalibration(np.stack([mu, np.ones_like(mu)], axis=-1), y, y)
    assert slope == pytest.approx(1.0, abs=0.03)
    assert spread == pytest.approx(1.0, abs=0.02)


def test_quantiles_have_the_median_for_centre_and_the_interquartile_range_for_spread() -> None:
    """Of a normal distribution these are its mean and standard deviation."""
    z = np.array([-1.644854, -1.281552, -0.674490, 0.0, 0.674490, 1.281552, 1.644854])  # of a table
    assert len(z) == len(QUANTILE_LEVELS)
    centre, spread = centre_and_spread((0.2 + 1.5 * z)[None, None])
    assert (centre.item(), spread.item()) == (pytest.approx(0.2), pytest.approx(1.5, rel=1e-5))
    assert pytest.approx(2 * 0.674490, rel=1e-5) == INTERQUARTILE


def test_quantiles_of_fat_tails_are_left_alone_where_they_are_right() -> None:
    """Student-t labels with three degrees of freedom and their own quantiles, by SciPy."""
    rng = np.random.default_rng(7)
    y = rng.standard_t(3.0, (20_000, 2))
    own = np.broadcast_to(student_t(3.0).ppf(QUANTILE_LEVELS), (*y.shape, len(QUANTILE_LEVELS)))
    _, spread = recalibration(own, y, y)
    assert spread == pytest.approx(1.0, abs=0.02)


def test_without_a_label_or_a_forecast_nothing_is_changed() -> None:
    nothing = np.full((5, 2), np.nan)
    assert recalibration(np.full((5, 2, 2), np.nan), nothing, nothing) == (1.0, 1.0)


def test_the_spread_is_changed_by_no_more_than_a_factor_of_two() -> None:
    rng = np.random.default_rng(5)
    y = 10.0 * rng.standard_normal((100, 2))
    one = np.stack([np.zeros_like(y), np.ones_like(y)], axis=-1)
    assert recalibration(one, y, y)[1] == SPREADS[1]
    assert recalibration(one, 0.01 * y, 0.01 * y)[1] == SPREADS[0]
