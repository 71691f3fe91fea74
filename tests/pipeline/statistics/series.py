"""Return series that several test files share, and the delta method on them in plain terms."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from statsmodels.stats.sandwich_covariance import S_hac_simple

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


def noise(*shape: int, seed: int = 0) -> Array:
    return 0.01 * np.random.default_rng(seed).standard_normal(shape)


def with_sharpe(per_bar: float, n_bars: int, *, seed: int = 0) -> Array:
    """Normal returns whose per-bar Sharpe is exactly this."""
    r = np.random.default_rng(seed).standard_normal(n_bars)
    z = (r - r.mean()) / r.std(ddof=1)
    return 0.01 * (z + per_bar)


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
