"""Standard errors of a Sharpe against the noncentral t, the delta method and statsmodels.

A comment above an assertion states the rule it checks.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics.significance import mertens_standard_error, sharpe_standard_error
from tests.pipeline.statistics.series import autoregression, delta_method, fat_tails

Array = NDArray[np.float64]


def test_iid_standard_error_is_lo_2002() -> None:
    r = fat_tails(300, 0)
    sharpe = r.mean() / r.std(ddof=1)
    assert sharpe_standard_error(r, method="iid") == pytest.approx(math.sqrt((1 + sharpe**2 / 2) / 300), rel=1e-12)
    # About 1 / sqrt(years) annualised, and not Sharpe / sqrt(n).
    years = autoregression(252 * 4, 0.0, seed=1)[0]
    assert sharpe_standard_error(years, method="iid") * math.sqrt(252) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(("sharpe", "n_bars"), [(0.0, 252), (0.1, 252), (0.5, 1000), (1.5, 1000)])
def test_iid_standard_error_is_the_deviation_of_a_noncentral_t(sharpe: float, n_bars: int) -> None:
    # Of normal returns, SR sqrt(n) has a noncentral t distribution (Johnson & Welch 1940): its exact deviation is Lo's
    # asymptotic one, but for terms of order 1/n.
    r = np.random.default_rng(25).standard_normal(n_bars)
    r = (r - r.mean()) / r.std(ddof=1) + sharpe
    exact = stats.nct(n_bars - 1, sharpe * math.sqrt(n_bars)).std() / math.sqrt(n_bars)
    assert sharpe_standard_error(r, method="iid") == pytest.approx(exact, rel=5 / n_bars)


def test_mertens_standard_error_uses_population_moments_and_kurtosis_that_is_not_excess() -> None:
    r = fat_tails(300, 2)
    sharpe, g3, g4 = r.mean() / r.std(ddof=1), stats.skew(r), stats.kurtosis(r, fisher=False)
    expected = math.sqrt((1 - g3 * sharpe + (g4 - 1) / 4 * sharpe**2) / 299)
    assert sharpe_standard_error(r, method="mertens") == pytest.approx(expected, rel=1e-12)
    assert mertens_standard_error(sharpe, 300, g3, g4) == pytest.approx(expected, rel=1e-12)
    # With normal moments it is Lo's, but for n - 1.
    assert mertens_standard_error(0.1, 101, 0.0, 3.0) == pytest.approx(math.sqrt(1.005 / 100), rel=1e-12)


@pytest.mark.parametrize("lags", [0, 1, 5, 20])
def test_hac_standard_error_is_the_delta_method_on_the_moments(lags: int) -> None:
    for r in (fat_tails(400, 3) * 100, autoregression(400, 0.3, seed=4)[0]):
        assert sharpe_standard_error(r, lags=lags) == pytest.approx(delta_method([r], lags), rel=1e-4)
    # Without lags it is Mertens' error, but for n - 1 and ddof.
    r = fat_tails(400, 3)
    assert sharpe_standard_error(r, lags=0) == pytest.approx(sharpe_standard_error(r, method="mertens"), rel=5e-3)


def test_automatic_lags_follow_the_autocorrelation() -> None:
    # The long-run standard deviation of an AR(1) mean is sqrt((1 + rho) / (1 - rho)) times the naive one.
    for rho in (0.0, 0.3, 0.6, -0.3):
        r = autoregression(20_000, rho, seed=5)[0]
        ratio = sharpe_standard_error(r) / sharpe_standard_error(r, method="iid")
        assert ratio == pytest.approx(math.sqrt((1 + rho) / (1 - rho)), rel=0.06)


@pytest.mark.parametrize(
    ("n_bars", "rho", "least", "most"), [(20_000, 0.5, 36, 39), (20_000, 0.0, 0, 5), (80, 0.999, 10, 10)]
)
def test_automatic_lags_are_those_of_andrews_1991(n_bars: int, rho: float, least: int, most: int) -> None:
    # 1.1447 (4 rho^2 / (1 - rho^2)^2 T)^(1/3): 37.6 for rho 0.5 and 20,000 bars; never more than T / 8.
    r = autoregression(n_bars, rho, seed=5)[0]
    r -= r.mean() - 0.001
    automatic = sharpe_standard_error(r)
    assert automatic in [sharpe_standard_error(r, lags=lags) for lags in range(least, most + 1)]


def test_standard_errors_do_not_depend_on_the_scale() -> None:
    r = fat_tails(200, 6)
    for method in ("iid", "mertens", "hac"):
        assert sharpe_standard_error(r, method=method) == pytest.approx(sharpe_standard_error(1e-6 * r, method=method))


def test_hac_interval_covers_where_the_iid_interval_does_not() -> None:
    series = autoregression(252, 0.3, seed=7, n_series=600)
    misses = np.abs(series.mean(axis=1) / series.std(axis=1, ddof=1) - 0.05)
    iid = np.mean(misses <= [1.96 * sharpe_standard_error(r, method="iid") for r in series])
    hac = np.mean(misses <= [1.96 * sharpe_standard_error(r) for r in series])
    assert 0.89 < hac < 0.98
    assert iid < 0.89
