"""One Sharpe and its benchmarks against the examples of the papers, direct calls and simulation.

A comment above an assertion states the rule it checks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics import significance
from pipeline.statistics.sharpe import detectable_sharpe, sharpe_inference
from pipeline.statistics.significance import (
    deflated_sharpe_ratio,
    expected_maximum,
    minimum_backtest_length,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
)
from tests.pipeline.statistics.series import noise, with_sharpe

Array = NDArray[np.float64]


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


# ---- everything about one Sharpe


def test_every_figure_is_the_one_of_significance() -> None:
    """Annual ones by sqrt(252), on the known bars alone."""
    r = with_sharpe(0.1, 300)
    one = sharpe_inference(
        np.concatenate([r, [np.nan, np.nan]]), periods_per_year=252, n_trials=7, trial_variance=0.002
    )
    skewness, kurtosis = float(stats.skew(r)), float(stats.kurtosis(r, fisher=False))
    moments = {"skewness": skewness, "kurtosis": kurtosis}
    error, annual = significance.sharpe_standard_error(r), math.sqrt(252)
    benchmark = significance.expected_maximum(7, 0.002)
    expected = {
        "n_bars": 300,
        "years": 300 / 252,
        "sharpe": 0.1 * annual,
        "sharpe_per_bar": 0.1,
        "detectable_sharpe": 2.4865 * math.sqrt(252 / 300),
        "n_trials": 7,
        "standard_error": error * annual,
        "low": (0.1 - 1.959964 * error) * annual,
        "high": (0.1 + 1.959964 * error) * annual,
        "p_value": stats.norm.sf(0.1 / error),
        "benchmark": benchmark * annual,
        "p_value_deflated": stats.norm.sf((0.1 - benchmark) / error),
        "psr": significance.probabilistic_sharpe_ratio(0.1, n_bars=300, **moments),
        "dsr": significance.deflated_sharpe_ratio(0.1, n_bars=300, n_trials=7, trial_variance=0.002, **moments),
        "min_trl_bars": significance.minimum_track_record_length(0.1, **moments),
    }
    assert {name: getattr(one, name) for name in expected} == pytest.approx(expected, rel=1e-4)
    assert one.undefined == ""


def test_one_configuration_is_not_deflated() -> None:
    one = sharpe_inference(with_sharpe(0.1, 300), periods_per_year=252)
    assert one.benchmark == 0.0
    assert one.p_value_deflated == one.p_value
    assert one.dsr == one.psr


def test_without_a_variance_of_trials_it_is_the_squared_standard_error() -> None:
    r = with_sharpe(0.1, 300)
    error = significance.sharpe_standard_error(r)
    given = sharpe_inference(r, periods_per_year=252, n_trials=3, trial_variance=error**2)
    assert sharpe_inference(r, periods_per_year=252, n_trials=3) == given


def test_sixteen_years_of_a_sharpe_of_0_41() -> None:
    """(1.645 / 0.41)^2 = 16.1 years of daily bars, to which a Sharpe near zero adds next to nothing."""
    one = sharpe_inference(with_sharpe(0.41 / math.sqrt(252), 290), periods_per_year=252)
    assert one.min_trl_bars is not None
    assert one.min_trl_bars / 252 == pytest.approx(16.1, abs=0.3)


@pytest.mark.parametrize("n_trials", [1, 4])
@pytest.mark.parametrize("autocorrelation", [0.0, 0.6])
def test_bars_needed_exceed_the_sample_exactly_where_the_verdict_is_luck(n_trials: int, autocorrelation: float) -> None:
    """Whatever the autocorrelation, which the minimum track record length of independent returns does not see."""
    shocks = noise(250, seed=3)
    r = np.array([shocks[: i + 1] @ autocorrelation ** np.arange(i, -1.0, -1.0) for i in range(250)])
    r = (r - r.mean()) / r.std(ddof=1)
    answers = set()
    for per_bar in np.linspace(0.02, 0.6, 30):
        one = sharpe_inference(r + per_bar, periods_per_year=252, n_trials=n_trials)
        assert one.p_value_deflated is not None and one.bars_needed is not None
        assert (one.bars_needed > 250) == (one.p_value_deflated > 0.05)
        answers.add(one.bars_needed > 250)
    assert answers == {True, False}


def test_for_independent_returns_bars_needed_are_the_minimum_track_record_length() -> None:
    one = sharpe_inference(with_sharpe(0.05, 5000), periods_per_year=252)
    assert one.bars_needed == pytest.approx(one.min_trl_bars, rel=0.1)


@pytest.mark.parametrize(
    ("returns", "has_sharpe", "reason"),
    [
        (noise(9), False, "9 bars have a known return"),
        (np.zeros(300), False, "stayed flat"),
        (noise(62), True, "62 bars are too few for any inference, 63 are needed"),
        (np.tile([0.0375, *[0.01 / 2.4] * 9], 40), True, "standard error is zero"),  # SR = 2 / skewness, two values
        (noise(63), True, ""),
    ],
)
def test_what_is_undefined_says_why_and_gives_no_number(returns: Array, has_sharpe: bool, reason: str) -> None:
    one = sharpe_inference(returns, periods_per_year=252)
    assert (one.sharpe is not None) == has_sharpe
    assert reason in one.undefined
    assert (one.undefined == "") == (one.standard_error is not None) == (one.p_value_deflated is not None)


@pytest.mark.parametrize(("n_bars", "sharpe"), [(154, 3.18), (252, 2.49), (1008, 1.243)])
def test_the_smallest_detectable_sharpe(n_bars: int, sharpe: float) -> None:
    assert detectable_sharpe(n_bars, 252) == pytest.approx(sharpe, abs=0.005)


def test_a_true_sharpe_of_the_detectable_size_is_found_four_times_in_five() -> None:
    """400 samples of 504 bars: within three binomial errors of 80 %."""
    size = detectable_sharpe(504, 252)
    assert size is not None
    samples = np.random.default_rng(1).standard_normal((400, 504)) + size / math.sqrt(252)
    p_values = [sharpe_inference(r, periods_per_year=252).p_value for r in samples]
    assert sum(p is not None and p < 0.05 for p in p_values) / 400 == pytest.approx(0.8, abs=0.06)


def test_nothing_is_detectable_without_bars() -> None:
    assert detectable_sharpe(0, 252) is None
