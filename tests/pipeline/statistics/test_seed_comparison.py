"""Two arms over several seeds: against scipy where bars add nothing, plain loops, and its size by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics.difference import sharpe_difference
from pipeline.statistics.seed_comparison import SeedDifference, sampling_variances, seed_difference, welch

Array = NDArray[np.float64]


def arms(rng: np.random.Generator, n_seeds: int, n_bars: int, *, scatter: float, gain: float = 0.0) -> Array:
    """Returns (2, K, T): a market that all seeds share, each seed's own noise, and its own true annual Sharpe."""
    market, own = rng.standard_normal((1, 1, n_bars)), rng.standard_normal((2, n_seeds, n_bars))
    annual = 0.5 + scatter * rng.standard_normal((2, n_seeds, 1)) + np.array([0.0, gain])[:, None, None]
    return np.sqrt(0.4) * market + np.sqrt(0.6) * own + annual / math.sqrt(252)


def compared(baseline: Array, candidate: Array, **more: int) -> SeedDifference:
    return seed_difference(baseline, candidate, periods_per_year=252, **more)


# ---- against others


def test_where_bars_add_nothing_it_is_welchs_test() -> None:
    """Returns of m + 1 and m - 1 in turn have no sampling error of their Sharpe to first order but what all share."""
    rng, turns = np.random.default_rng(0), np.tile([1.0, -1.0], 100)
    baseline = turns + rng.normal(0.05, 0.02, (6, 1))
    candidate = turns + rng.normal(0.09, 0.05, (9, 1))
    found = compared(baseline, candidate)
    of_seeds = [arm.mean(axis=1) / arm.std(axis=1, ddof=1) * math.sqrt(252) for arm in (baseline, candidate)]
    expected = stats.ttest_ind(of_seeds[1], of_seeds[0], equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.degrees_of_freedom == pytest.approx(expected.df, rel=1e-9)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert found.sampling_error == pytest.approx(0.0, abs=1e-9)
    assert found.seed_error == pytest.approx(found.standard_error)


def test_welch_of_means_is_scipys_and_what_is_shared_is_added_without_uncertainty() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(5), rng.standard_normal(8)
    expected = stats.ttest_ind(b, a, equal_var=False)
    variance, freedom = welch(a, b, shared=0.0)
    assert (b.mean() - a.mean()) / math.sqrt(variance) == pytest.approx(expected.statistic, rel=1e-12)
    assert freedom == pytest.approx(expected.df, rel=1e-12)
    more, larger = welch(a, b, shared=3.0)
    assert more == pytest.approx(variance + 3.0, rel=1e-12)
    assert larger == pytest.approx(freedom * (more / variance) ** 2, rel=1e-12)
    assert welch(np.ones(5), np.ones(5), shared=1.0) == (1.0, math.inf)


@pytest.mark.parametrize("n_seeds", [(5, 5), (6, 3)])
def test_the_sampling_variances_are_those_of_plain_loops(n_seeds: tuple[int, int]) -> None:
    """Bartlett sums bar by bar: of the mean paired scores, less each arm's scores around its mean."""
    rng, lags = np.random.default_rng(2), 3
    a, b = (rng.standard_normal((k, 80)).cumsum(axis=0) for k in n_seeds)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)

    def long_run(series: list[float]) -> float:
        total = 0.0
        for s in range(80):
            for t in range(80):
                total += max(0.0, 1.0 - abs(s - t) / (lags + 1)) * series[s] * series[t]
        return total / 80**2

    def means(arm: Array) -> list[float]:
        return [sum(arm[k, t] for k in range(len(arm))) / len(arm) for t in range(80)]

    paired = long_run([y - x for x, y in zip(means(a), means(b), strict=True)])
    shared = paired
    for arm in (a, b):
        mean = means(arm)
        own = sum(long_run([arm[k, t] - mean[t] for t in range(80)]) for k in range(len(arm))) / (len(arm) - 1)
        shared -= own / len(arm)
    assert sampling_variances(a, b, lags) == pytest.approx((paired, max(shared, 0.0)), rel=1e-9)


def test_with_one_seed_an_arm_the_error_is_that_of_the_paired_bars() -> None:
    """Ledoit & Wolf's, as two single series have it."""
    rng = np.random.default_rng(3)
    one, other = rng.standard_normal((2, 1, 300)) + 0.05
    found = compared(one, other)
    expected = sharpe_difference(other[0], one[0], n_bootstrap=19)
    assert found.difference == pytest.approx(expected.difference * math.sqrt(252), rel=1e-12)
    assert found.standard_error == pytest.approx(expected.standard_error * math.sqrt(252), rel=1e-12)
    assert found.seed_error is None and found.p_value is None


# ---- size and power


