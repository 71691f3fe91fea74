"""The best of many epochs on one validation block: what training without any skill would have shown.

Sharpes are annual. Shapes: E epochs, n bars of a validation block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import stdtr, stdtrit

from pipeline.statistics.arguments import check_count, check_finite
from pipeline.statistics.overfitting import correlation_factor
from tft.backtest import FoldOutcome

Array = NDArray[np.float64]

EPOCH_DRAWS = 500
"""Simulated trainings; the expected best is then known to about 1 %."""


def best_of_epochs(n_epochs: int, n_bars: int, periods_per_year: float = 252) -> float:
    """Expected best annual Sharpe of `n_epochs` independent noise epochs, each validated on `n_bars` bars.

    Exact for normal returns of mean 0: SR sqrt(n) then has Student's t distribution F with n - 1 degrees of freedom,
    and E[max] is the integral over x > 0 of 1 - F(x)^E - F(-x)^E. 80 epochs on 21 bars: 9.28. Epochs of one training
    run are correlated, for which this is an upper bound. Raises ValueError for n_epochs < 1, n_bars < 3 (Student's t
    with one degree of freedom has no mean) or periods_per_year that is not positive and finite.
    """
    check_count("n_epochs", n_epochs, 1)
    check_count("n_bars", n_bars, 3)
    check_finite(periods_per_year=periods_per_year)
    if periods_per_year <= 0.0:
        raise ValueError(f"periods_per_year is {periods_per_year}, it must be positive: 252 for daily bars")

    def tails(x: float) -> float:
        q = float(stdtr(n_bars - 1, -x))
        return -math.expm1(n_epochs * math.log1p(-q)) - q**n_epochs  # 1 - F^E without cancellation

    # Split where one exceedance is expected: the integrand is about 1 before it and a power tail after it.
    knee = float(-stdtrit(n_bars - 1, min(0.25, 1.0 / n_epochs)))
    expected = sum(float(quad(tails, *part, limit=200)[0]) for part in ((0.0, knee), (knee, math.inf)))
    return max(0.0, expected) * math.sqrt(periods_per_year / n_bars)


@dataclass(frozen=True)
class FoldLuck:
    """The best annual Sharpe over a fold's epochs that noise alone would have shown on its validation block."""

    fold: int
    n_validation_bars: int
    best_of_independent_epochs: float | None
    """Exact expectation for independent epochs: an upper bound, as epochs of one training resemble each other."""
    best_of_correlated_epochs: float | None
    """Simulated expectation for epochs correlated as their validation returns were."""


def fold_luck(outcome: FoldOutcome, *, periods_per_year: float, seed: int = 0) -> FoldLuck:
    """The best Sharpe that epochs without skill would have shown on one fold's validation block.

    Both figures are None for a block under 3 bars; the one for correlated epochs also where no epoch's returns vary.
    """
    returns = outcome.validation_returns[:, np.isfinite(outcome.validation_returns).all(axis=0)]
    n_epochs, n_bars = outcome.validation_returns.shape[0], returns.shape[1]
    return FoldLuck(
        fold=outcome.fold.index,
        n_validation_bars=n_bars,
        best_of_independent_epochs=best_of_epochs(n_epochs, n_bars, periods_per_year) if n_bars >= 3 else None,
        best_of_correlated_epochs=best_of_correlated_epochs(returns, periods_per_year=periods_per_year, seed=seed),
    )


def best_of_correlated_epochs(
    returns: Array, *, periods_per_year: float, n_draws: int = EPOCH_DRAWS, seed: int = 0
) -> float | None:
    """Expected best annual Sharpe over epochs without skill, correlated as the validation returns (E, n) are.

    Each of `n_draws` draws takes n independent bars of E normal returns of mean 0 with these correlations. The result
    is half the mean distance between the best and the worst Sharpe, which by symmetry is the expected best. For equal
    epochs it is 0, as for one alone; for independent ones it is `best_of_epochs`, less a few percent where they
    outnumber the bars, since their sample correlations are then not all 0. Epochs that did not trade are left out; None
    if no others remain, and under 3 bars.
    """
    traded = returns[returns.std(axis=1) > 1e-12] if returns.shape[1] >= 3 else returns[:0]
    if not len(traded):
        return None
    factor = correlation_factor(traded)
    (n_epochs, rank), n_bars = factor.shape, returns.shape[1]
    rng = np.random.default_rng(seed)
    span = 0.0
    for chunk in np.array_split(np.arange(n_draws), -(-n_draws * n_bars * n_epochs // 4_000_000)):  # bounds the memory
        noise = rng.standard_normal((len(chunk), n_bars, rank)) @ factor.T  # (draws, n, E)
        sharpes = noise.mean(axis=1) / noise.std(axis=1, ddof=1)
        span += float((sharpes.max(axis=1) - sharpes.min(axis=1)).sum())
    return span / (2.0 * n_draws) * math.sqrt(periods_per_year)
