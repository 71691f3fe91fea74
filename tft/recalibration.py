"""How far a forecast distribution is to be believed, read off bars that it was not trained on.

Shapes: n bars, A instruments, D parameters of the distribution.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tft.head import MEDIAN, QUANTILE_LEVELS

Array = NDArray[np.float64]

PRIOR = 4.0
"""Precision of a slope of 1 before the block is seen: a standard deviation of a half"""
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


def recalibration(distribution: Array, y: Array, past: Array) -> tuple[float, float]:
    """Factors on centre and spread of distributions (n, A, D) of labels y (n, A), NaN where there is none.

    The first is the slope of y on the centre, within 0 and 1, both in units of the spread, by least squares and a prior
    at 1, since a short block says little. It is not weighted by what the errors of a bar have in common, as training
    is: what an instrument's own distribution is worth does not depend on the others'.

    The second gives the errors the spread that labels have over the much longer `past` (m, A), which ends with y, less
    what the centre explains: the spread of a few hundred bars is too uncertain to be worth more than that. It is the
    root mean square for mu and sigma, and the interquartile range for quantiles, which fat tails do not widen.
    """
    centre, spread = centre_and_spread(distribution)
    with np.errstate(invalid="ignore", divide="ignore"):
        z, u = centre / spread, y / spread
    known = np.isfinite(z) & np.isfinite(u)
    z, u = z[known], u[known]
    slope = float(np.clip((z @ u + PRIOR) / (z @ z + PRIOR), 0.0, 1.0))
    if not known.any():
        return slope, 1.0
    explained = slope**2 * (centre[known] ** 2).mean()
    if distribution.shape[-1] == 2:
        size = float(np.nanmean(past**2))
    else:
        size = float(np.diff(np.nanquantile(past, [0.25, 0.75]))[0] / INTERQUARTILE) ** 2
    errors = max(size - explained, 0.0)
    return slope, float(np.clip(np.sqrt(errors / (spread[known] ** 2).mean()), *SPREADS))
