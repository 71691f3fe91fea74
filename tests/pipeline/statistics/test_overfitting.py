"""The probability of backtest overfitting against brute force, and its range on noise.

A comment above an assertion states the rule it checks.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics import significance
from pipeline.statistics.overfitting import Trials, overfitting
from pipeline.statistics.significance import probability_of_backtest_overfitting
from tests.pipeline.statistics.series import noise, with_sharpe

Array = NDArray[np.float64]


# ---- cross-validation


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


# ---- the search


def test_the_trials_variance_is_that_of_their_sharpes_at_the_length_asked_for() -> None:
    """Per-bar Sharpes 0, 0.1 and 0.2 over 100 bars: variance 0.01, a quarter of it over 400; a flat trial has none."""
    columns = [with_sharpe(sharpe, 100, seed=i) for i, sharpe in enumerate((0.0, 0.1, 0.2))]
    trials = Trials(np.stack([*columns, np.zeros(100)], axis=1), best=2, n_started=9)
    assert trials.variance(100) == pytest.approx(0.01)
    assert trials.variance(400) == pytest.approx(0.0025)
    assert Trials(np.stack(columns[:1], axis=1), 0, 9).variance(100) is None


@pytest.mark.parametrize(
    ("n_bars", "n_trials", "n_blocks"), [(100, 10, 10), (99, 12, 8), (40, 10, 4), (3000, 11, 10), (126, 15, 10)]
)
def test_pbo_uses_blocks_of_ten_bars_or_more(n_bars: int, n_trials: int, n_blocks: int) -> None:
    r = noise(n_bars, n_trials)
    found = overfitting(r)
    assert found.n_blocks == n_blocks
    assert found.pbo == significance.probability_of_backtest_overfitting(r, n_blocks).pbo
    assert found.noise_low is not None and found.noise_high is not None
    assert 0.0 <= found.noise_low < found.noise_high <= 1.0


@pytest.mark.parametrize(
    ("returns", "reason"),
    [
        (noise(200, 9), "9 trials were completed and traded, at least 10 are needed"),
        (np.concatenate([noise(200, 9), np.zeros((200, 5))], axis=1), "9 trials"),
        (noise(39, 12), "39 out-of-sample bars, at least 40 are needed"),
        (np.concatenate([noise(200, 11), np.eye(200)[:, :1]], axis=1), "trial 11 has no variance over some half"),
    ],
)
def test_pbo_that_cannot_be_computed_says_why(returns: Array, reason: str) -> None:
    found = overfitting(returns)
    assert found.pbo is None and found.noise_low is None
    assert reason in found.not_computable


def test_the_noise_range_of_independent_trials_is_the_published_one() -> None:
    """significance.py measured 0.21 to 0.80 for 40 trials, 126 bars, 10 blocks."""
    found = overfitting(noise(126, 40))
    assert found.noise_low == pytest.approx(0.21, abs=0.06)
    assert found.noise_high == pytest.approx(0.80, abs=0.06)


def test_a_search_among_real_differences_lies_below_what_noise_gives() -> None:
    """One trial in twelve has skill: the same one wins in every half."""
    r = noise(400, 12)
    r[:, 5] += 0.005
    found = overfitting(r)
    assert found.pbo is not None and found.noise_low is not None
    assert found.pbo < found.noise_low


def test_the_noise_has_the_trials_own_correlations() -> None:
    """Nine of ten trials are nearly the same: which of those is best says nothing, and the range widens."""
    common = noise(120, 1)
    alike = overfitting(np.concatenate([common + 0.01 * noise(120, 9, seed=1), noise(120, 3, seed=2)], axis=1))
    apart = overfitting(noise(120, 12))
    assert alike.noise_low is not None and alike.noise_high is not None
    assert apart.noise_low is not None and apart.noise_high is not None
    assert alike.noise_high - alike.noise_low > apart.noise_high - apart.noise_low