def rejections(n_samples: int, n_seeds: int, scatter: float, gain: float = 0.0) -> tuple[float, float]:
    """Share of p <= 0.05 of the comparison over seeds, and of |z| > 1.96 by two single runs and their paired bars."""
    rng = np.random.default_rng(11)
    over_seeds, by_two = [], []
    for _ in range(n_samples):
        a, b = arms(rng, n_seeds, 252, scatter=scatter, gain=gain)
        p_value = compared(a, b).p_value
        assert p_value is not None
        over_seeds.append(p_value <= 0.05)
        two = compared(a[:1], b[:1])
        assert two.standard_error is not None
        by_two.append(abs(two.difference) > 1.96 * two.standard_error)
    return float(np.mean(over_seeds)), float(np.mean(by_two))


@pytest.mark.parametrize(("scatter", "fewest_by_two"), [(0.5, 0.07), (1.0, 0.16), (1.5, 0.27)])
def test_equal_recipes_are_told_apart_in_one_of_twenty_however_seeds_scatter(
    scatter: float, fewest_by_two: float
) -> None:
    """800 samples: 0.035 to 0.065, with two standard errors (0.015) on either side. Two runs and their bars alone,
    which is what such a comparison must not be made of, reject 10, 22 and 35 %."""
    over_seeds, by_two = rejections(800, 5, scatter)
    assert 0.035 - 0.015 <= over_seeds <= 0.065 + 0.015
    assert by_two > fewest_by_two


def test_without_scatter_it_is_no_larger_and_a_large_difference_is_found() -> None:
    assert rejections(400, 5, 0.0)[0] <= 0.05 + 0.022
    assert rejections(200, 5, 0.5, gain=3.0)[0] > 0.9


def test_what_all_seeds_share_is_not_averaged_away() -> None:
    """Seeds that are the same but for a ripple differ from another arm by the sampling error of one of them."""
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(500) + 0.001 * rng.standard_normal((7, 500)) for _ in range(2))
    found, single = compared(a, b, lags=2), compared(a[:1], b[:1], lags=2)
    assert found.standard_error == pytest.approx(single.standard_error, rel=0.01)
    assert found.degrees_of_freedom is not None and found.degrees_of_freedom > 1e6


# ---- what cannot be said


@pytest.mark.parametrize(("baseline", "candidate"), [(1, 1), (4, 4), (5, 4), (2, 9)])
def test_fewer_than_five_seeds_of_an_arm_give_no_p(baseline: int, candidate: int) -> None:
    a, b = arms(np.random.default_rng(6), 9, 252, scatter=1.0)
    found = compared(a[:baseline], b[:candidate])
    assert found.p_value is None and found.interval is None and found.detectable is None
    assert found.undefined == "a p-value needs 5 seeds an arm, since seeds alone move a Sharpe"
    assert found.standard_error is not None and found.n_seeds == (baseline, candidate)
    assert compared(a[:5], b[:5]).p_value is not None


def test_few_bars_and_series_that_never_move_give_no_inference() -> None:
    a, b = arms(np.random.default_rng(7), 5, 63, scatter=0.0)
    assert compared(a, b).undefined == ""
    short = compared(a[:, :62], b[:, :62])
    assert short.standard_error is None and short.undefined == "62 bars allow no inference, 63 do"
    b[3] = 0.0
    still = compared(a, b)
    assert still.undefined == "the returns of a seed of the candidate never move" and still.p_value is None
    assert still.sharpes[1][3] == 0.0


def test_one_series_twice_is_no_difference() -> None:
    series = np.tile(np.random.default_rng(8).standard_normal(100), (5, 1))
    found = compared(series, series)
    assert found.difference == 0.0 and found.standard_error == pytest.approx(0.0, abs=1e-9)
    assert found.p_value is None and found.undefined == "neither bars nor seeds tell the arms apart"


def test_other_bars_and_missing_returns_are_refused() -> None:
    a, b = arms(np.random.default_rng(9), 5, 100, scatter=0.0)
    with pytest.raises(ValueError, match="the baseline has 100 bars and the candidate 99"):
        compared(a, b[:, 1:])
    b[2, 7] = np.nan
    with pytest.raises(ValueError, match="a return is missing or infinite"):
        compared(a, b)


def test_interval_and_detectable_are_those_of_students_t() -> None:
    found = compared(*arms(np.random.default_rng(10), 6, 252, scatter=1.0))
    assert found.degrees_of_freedom is not None and found.standard_error is not None
    assert found.interval is not None and found.p_value is not None
    t = stats.t(found.degrees_of_freedom)
    half = t.ppf(0.975) * found.standard_error
    assert found.interval == pytest.approx((found.difference - half, found.difference + half), rel=1e-9)
    assert found.detectable == pytest.approx(half + t.ppf(0.8) * found.standard_error, rel=1e-9)
    assert found.p_value == pytest.approx(2.0 * t.sf(abs(found.difference) / found.standard_error), rel=1e-9)
    assert (found.p_value <= 0.05) == (not found.interval[0] < 0.0 < found.interval[1])
    assert found.sampling_error is not None and found.seed_error is not None
    assert found.sampling_error**2 + found.seed_error**2 == pytest.approx(found.standard_error**2, rel=1e-9)
