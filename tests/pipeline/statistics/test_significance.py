"""Each figure against something that does not share its code: published examples, statsmodels, naive loops, simulation.

A comment above an assertion states the rule it checks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import approx_fprime
from statsmodels.stats.sandwich_covariance import S_hac_simple

from pipeline.statistics.significance import (
    admissible_shifts,
    best_of_epochs,
    deflated_sharpe_ratio,
    expected_maximum,
    mertens_standard_error,
    minimum_backtest_length,
    minimum_track_record_length,
    monte_carlo_p_value,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
    sequential_p_value,
    sharpe_difference,
    sharpe_standard_error,
)

Array = NDArray[np.float64]


def autoregression(n_bars: int, rho: float, seed: int, n_series: int = 1) -> Array:
    """(n_series, n_bars) AR(1) returns of mean 0.05 and variance 1, started in their stationary distribution."""
    shocks = np.random.default_rng(seed).standard_normal((n_series, n_bars))
    out = shocks.copy()
    for t in range(1, n_bars):
        out[:, t] = rho * out[:, t - 1] + math.sqrt(1 - rho**2) * shocks[:, t]
    return 0.05 + out


def fat_tails(n_bars: int, seed: int) -> Array:
    return 0.01 * (0.05 + np.random.default_rng(seed).standard_t(4, n_bars))


# ---- standard errors


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


def sharpe_of_moments(moments: Array) -> float:
    """Sharpe of E r, E r^2; of two series E a, E b, E a^2, E b^2 the difference."""
    half = len(moments) // 2
    sharpes = moments[:half] / np.sqrt(moments[half:] - moments[:half] ** 2)
    return float(sharpes[0] - sharpes[1:].sum())


def delta_method(series: list[Array], lags: int) -> float:
    """The HAC covariance of the moments by statsmodels, the gradient by finite differences."""
    columns = np.stack([*series, *(r**2 for r in series)], axis=1)
    mean = columns.mean(axis=0)
    covariance = S_hac_simple(columns - mean, nlags=lags) / len(columns) ** 2
    gradient = approx_fprime(mean, sharpe_of_moments, 1e-7)
    return float(np.sqrt(gradient @ covariance @ gradient))


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


# ---- PSR, DSR, MinTRL, MinBTL: the examples of the papers


def test_psr_example_of_bailey_and_lopez_de_prado_2012() -> None:
    # Two years of monthly returns, Sharpe 0.458 a month: PSR(0) 0.982 taken as normal, 0.913 with its moments.
    assert probabilistic_sharpe_ratio(0.458, n_bars=24) == pytest.approx(0.982, abs=5e-4)
    psr = probabilistic_sharpe_ratio(0.458, n_bars=24, skewness=-2.448, kurtosis=10.164)
    assert psr == pytest.approx(0.913, abs=5e-4)


def test_psr_is_one_half_at_the_benchmark() -> None:
    assert probabilistic_sharpe_ratio(0.1, n_bars=50, skewness=-1.0, kurtosis=6.0, benchmark=0.1) == 0.5


@pytest.mark.parametrize(
    ("skewness", "kurtosis", "n_trials", "dsr"),
    [(-3.0, 10.0, 100, 0.9004), (-3.0, 10.0, 46, 0.9505), (0.0, 3.0, 88, 0.9505)],
)
def test_dsr_example_of_bailey_and_lopez_de_prado_2014(
    skewness: float, kurtosis: float, n_trials: int, dsr: float
) -> None:
    # Sharpe 2.5 a year over 1,250 days of a 250-day year, trials' variance 1/2 a year: DSR 0.9004 after 100 trials;
    # 46 trials leave 0.95, and 88 would if returns were normal.
    result = deflated_sharpe_ratio(
        2.5 / math.sqrt(250),
        n_bars=1250,
        skewness=skewness,
        kurtosis=kurtosis,
        n_trials=n_trials,
        trial_variance=0.5 / 250,
    )
    assert result == pytest.approx(dsr, abs=1e-4)


def test_dsr_with_one_trial_is_the_psr_against_zero() -> None:
    moments: dict[str, Any] = {"n_bars": 100, "skewness": -0.5, "kurtosis": 5.0}
    dsr = deflated_sharpe_ratio(0.1, **moments, n_trials=1, trial_variance=0.3)
    assert dsr == probabilistic_sharpe_ratio(0.1, **moments)


def test_expected_maximum_of_the_papers_and_of_normal_order_statistics() -> None:
    assert expected_maximum(1) == 0.0
    # 100 trials, variance 1/2 a year, 250 days: 0.1132 a day (2014). 10 trials: 1.57 (Bailey, Borwein et al. 2014).
    assert expected_maximum(100, 0.5 / 250) == pytest.approx(0.1132, abs=5e-5)
    assert expected_maximum(10) == pytest.approx(1.57, abs=5e-3)
    draws = np.random.default_rng(8).standard_normal((20_000, 50)).max(axis=1)
    assert expected_maximum(50, 4.0) == pytest.approx(2 * draws.mean(), rel=0.03)


@pytest.mark.parametrize(("periods", "years"), [(252, 2.73), (52, 2.83), (12, 3.24)])
def test_minimum_track_record_length_examples(periods: int, years: float) -> None:
    # Annual Sharpe 2 against 1 at 95 %, normal returns seen daily, weekly and monthly: 2.73, 2.83 and 3.24 years.
    unit = 1 / math.sqrt(periods)
    assert minimum_track_record_length(2 * unit, benchmark=unit) / periods == pytest.approx(years, abs=5e-3)


def test_minimum_track_record_length_with_hedge_fund_moments() -> None:
    # The same, monthly, with skewness -0.72 and kurtosis 5.78: 4.99 years.
    unit = 1 / math.sqrt(12)
    bars = minimum_track_record_length(2 * unit, benchmark=unit, skewness=-0.72, kurtosis=5.78)
    assert bars / 12 == pytest.approx(4.99, abs=5e-3)
    # At exactly this length the PSR is the confidence asked for.
    moments: dict[str, Any] = {"n_bars": bars, "skewness": -0.72, "kurtosis": 5.78}
    assert probabilistic_sharpe_ratio(2 * unit, **moments, benchmark=unit) == pytest.approx(0.95, abs=1e-12)


def test_minimum_backtest_length_example() -> None:
    # Five years of data allow no more than 45 trials if a Sharpe of 1 is not to be expected by luck.
    assert minimum_backtest_length(45, 1.0) == pytest.approx(5.0, abs=5e-3)
    assert minimum_backtest_length(45, 2.0) == pytest.approx(minimum_backtest_length(45, 1.0) / 4)


# ---- the best of many epochs


def test_best_of_epochs_has_the_closed_forms() -> None:
    # One epoch: 0. Two, Student's t with 2 degrees: pi / (2 sqrt 2). Two, nearly normal: 1 / sqrt(pi).
    assert best_of_epochs(1, 21) == 0.0
    assert best_of_epochs(2, 3, periods_per_year=3) == pytest.approx(math.pi / (2 * math.sqrt(2)), rel=1e-6)
    assert best_of_epochs(2, 10**6, periods_per_year=10**6) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-5)


def test_best_of_80_epochs_on_21_bars() -> None:
    assert best_of_epochs(80, 21) == pytest.approx(9.28, abs=0.005)
    noise = np.random.default_rng(9).standard_normal((3000, 80, 21))
    best = (noise.mean(axis=2) / noise.std(axis=2, ddof=1)).max(axis=1) * math.sqrt(252)
    assert best_of_epochs(80, 21) == pytest.approx(best.mean(), abs=5 * best.std() / math.sqrt(3000))


@pytest.mark.parametrize(("n_epochs", "n_bars"), [(3, 3), (500, 5), (80, 21), (100_000, 63)])
def test_best_of_epochs_is_the_mean_quantile_of_the_maximum(n_epochs: int, n_bars: int) -> None:
    # E[max] = integral over u of F^-1(u^(1/E)), here by Gauss-Legendre in v with u = 1 - v^8, v^8 taming the tail.
    v, weight = np.polynomial.legendre.leggauss(400)
    v, weight = (v + 1) / 2, weight / 2
    quantiles = stats.t.isf(-np.expm1(np.log1p(-(v**8)) / n_epochs), n_bars - 1)
    expected = (weight * 8 * v**7 * quantiles).sum() * math.sqrt(252 / n_bars)
    assert best_of_epochs(n_epochs, n_bars) == pytest.approx(expected, rel=1e-3)


# ---- probability of backtest overfitting


def naive_logits(returns: Array, n_blocks: int) -> list[float]:
    blocks = np.array_split(np.arange(len(returns)), n_blocks)
    logits = []
    for chosen in itertools.combinations(range(n_blocks), n_blocks // 2):
        inside = np.concatenate([blocks[i] for i in chosen])
        outside = np.concatenate([blocks[i] for i in range(n_blocks) if i not in chosen])
        sharpes = [returns[half].mean(axis=0) / returns[half].std(axis=0, ddof=1) for half in (inside, outside)]
        rank = stats.rankdata(sharpes[1])[int(np.argmax(sharpes[0]))]
        omega = rank / (returns.shape[1] + 1)
        logits.append(math.log(omega / (1 - omega)))
    return logits


@pytest.mark.parametrize(("n_bars", "n_trials", "n_blocks"), [(96, 7, 8), (101, 4, 10), (30, 2, 2), (65, 12, 6)])
def test_pbo_is_brute_force_cscv(n_bars: int, n_trials: int, n_blocks: int) -> None:
    rng = np.random.default_rng(n_bars)
    returns = 5.0 + 0.01 * rng.standard_normal((n_bars, n_trials))  # a mean that dwarfs the deviation
    result = probability_of_backtest_overfitting(returns, n_blocks)
    expected = naive_logits(returns, n_blocks)
    assert result.n_combinations == math.comb(n_blocks, n_blocks // 2) == len(result.logits)
    np.testing.assert_allclose(result.logits, expected, atol=1e-12)
    assert result.pbo == np.mean(np.array(expected) <= 0)


def test_pbo_of_a_true_winner_is_0_and_of_pure_overfitting_1() -> None:
    noise = 0.1 * np.random.default_rng(10).standard_normal((80, 6))
    winner = noise + np.array([0, 0, 1.0, 0, 0, 0])
    assert probability_of_backtest_overfitting(winner, 8).pbo == 0.0
    # Two trials, each good exactly where the other is bad: whoever wins one half loses the other.
    seesaw = np.repeat([1.0, -1.0], 40)[:, None] * np.array([1.0, -1.0]) + noise[:, :2]
    assert probability_of_backtest_overfitting(seesaw, 2).pbo == 1.0


def test_pbo_treats_ties_alike_whatever_the_order_of_the_trials() -> None:
    base = np.random.default_rng(11).standard_normal((60, 5))
    twins = base[:, [0, 1, 2, 3, 4, 0, 0]]
    result = probability_of_backtest_overfitting(twins, 6)
    shuffled = probability_of_backtest_overfitting(twins[:, [5, 3, 0, 1, 6, 4, 2]], 6)
    np.testing.assert_array_equal(result.logits, shuffled.logits)
    np.testing.assert_allclose(result.logits, naive_logits(twins, 6), atol=1e-12)
    # All trials alike: each has the middle rank, logit 0, and that counts.
    alike = probability_of_backtest_overfitting(base[:, [0, 0, 0, 0]], 6)
    np.testing.assert_array_equal(alike.logits, np.zeros(20))
    assert alike.pbo == 1.0


def test_pbo_of_noise_is_about_one_half() -> None:
    rng = np.random.default_rng(12)
    pbo = [probability_of_backtest_overfitting(rng.standard_normal((60, 20)), 6).pbo for _ in range(300)]
    assert np.mean(pbo) == pytest.approx(0.5, abs=0.08)


# ---- paired difference


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


# ---- randomisation tests


@given(st.integers(1, 500).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))))
def test_monte_carlo_p_value_counts_the_observed_one(case: tuple[int, int]) -> None:
    b, m = case
    assert monte_carlo_p_value(b, m) == (b + 1) / (m + 1)


def test_sequential_p_value_examples() -> None:
    # Stopped at the h-th exceedance: h / draws. Not stopped: (b + 1) / (m + 1).
    stopped = sequential_p_value([False, True, False, True, True], 2, 19)
    assert (stopped.p_value, stopped.n_used) == (2 / 4, 4)
    full = sequential_p_value([False] * 18 + [True], 5, 19)
    assert (full.p_value, full.n_used) == (2 / 20, 19)
    # The h-th exceedance at the very last draw stops.
    last = sequential_p_value([False] * 18 + [True], 1, 19)
    assert (last.p_value, last.n_used) == (1 / 19, 19)


def test_sequential_p_value_draws_no_more_than_it_needs() -> None:
    drawn = []

    def draws() -> Iterator[bool]:
        for i in itertools.count():
            drawn.append(i)
            yield i % 3 == 2

    assert sequential_p_value(draws(), 2, 99).n_used == len(drawn) == 6
    drawn.clear()
    assert sequential_p_value(draws(), 99, 10).n_used == len(drawn) == 10


def test_sequential_p_value_keeps_its_level() -> None:
    # Under the null the observed value is one more draw: P(p <= alpha) <= alpha, with equality where p can be alpha.
    rng = np.random.default_rng(21)
    p = np.array([sequential_p_value(rng.random(39) >= rng.random(), 4, 39).p_value for _ in range(20_000)])
    for alpha in (0.025, 0.05, 0.1, 0.2, 0.5):
        assert np.mean(p <= alpha) == pytest.approx(alpha, abs=5 * math.sqrt(alpha / 20_000))


# ---- admissible shifts


@pytest.mark.parametrize(
    ("n_bars", "lookback", "window", "horizon", "expected"),
    [
        (1000, 252, 63, 2, range(316, 685)),
        (632, 252, 63, 2, range(316, 317)),
        (631, 252, 63, 2, range(0)),
        (100, 0, 1, 1, range(1, 100)),
        (10, 252, 63, 2, range(0)),
    ],
)
def test_admissible_shifts_table(n_bars: int, lookback: int, window: int, horizon: int, expected: range) -> None:
    shifts = admissible_shifts(n_bars, lookback=lookback, window=window, horizon=horizon)
    assert shifts == expected
    assert len(shifts) == len(expected)


@given(st.integers(1, 80), st.integers(1, 10), st.integers(1, 6), st.integers(1, 4))
def test_an_admissible_shift_hides_every_label_from_its_own_features(
    n_bars: int, lookback: int, window: int, horizon: int
) -> None:
    def meets(shift: int) -> bool:
        remembered = {-i % n_bars for i in range(window - 1 + lookback)}  # bars behind the features of decision bar 0
        return any((j - shift) % n_bars in remembered for j in range(1, horizon + 1))

    shifts = admissible_shifts(n_bars, lookback=lookback, window=window, horizon=horizon)
    assert not any(meets(shift) for shift in shifts)
    # One bar less would let them meet.
    assert not shifts or meets(shifts.start - 1)


# ---- refusals

GOOD = fat_tails(60, 22)
TRIALS = np.random.default_rng(23).standard_normal((40, 3))


def with_value(array: Array, value: float) -> Array:
    changed = array.copy()
    changed.flat[7] = value
    return changed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sharpe_standard_error([]), "at least 2 bars"),
        (lambda: sharpe_standard_error([0.1]), "at least 2 bars"),
        (lambda: sharpe_standard_error(TRIALS), "one dimension"),
        (lambda: sharpe_standard_error(np.full(50, 0.1)), "no variance"),
        (lambda: sharpe_standard_error(np.zeros(50)), "no variance"),
        (lambda: sharpe_standard_error(with_value(GOOD, math.nan)), "NaN"),
        (lambda: sharpe_standard_error(with_value(GOOD, math.inf)), "infinite"),
        (lambda: sharpe_standard_error(GOOD, method="lo"), "iid, mertens and hac"),  # type: ignore[arg-type]
        (lambda: sharpe_standard_error(GOOD, lags=60), r"0\.\.59"),
        (lambda: sharpe_standard_error(GOOD, lags=-1), r"0\.\.59"),
        (lambda: mertens_standard_error(0.1, 1, 0.0, 3.0), "n_bars is 1, the least is 2"),
        (lambda: mertens_standard_error(math.nan, 50, 0.0, 3.0), "sharpe is nan"),
        (lambda: mertens_standard_error(0.1, 50, 0.0, 0.2), "not excess"),
        (lambda: mertens_standard_error(1.0, 50, 2.0, 5.0), "zero"),
        (lambda: mertens_standard_error(0.1, math.nan, 0.0, 3.0), "n_bars is nan"),  # type: ignore[arg-type]
        (lambda: mertens_standard_error(0.1, 50, math.nan, 3.0), "skewness is nan"),
        (lambda: mertens_standard_error(0.1, 50, 0.0, math.nan), "kurtosis is nan"),
        (lambda: probabilistic_sharpe_ratio(0.1, n_bars=1), "n_bars"),
        (lambda: probabilistic_sharpe_ratio(math.nan, n_bars=50), "sharpe is nan"),
        (lambda: probabilistic_sharpe_ratio(0.1, n_bars=50, benchmark=math.nan), "benchmark is nan"),
        (lambda: probabilistic_sharpe_ratio(0.1, n_bars=50, skewness=math.inf), "skewness is inf"),
        (lambda: expected_maximum(0), "n_trials is 0"),
        (lambda: expected_maximum(5, -0.1), "variance is -0.1"),
        (lambda: expected_maximum(5, math.nan), "variance is nan"),
        (
            lambda: deflated_sharpe_ratio(0.1, n_bars=50, skewness=0, kurtosis=3, n_trials=0, trial_variance=1),
            "n_trials is 0",
        ),
        (
            lambda: deflated_sharpe_ratio(0.1, n_bars=50, skewness=0, kurtosis=3, n_trials=5, trial_variance=math.nan),
            "variance is nan",
        ),
        (
            lambda: deflated_sharpe_ratio(math.nan, n_bars=50, skewness=0, kurtosis=3, n_trials=5, trial_variance=1),
            "sharpe is nan",
        ),
        (
            lambda: deflated_sharpe_ratio(0.1, n_bars=1, skewness=0, kurtosis=3, n_trials=5, trial_variance=1),
            "n_bars is 1",
        ),
        (lambda: minimum_track_record_length(0.1, benchmark=math.nan), "benchmark is nan"),
        (lambda: minimum_track_record_length(0.1, confidence=0.5), "confidence is 0.5"),
        (lambda: minimum_track_record_length(0.1, confidence=math.nan), "confidence is nan"),
        (lambda: minimum_track_record_length(0.1, benchmark=0.1), "no record is long enough"),
        (lambda: minimum_track_record_length(0.1, confidence=1.0), "confidence is 1.0"),
        (lambda: minimum_track_record_length(math.nan), "sharpe is nan"),
        (lambda: minimum_backtest_length(0, 1.0), "n_trials is 0"),
        (lambda: minimum_backtest_length(5, 0.0), "must be positive"),
        (lambda: minimum_backtest_length(5, math.nan), "nan"),
        (lambda: best_of_epochs(0, 21), "n_epochs is 0"),
        (lambda: best_of_epochs(80, 2), "n_bars is 2, the least is 3"),
        (lambda: best_of_epochs(80, 21, math.nan), "periods_per_year is nan"),
        (lambda: best_of_epochs(80, 21, 0), "periods_per_year"),
        (lambda: probability_of_backtest_overfitting(TRIALS[:, :1], 4), "two trials"),
        (lambda: probability_of_backtest_overfitting(TRIALS[:, 0], 4), "two trials"),
        (lambda: probability_of_backtest_overfitting(TRIALS, 5), "even"),
        (lambda: probability_of_backtest_overfitting(TRIALS, 0), "even"),
        (lambda: probability_of_backtest_overfitting(TRIALS, 22), "from 2 to 20"),
        (lambda: probability_of_backtest_overfitting(TRIALS[:30], 16), "fewer blocks"),
        (lambda: probability_of_backtest_overfitting(with_value(TRIALS, math.nan), 4), "NaN"),
        (lambda: probability_of_backtest_overfitting(with_value(TRIALS, math.inf), 4), "infinite"),
        (lambda: probability_of_backtest_overfitting(TRIALS * [1, 0, 1], 4), "trial 1 has no variance"),
        (lambda: probability_of_backtest_overfitting(TRIALS * [1, 1, 0] + 0.1, 4), "trial 2 has no variance"),
        (lambda: sharpe_difference(GOOD, GOOD[:-1]), "same bars"),
        (lambda: sharpe_difference(GOOD, np.zeros(60)), "b have no variance"),
        (lambda: sharpe_difference(np.zeros(60), GOOD), "a have no variance"),
        (lambda: sharpe_difference(with_value(GOOD, math.nan), GOOD), "a hold NaN"),
        (lambda: sharpe_difference(GOOD, with_value(GOOD, math.inf)), "b hold NaN or infinite"),
        (lambda: sharpe_difference(TRIALS, TRIALS), "one dimension"),
        (lambda: sharpe_difference(GOOD, GOOD[::-1], lags=60), r"0\.\.59"),
        (lambda: sharpe_difference(GOOD, GOOD[::-1], block_length=31), r"1\.\.30"),
        (lambda: sharpe_difference(GOOD, GOOD[::-1], block_length=0), r"1\.\.30"),
        (lambda: sharpe_difference(GOOD, GOOD[::-1], n_bootstrap=18), "at least 19"),
        (lambda: sharpe_difference([1.0], [2.0]), "at least 2 bars"),
        (lambda: monte_carlo_p_value(0, 0), "n_draws is 0"),
        (lambda: monte_carlo_p_value(20, 19), r"0\.\.19"),
        (lambda: monte_carlo_p_value(-1, 19), r"0\.\.19"),
        (lambda: sequential_p_value([True], 0, 19), "h is 0"),
        (lambda: sequential_p_value([True], 1, 0), "m is 0"),
        (lambda: sequential_p_value([False] * 18, 1, 19), "after 18 of 19"),
        (lambda: sequential_p_value([], 1, 19), "after 0 of 19"),
        (lambda: admissible_shifts(0, lookback=1, window=1, horizon=1), "n_bars is 0"),
        (lambda: admissible_shifts(9, lookback=-1, window=1, horizon=1), "lookback is -1"),
        (lambda: admissible_shifts(9, lookback=1, window=0, horizon=1), "window is 0"),
        (lambda: admissible_shifts(9, lookback=1, window=1, horizon=0), "horizon is 0"),
    ],
)
def test_what_is_undefined_is_refused_by_a_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_returns_that_leave_no_sampling_error_are_refused() -> None:
    # Two-valued symmetric returns have fixed scores: a shift changes the Sharpe, and none of the errors.
    flips = np.tile([1.0, -1.0], 30)
    with pytest.raises(ValueError, match="zero to first order"):
        sharpe_difference(flips, flips + 0.1)
    # Two values whose skewness is 2 / Sharpe: what a bar adds to the mean it takes back through the deviation.
    jumps = np.where(np.arange(40) % 20 < 3, 1.0, 0.0)
    z = (jumps - jumps.mean()) / jumps.std()
    with pytest.raises(ValueError, match="zero to first order"):
        sharpe_standard_error(z + 2 / stats.skew(z))


def test_results_cannot_be_changed() -> None:
    for result, field in (
        (sequential_p_value([True], 1, 9), "p_value"),
        (sharpe_difference(GOOD, GOOD), "difference"),
        (probability_of_backtest_overfitting(TRIALS, 4), "pbo"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(result, field, 0.0)
