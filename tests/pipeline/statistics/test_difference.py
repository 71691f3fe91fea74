"""The paired Sharpe difference against the delta method and a naive bootstrap.

A comment above an assertion states the rule it checks.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import approx_fprime

from pipeline.statistics.significance import sharpe_difference
from tests.pipeline.statistics.series import autoregression, delta_method, fat_tails, sharpe_of_moments

Array = NDArray[np.float64]


@pytest.mark.parametrize("lags", [0, 3, 12])
def test_difference_and_its_error_are_the_delta_method_on_four_moments(lags: int) -> None:
    a, b = autoregression(300, 0.2, seed=13, n_series=2)
    b = 0.5 * a + b
    result = sharpe_difference(a, b, lags=lags, n_bootstrap=19)
    sharpes = [r.mean() / r.std(ddof=1) for r in (a, b)]
    assert result.difference == pytest.approx(sharpes[0] - sharpes[1], rel=1e-12)
    assert result.standard_error == pytest.approx(delta_method([a, b], lags), rel=1e-4)
    # Power: a true difference of 1.96 + 0.84 errors passes 1.96 errors in 80 % of samples.
    share_found = stats.norm.sf(1.959964 - result.detectable / result.standard_error)
    assert share_found == pytest.approx(0.8, abs=1e-4)


def naive_bootstrap(a: Array, b: Array, block: int, n_bootstrap: int, seed: int) -> Array:
    """Studentised circular block bootstrap in plain loops; error of a resample from the covariance of its blocks."""
    n, n_drawn = len(a), len(a) // block
    columns = np.stack([a, b, a**2, b**2], axis=1)
    centre = sharpe_of_moments(columns.mean(axis=0))
    deviations = []
    for starts in np.random.default_rng(seed).integers(n, size=(n_bootstrap, n_drawn)):
        rows = np.array([[(start + i) % n for i in range(block)] for start in starts])
        sample = columns[rows]  # (n_drawn, block, 4)
        mean = sample.mean(axis=(0, 1))
        zeta = (sample - mean).sum(axis=1) / math.sqrt(block)
        gradient = approx_fprime(mean, sharpe_of_moments, 1e-7)
        error = math.sqrt(gradient @ (zeta.T @ zeta / n_drawn) @ gradient / (n_drawn * block))
        deviations.append(abs(sharpe_of_moments(mean) - centre) / error)
    return np.array(deviations)


@pytest.mark.parametrize("block_length", [1, 7, 30])
def test_interval_and_p_value_are_those_of_a_naive_bootstrap(block_length: int) -> None:
    a, b = autoregression(140, 0.2, seed=14, n_series=2)
    a, b = a + 1.0, b + 0.8  # large Sharpes, so that the second moments matter
    result = sharpe_difference(a, b, block_length=block_length, n_bootstrap=399, seed=15)
    naive = naive_bootstrap(a, b, block_length, 399, seed=15)
    statistic = abs(result.difference) / result.standard_error
    assert result.p_value == (np.sum(naive >= statistic) + 1) / 400
    # The half-width is the 380th of 399 ordered deviations, times the error: 5 % of 400 lie at or beyond it.
    half_width = np.sort(naive)[379] * result.standard_error
    assert result.interval[0] == pytest.approx(result.difference - half_width, rel=1e-4)
    assert result.interval[1] == pytest.approx(result.difference + half_width, rel=1e-4)


def test_memory_chunks_do_not_change_the_resamples() -> None:
    a, b = autoregression(1200, 0.0, seed=24, n_series=2)
    whole, chunked = (sharpe_difference(a, b, block_length=n, n_bootstrap=999) for n in (3, 1))
    assert whole.p_value == pytest.approx(chunked.p_value, abs=0.06)


def test_p_value_and_interval_agree_about_zero() -> None:
    # p <= 0.05 exactly when 0 is not inside the 95 % interval, whatever the size of the difference.
    a, b = autoregression(150, 0.1, seed=16, n_series=2)
    verdicts = set()
    for gain in np.linspace(0.0, 0.5, 26):
        result = sharpe_difference(a + gain, b, n_bootstrap=199)
        outside = not result.interval[0] <= 0.0 <= result.interval[1]
        assert outside == (result.p_value <= 0.05)
        verdicts.add(outside)
    assert verdicts == {True, False}


def test_difference_changes_only_its_sign_when_the_two_are_exchanged_and_is_reproducible() -> None:
    a, b = autoregression(120, 0.1, seed=17, n_series=2)
    one, two = sharpe_difference(a, b, n_bootstrap=499), sharpe_difference(b, a, n_bootstrap=499)
    assert one.difference == -two.difference
    assert one.standard_error == two.standard_error
    assert one.p_value == two.p_value
    assert one == sharpe_difference(a, b, n_bootstrap=499)
    assert one.interval != sharpe_difference(a, b, n_bootstrap=499, seed=1).interval


def test_identical_series_differ_by_nothing() -> None:
    a = fat_tails(100, 18)
    for b in (a, 2.5 * a):
        result = sharpe_difference(a, b)
        assert (result.difference, result.standard_error, result.detectable) == (0.0, 0.0, 0.0)
        assert (result.p_value, result.interval) == (1.0, (0.0, 0.0))


def test_difference_has_its_size() -> None:
    # 400 samples without a difference: 5 % of p-values are at most 0.05, give or take three standard errors.
    pairs = autoregression(126, 0.2, seed=19, n_series=800).reshape(400, 2, 126)
    p = np.array([sharpe_difference(a, b, n_bootstrap=199).p_value for a, b in pairs])
    assert 0.015 <= np.mean(p <= 0.05) <= 0.09
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_resamples_without_variance_are_not_lost() -> None:
    # One trade in 40 bars: a third of the resamples miss it, so that no 95 % interval exists.
    sparse = np.zeros(40)
    sparse[17] = 1.0
    with pytest.raises(ValueError, match="more bars"):
        sharpe_difference(sparse, fat_tails(40, 20))
