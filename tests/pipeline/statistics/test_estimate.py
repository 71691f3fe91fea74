"""Estimates of a series beside statsmodels' errors and the project's own Sharpe."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from pipeline.statistics.estimate import mean_error, sharpe_estimate, sum_estimate
from pipeline.statistics.standard_errors import automatic_lags, sharpe_standard_error
from tft.metrics import sharpe


def series(n: int, seed: int = 0) -> np.ndarray:
    """Autocorrelated, with a mean."""
    e = np.random.default_rng(seed).standard_normal(n + 1)
    return 0.01 * (0.1 + e[1:] + 0.5 * e[:-1])


def test_the_error_of_a_mean_is_statsmodels_hac_error() -> None:
    x = series(300)
    lags = automatic_lags(x - x.mean())
    assert lags > 0
    fit = sm.OLS(x, np.ones(300)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    assert mean_error(x) == pytest.approx(float(fit.bse[0]), rel=1e-9)
    total = sum_estimate(x)
    assert total.value == pytest.approx(x.sum()) and total.standard_error == pytest.approx(300 * float(fit.bse[0]))


def test_there_is_no_error_for_few_bars_or_for_what_never_moves() -> None:
    assert mean_error(series(62)) is None and mean_error(np.full(100, 0.3)) is None
    assert sum_estimate(series(10)).standard_error is None


def test_a_sharpe_comes_with_its_error_or_not_at_all() -> None:
    x = series(100)
    found = sharpe_estimate(x, periods_per_year=252.0)
    assert found is not None and found.standard_error is not None
    assert found.value == pytest.approx(sharpe(x, periods_per_year=252.0))
    assert found.standard_error == pytest.approx(sharpe_standard_error(x) * np.sqrt(252.0))
    assert sharpe_estimate(x[:62], periods_per_year=252.0) is None
    assert sharpe_estimate(np.zeros(100), periods_per_year=252.0) is None
    two_values = np.tile([1.5, 0.5, 0.5, 0.5], 25)  # to first order their Sharpe has no error
    assert sharpe_estimate(two_values, periods_per_year=252.0) is None
