"""A forecast distribution beside what came: PIT, intervals, proper scores, and the forecast that knows nothing.

Labels y are in units of sigma_t * sqrt(horizon), and so are the distributions (M, D) of M cells (bar, instrument):
D = 2 is a Gaussian's mu and sigma, D = 7 are quantiles at QUANTILE_LEVELS.

Shapes: M cells, D parameters of the distribution.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from tft.head import QUANTILE_LEVELS

Array = NDArray[np.float64]

_LEVELS = np.array(QUANTILE_LEVELS)


def is_gaussian(distribution: Array) -> bool:
    return bool(distribution.shape[-1] == 2)


def unconditional(y: Array, n_parameters: int) -> Array:
    """The distribution (D,) of labels y (M,), of the family with D parameters: mean and standard deviation of maximum
    likelihood (ddof 0), or the empirical quantiles."""
    return np.array([y.mean(), y.std()]) if n_parameters == 2 else np.asarray(np.quantile(y, _LEVELS))


def pit(y: Array, distribution: Array) -> Array:
    """The probability integral transform F(y) (M,): uniform on [0, 1] if the labels are drawn from the distributions.

    Of quantiles F is linear between the levels. Of a label beyond the outermost ones it is only known in which tail it
    lies: it gets the middle of that tail, 0.025 or 0.975.
    """
    if is_gaussian(distribution):
        return np.asarray(ndtr((y - distribution[:, 0]) / distribution[:, 1]))
    low, high = distribution[:, :-1], distribution[:, 1:]
    share = np.clip((y[:, None] - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    inside = _LEVELS[0] + share @ np.diff(_LEVELS)
    below, above = y < distribution[:, 0], y > distribution[:, -1]
    return np.select([below, above], [_LEVELS[0] / 2.0, (1.0 + _LEVELS[-1]) / 2.0], inside)


def crps(y: Array, distribution: Array) -> Array:
    """Continuous ranked probability score (M,), in units of y; lower is better.

    Of a Gaussian in closed form (Gneiting & Raftery 2007, eq. 21). Of quantiles approximated by 2 * the mean over
    levels of the pinball loss: at seven levels it is not the integral, but as proper, and comparable with the same
    approximation of another forecast.
    """
    if is_gaussian(distribution):
        mu, sigma = distribution[:, 0], distribution[:, 1]
        z = (y - mu) / sigma
        density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
        return np.asarray(sigma * (z * (2.0 * ndtr(z) - 1.0) + 2.0 * density - 1.0 / math.sqrt(math.pi)))
    above = y[:, None] - distribution
    return np.asarray(2.0 * np.maximum(_LEVELS * above, (_LEVELS - 1.0) * above).mean(axis=1))


def log_score(y: Array, distribution: Array) -> Array:
    """Log density (M,) of the labels under Gaussians, in nats; higher is better. NaN for quantiles, which have none."""
    if not is_gaussian(distribution):
        return np.full(len(y), np.nan)
    mu, sigma = distribution[:, 0], distribution[:, 1]
    return np.asarray(-0.5 * ((y - mu) / sigma) ** 2 - np.log(sigma) - 0.5 * math.log(2.0 * math.pi))


def centre(distribution: Array) -> Array:
    """The point forecast (M,): mu, or the median."""
    return distribution[:, 0 if is_gaussian(distribution) else QUANTILE_LEVELS.index(0.5)]
