"""Information coefficients of forecasts that know a certain lag, beside scipy's correlations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from pipeline.statistics.information_coefficient import MAX_LAG_BARS, correlation, information_coefficients
from pipeline.statistics.standard_errors import automatic_lags
from tests.pipeline.statistics.records import random_record
from tft.record import Record
from tft.volatility import ewm_volatility


def knowing(lag: int, strength: float = 0.5) -> tuple[Record, np.ndarray, np.ndarray]:
    """A record whose raw positions know something of the return `lag` bars later, the returns and their volatility."""
    record, returns = random_record(500, 3, n_holdout=250, missing=0.0)
    later = np.zeros_like(record.position)
    later[:-lag] = returns[50 + lag :] / 0.01
    noise = np.random.default_rng(1).standard_normal(later.shape)
    raw = strength * later + np.sqrt(1.0 - strength**2) * noise
    return replace(record, raw_position=raw), returns, ewm_volatility(returns)


@pytest.mark.parametrize("lag", [1, 2, 7])
def test_the_lag_that_is_known_stands_out(lag: int) -> None:
    rows = information_coefficients(*knowing(lag), "holdout")
    assert [row.lag_bars for row in rows] == list(range(1, MAX_LAG_BARS + 1))
    assert [row.lag_bars for row in rows if row.traded] == [2], "a position is held over the second bar after its own"
    for row in rows:
        for one in (row.ic, row.rank_ic):
            assert one is not None and one.t is not None
            assert (one.value > 0.3 and one.t > 5.0) if row.lag_bars == lag else abs(one.t) < 4.0


def test_they_are_scipys_correlations_of_the_cells_collected_by_a_loop() -> None:
    record, returns, sigma = knowing(2)
    returns[300, 1] = np.nan
    record.raw_position[5, 0] = np.nan
    for segment, last in (("development", 298 + 1), ("holdout", 549)):
        for row in information_coefficients(record, returns, sigma, segment):
            pairs = [
                (record.raw_position[i, a], returns[50 + i + row.lag_bars, a] / sigma[50 + i, a])
                for i in range(500)
                for a in range(3)
                if record.segment[i] == segment and 50 + i + row.lag_bars <= last
            ]
            x, y = np.array([pair for pair in pairs if np.isfinite(pair).all()]).T
            assert row.n_cells == len(x) and row.ic is not None and row.rank_ic is not None
            assert row.ic.value == pytest.approx(stats.pearsonr(x, y).statistic)
            assert row.rank_ic.value == pytest.approx(stats.spearmanr(x, y).statistic)


def test_development_reads_no_return_of_the_holdout() -> None:
    record, returns, sigma = knowing(2)
    corrupt = returns.copy()
    corrupt[300:] = 7.0  # the holdout begins with bar 300
    assert information_coefficients(record, corrupt, sigma, "development") == information_coefficients(
        record, returns, sigma, "development"
    )


def test_the_error_is_that_of_a_regression_on_standardised_values_clustered_by_bar() -> None:
    """With a correlation near 0 its influence is z_x z_y, the score of that regression; statsmodels adds scores up by
    bar and then over lags."""
    rng = np.random.default_rng(3)
    n_bars, n_assets = 300, 4
    x, y = rng.standard_normal((n_bars, 1)), rng.standard_normal((n_bars, 1))
    x, y = x + rng.standard_normal((n_bars, n_assets)), y + rng.standard_normal((n_bars, n_assets))
    y -= x * float((x * y).sum() / (x * x).sum())
    bar = np.repeat(np.arange(n_bars), n_assets)
    z_x, z_y = stats.zscore(x.ravel()), stats.zscore(y.ravel())
    found = correlation(x.ravel(), y.ravel(), bar)
    assert found is not None and found.standard_error is not None and abs(found.value) < 0.01
    sums = np.bincount(bar, z_x * z_y)
    model = sm.OLS(z_y, z_x).fit()
    lags = automatic_lags(sums - sums.mean())
    robust = model.get_robustcov_results(
        "nw-groupsum", time=bar, maxlags=lags, use_correction=False, df_correction=False
    )
    assert found.standard_error == pytest.approx(float(robust.bse[0]), rel=0.02)
    independent = 1.0 / np.sqrt(n_bars * n_assets)
    assert found.standard_error > 1.3 * independent, "instruments of a bar move together"


def test_a_short_segment_has_rows_without_figures_and_an_empty_one_has_none() -> None:
    record, returns, sigma = knowing(2)
    short = replace(record, segment=np.where(np.arange(500) < 60, "development", "holdout"))
    assert all(row.ic is None for row in information_coefficients(short, returns, sigma, "development"))
    silent = replace(record, raw_position=np.full_like(record.raw_position, np.nan))
    assert information_coefficients(silent, returns, sigma, "holdout") == ()
