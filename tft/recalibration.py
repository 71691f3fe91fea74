"""How far a forecast distribution is to be believed, read off bars that it was not trained on.

Shapes: n bars, A instruments, D parameters of the distribution.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tft.model import MEDIAN, QUANTILE_LEVELS

Array = NDArray[np.float64]

SPREADS = (0.5, 2.0)
"""Range of the factor on the spread"""
LOWER, UPPER = QUANTILE_LEVELS.index(0.25), QUANTILE_LEVELS.index(0.75)
INTERQUARTILE = 2.0 * NormalDist().inv_cdf(0.75)
"""Of a standard normal"""


def centre_and_spread(distribution: Array) -> tuple[Array, Array]:
    """Centre and spread (n, A) of distributions (n, A, D): mu and sigma, or the median and the interquartile range in
    units of a standard normal's.
    """
    if distribution.shape[-1] == 2:
        return distribution[..., 0], distribution[..., 1]
    return distribution[..., MEDIAN], (distribution[..., UPPER] - distribution[..., LOWER]) / INTERQUARTILE


def recalibration(distribution: Array, y: Array, past: Array, correlation: float) -> tuple[float, float]:
    """Factors on centre and spread of distributions (n, A, D) of labels y (n, A), NaN where there is none.

    The first is the slope of y on the centre, within 0 and 1, by generalised least squares with one correlation between
    the errors of a bar, both in units of the spread. The second gives the errors the mean square that labels have over
    the much longer `past` (m, A), which ends with y, less what the centre explains: the spread of a few hundred bars
    is too uncertain to be worth more than the unconditional one.
    """
    centre, spread = centre_and_spread(distribution)
    with np.errstate(invalid="ignore", divide="ignore"):
        z, u = centre / spread, y / spread
    known = np.isfinite(z) & np.isfinite(u)
    z, u = np.where(known, z, 0.0), np.where(known, u, 0.0)
    shared = correlation / (1.0 + (known.sum(axis=1) - 1.0) * correlation)  # R^-1 is I - shared 11', up to a factor

    def product(a: Array, b: Array) -> float:
        return float(((a * b).sum(axis=1) - shared * a.sum(axis=1) * b.sum(axis=1)).sum())

    of_centre = product(z, z)
    slope = float(np.clip(product(z, u) / of_centre, 0.0, 1.0)) if of_centre > 0.0 else 0.0
    if not known.any():
        return slope, 1.0
    explained = slope**2 * (centre[known] ** 2).mean()
    errors = max(float(np.nanmean(past**2) - explained), 0.0)
    return slope, float(np.clip(np.sqrt(errors / (spread[known] ** 2).mean()), *SPREADS))
