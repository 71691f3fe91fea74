"""Two return series on the same bars: the difference of their Sharpe ratios per bar. Shapes: T bars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from pipeline.statistics.arguments import checked_returns
from pipeline.statistics.randomisation import monte_carlo_p_value
from pipeline.statistics.standard_errors import automatic_lags, hac_standard_error, per_bar_sharpe, sharpe_scores

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SharpeDifference:
    """The difference between the Sharpe ratios of two series a and b, per bar."""

    difference: float
    """SR of a minus SR of b."""
    standard_error: float
    """HAC standard error of the difference."""
    p_value: float
    """Two-sided p-value of no difference."""
    interval: tuple[float, float]
    """95 % interval."""
    detectable: float
    """The smallest true difference found with 80 % power at 5 % two-sided: 2.80 standard errors."""


def sharpe_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    lags: int | None = None,
    block_length: int | None = None,
    n_bootstrap: int = 4999,
    seed: int = 0,
) -> SharpeDifference:
    """Paired comparison of the Sharpe ratios of `a` and `b`, both (T,) over the same bars.

    Ledoit & Wolf 2008: standard error by HAC delta method (section 3.1, as in `sharpe_standard_error`); p-value and
    symmetric 95 % interval from the studentised circular block bootstrap, where the error of a resample comes from its
    own blocks (Goetze & Kuensch 1996). They agree: p <= 0.05 exactly when 0 is not inside. `lags` None: Andrews 1991.
    `block_length` None: the automatic lags + 1, since blocks of b bars
    imply Bartlett weights on b - 1 lags.

    Identical series, or one a positive multiple of the other, differ by nothing with certainty: difference,
    error and detectable 0, p 1, interval (0, 0).

    Raises ValueError for series of different length, fewer than 2 bars, NaN or infinite returns, no variance, lags
    outside 0..T-1, block_length outside 1..T//2, n_bootstrap < 19, a difference without any sampling error, and too
    few bars or trades for the resamples to have a variance.

    Measured with shocks correlated 0.7 over 63, 252, 1068 bars, share of p <= 0.05 under no difference: iid t5 0.044,
    0.048, 0.051; GARCH 0.043, 0.056, 0.051; AR(1) 0.2 0.061, 0.060, 0.054. Power at `detectable`: 0.67-0.74 with 63
    bars, 0.77-0.82 with more.
    """
    x, y = checked_returns(a, "a"), checked_returns(b, "b")
    n = len(x)
    if len(y) != n:
        raise ValueError(f"a has {n} bars and b {len(y)}, they must be the same bars: align them first")
    if n_bootstrap < 19:
        raise ValueError(f"n_bootstrap is {n_bootstrap}, a 95 % interval needs at least 19: 4999 is usual")
    scores = sharpe_scores(x) - sharpe_scores(y)
    difference = per_bar_sharpe(x) - per_bar_sharpe(y)
    if np.abs(scores).max() <= 1e-9 and abs(difference) <= 1e-9:
        return SharpeDifference(0.0, 0.0, 1.0, (0.0, 0.0), 0.0)
    error = hac_standard_error(scores, lags)
    block = automatic_lags(scores) + 1 if block_length is None else block_length
    if not 1 <= block <= n // 2:
        raise ValueError(f"block_length is {block}, for {n} bars it lies in 1..{n // 2}: leave it None or choose there")

    deviations = np.sort(_studentised_deviations(x / x.std(), y / y.std(), block, n_bootstrap, seed))
    critical = float(deviations[-(-19 * (n_bootstrap + 1) // 20) - 1])
    if not math.isfinite(critical):
        raise ValueError(f"too few of the {n} bars vary for resampled Sharpes to have an error: use more bars")
    at_least = int((deviations >= abs(difference) / error).sum())
    return SharpeDifference(
        difference=difference,
        standard_error=error,
        p_value=monte_carlo_p_value(at_least, n_bootstrap),
        interval=(difference - critical * error, difference + critical * error),
        detectable=float(ndtri(0.975) + ndtri(0.8)) * error,
    )


def _studentised_deviations(x: Array, y: Array, block: int, n_bootstrap: int, seed: int) -> Array:
    """|resampled difference - difference| / its own standard error (n_bootstrap,); infinite where that is zero."""
    n, n_drawn = len(x), len(x) // block
    moments = np.stack([x, y, x**2, y**2], axis=1)
    wrapped = np.concatenate([moments, moments[: block - 1]])
    block_means = np.lib.stride_tricks.sliding_window_view(wrapped, block, axis=0).mean(axis=-1)  # (T, 4), by start
    centre = _difference_and_gradient(moments.mean(axis=0))[0]
    rng = np.random.default_rng(seed)
    deviations = []
    for chunk in np.array_split(np.arange(n_bootstrap), -(-n_bootstrap * n_drawn // 500_000)):  # bounds the memory
        drawn = block_means[rng.integers(n, size=(len(chunk), n_drawn))]  # (chunk, n_drawn, 4)
        with np.errstate(divide="ignore", invalid="ignore"):  # resamples without variance become infinite below
            difference, gradient = _difference_and_gradient(drawn.mean(axis=1))
            error = (drawn @ gradient[:, :, None])[:, :, 0].std(axis=1) / math.sqrt(n_drawn)
            deviation = np.abs(difference - centre) / error
        deviations.append(np.where(np.isfinite(deviation) & (error > 1e-12), deviation, np.inf))
    return np.concatenate(deviations)


def _difference_and_gradient(moments: Array) -> tuple[Array, Array]:
    """Sharpe difference (...) and its gradient (..., 4) by the moments (..., 4): E a, E b, E a^2, E b^2."""
    mean, second = moments[..., :2], moments[..., 2:]
    sd = np.sqrt(second - mean**2)
    sharpe = mean / sd
    gradient = np.concatenate([second / sd**3, -mean / (2.0 * sd**3)], axis=-1) * np.array([1.0, -1.0, 1.0, -1.0])
    return sharpe[..., 0] - sharpe[..., 1], gradient
