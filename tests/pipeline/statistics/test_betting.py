"""The bet on one strategy against another: its capital by a plain loop, what it may depend on, how often equals win."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.statistics.betting import Bet, alpha_of

Array = NDArray[np.float64]


def pair(n_bars: int, *, seed: int = 0, better: float = 0.0) -> tuple[Array, Array]:
    """Net returns of two strategies that share half of their noise; `better` is a per-bar Sharpe difference."""
    common, own, other = np.random.default_rng(seed).standard_t(5, (3, n_bars))
    return 0.01 * (common + own + better), 0.02 * (common + other)


def log_capital_by_hand(x: Array, y: Array, n_learnt: int) -> list[float]:
    """The formula, every sum written out anew at every bar."""

    def scale(values: list[float]) -> float | None:
        if len(values) < 20:
            return None
        weights = [(1.0 - 2.0 / 61.0) ** (len(values) - 1 - i) for i in range(len(values))]
        return math.sqrt(sum(w * v * v for w, v in zip(weights, values, strict=True)) / sum(weights))

    capital, out = 1.0, []
    differences: list[float] = []
    payoffs: list[float] = []
    for t in range(len(x)):
        of_x, of_y, of_g = scale(list(x[:t])), scale(list(y[:t])), scale(differences)
        if of_x is not None and of_y is not None:
            g = x[t] / of_x - y[t] / of_y
            if of_g is not None and t >= n_learnt:
                payoff = max(-4.0, min(4.0, g / of_g)) / 4.0
                stake = (60.0 / 16.0 + sum(payoffs)) / (60.0 / 16.0 + sum(p * p for p in payoffs))
                capital *= 1.0 + max(0.0, min(0.5, stake)) * payoff
                payoffs.append(payoff)
            differences.append(g)
        if t >= n_learnt:
            out.append(math.log(capital))
    return out


@pytest.mark.parametrize("n_learnt", [0, 100])
def test_the_capital_is_that_of_a_plain_loop(n_learnt: int) -> None:
    """With earlier bars to learn the scales from, and without: then nothing is bet for the first 40 bars."""
    x, y = pair(260, better=0.1)
    bet = Bet().learn(x[:n_learnt], y[:n_learnt])
    found = []
    for t in range(n_learnt, len(x)):
        bet = bet.go_on(x[t : t + 1], y[t : t + 1])
        found.append(bet.log_capital)
    expected = log_capital_by_hand(x, y, n_learnt)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert bet.log_peak == max(0.0, *found)
    assert bet.n_bars == (160 if n_learnt else 220)
    assert (np.array(expected[:40]) == 0.0).all() == (n_learnt == 0)


def test_it_does_not_matter_where_one_stops_and_goes_on() -> None:
    """To the last bit."""
    x, y = pair(300)
    at_once = Bet().learn(x[:60], y[:60]).go_on(x[60:], y[60:])
    bet = Bet().learn(x[:60], y[:60])
    for week in range(60, 300, 5):
        bet = bet.go_on(x[week : week + 5], y[week : week + 5])
    assert bet == at_once


def test_the_stake_is_settled_before_the_bar_it_is_laid_on() -> None:
    """Whatever the bar brings, the capital is linear in its payoff: with ±p the two factors add up to 2."""
    x, y = pair(120)
    before = Bet().learn(x[:60], y[:60]).go_on(x[60:], y[60:])
    level = y[:1] / before.incumbent.value * before.candidate.value  # no difference at this return
    up, down = (before.go_on(level + step, y[:1]).capital for step in (0.004, -0.004))
    assert up != down
    assert up + down == pytest.approx(2.0 * before.capital, rel=1e-12)


def test_the_size_of_a_strategy_does_not_matter() -> None:
    """The candidate with a hundred times the positions is the same strategy."""
    x, y = pair(300, better=0.1)
    one, other = (Bet().go_on(factor * x, y) for factor in (1.0, 100.0))
    assert one.log_capital == pytest.approx(other.log_capital, rel=1e-9)


def test_one_bar_moves_the_capital_by_at_most_half() -> None:
    """Payoffs are clipped: a crash of the incumbent proves nothing."""
    x, y = pair(120)
    before = Bet().go_on(x, y)
    crash = before.go_on([0.0], [-0.9])
    assert before.capital < crash.capital <= 1.5 * before.capital


def test_bars_without_both_returns_are_no_bars() -> None:
    x, y = pair(200)
    gaps = np.arange(5, 200, 7)
    with_gaps = x.copy()
    with_gaps[gaps] = np.nan
    assert Bet().go_on(with_gaps, y) == Bet().go_on(np.delete(x, gaps), np.delete(y, gaps))


@pytest.mark.parametrize("incumbent", ["the same", "flat"])
def test_nothing_is_won_against_oneself_or_against_nothing(incumbent: str) -> None:
    """Without a difference, or without a volatility to divide by, there is no bet."""
    x, _ = pair(200, better=0.5)
    bet = Bet().go_on(x, x if incumbent == "the same" else np.zeros(200))
    assert (bet.n_bars, bet.capital, bet.peak) == (0, 1.0, 1.0)


def test_the_shares_of_a_year_add_up_to_five_percent() -> None:
    assert alpha_of(1) == pytest.approx(0.030396, abs=1e-6)
    assert alpha_of(3) == pytest.approx(alpha_of(1) / 9.0)
    assert 0.0499 < sum(alpha_of(number) for number in range(1, 2000)) < 0.05
    with pytest.raises(ValueError, match="number is 0"):
        alpha_of(0)


def test_equals_hardly_ever_pass_and_better_ones_do() -> None:
    """A year of looks, the first candidate of it, 200 samples: alpha is 3.0 %, of which 13 or more out of 200 come in
    1 of 100 test suites (binomial), if that much is used up."""

    def passed(better: float) -> int:
        n_passed = 0
        for seed in range(200):
            x, y = pair(63 + 252, seed=seed, better=better)
            n_passed += Bet().learn(x[:63], y[:63]).go_on(x[63:], y[63:]).peak >= 1.0 / alpha_of(1)
        return n_passed

    assert passed(0.0) <= 12
    assert passed(0.4) > 100
