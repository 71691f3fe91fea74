"""How many of the columns that look good are good by luck: p-values from probes, and the false discovery rate.

Shapes: N probes, k of them in the tail, F columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FIT_LEVEL = 0.01
"""A tail is called heavier than the fitted one if its test has a p-value below this."""
MIN_SHAPE = 0.15
"""Least shape of the tail, as of a generalised Pareto distribution: 0 is exponential, more is heavier. With 0 the tails
of 271 noise columns of planted tables were underrated by half at a p-value of 0.0004, with this they are not."""
MIN_TESTED_TAIL = 4
"""The fewest probes in a tail whose fit can be tested."""


@dataclass(frozen=True, eq=False)
class ProbeNull:
    """What weight a column without information gets, as far as N probes tell.

    Up to the largest probe a p-value is a rank, (1 + probes at least as heavy) / (N + 1), whatever the distribution.
    Beyond it the logarithm of a weight has an exponential tail (Hill 1975), fitted to the k = N // 2 heaviest probes:
    with x and x_(i) logarithms, ascending, u = x_(N-k),

        p = (1 + shape (x - x_(N)) / scale)^(-1 / shape) / (N + 1),
        scale = [sum_(i > N-k) (x_(i) - u) + x_(N) - u] / k,    shape = max(1 / k, MIN_SHAPE).

    With shape = 1 / k that is exact, for few probes too: if a further probe is the heaviest of N + 1, its lead over the
    next one and the k normalised spacings below are independent draws from one exponential distribution (Rényi 1953),
    of which k scale is the sum of the latter. The least shape allows for a tail that is somewhat heavier. Where it is
    lighter, as that of a log-normal distribution, p errs upwards.
    """

    weights: Array
    """(N,) ascending, all above 0"""
    n_tail: int
    """k"""
    scale: float
    """In logarithms; infinite where nothing is extrapolated: a single probe, probes all alike, a tail too heavy"""
    shape: float
    fit_p_value: float
    """p-value of the exponential tail against a heavier one (Gail & Gastwirth 1978); NaN with too few probes to say"""

    @classmethod
    def of(cls, weights: ArrayLike) -> ProbeNull:
        """Fit the null to the probes' weights (N,), leaving out missing ones. Raises ValueError if none is left."""
        given = np.asarray(weights, dtype=np.float64)
        known = np.sort(given[np.isfinite(given)])
        if not len(known):
            raise ValueError("no probe has a weight: there is nothing to compare columns with")
        if known[0] <= 0.0:
            raise ValueError(f"a probe has weight {known[0]:g}, weights are above 0: find out where it was computed")
        n, k = len(known), len(known) // 2
        x = np.log(known)
        steps = np.diff(x[n - k - 1 :])  # x_(i) - x_(i-1) of the tail, the highest last
        below = np.arange(k, 0, -1.0)
        total, fit = float((steps * (below + 1.0)).sum()), heavier_tail_p_value(steps * below)
        extrapolated = total > 1e-9 and not fit < FIT_LEVEL
        return cls(known, k, total / k if extrapolated else math.inf, max(1.0 / max(k, 1), MIN_SHAPE), fit)

    @property
    def too_heavy(self) -> bool:
        """Whether the heaviest probes lie further apart than the fitted tail allows, so that it is not used."""
        return self.fit_p_value < FIT_LEVEL

    @property
    def remark(self) -> str:
        """What to know about the fit, as a part of a sentence; empty where it was checked and holds."""
        n = len(self.weights)
        if self.too_heavy:
            return (
                f"the heaviest of {n} probes lie further apart than in an exponential tail "
                f"(p = {self.fit_p_value:.3f}): nothing is extrapolated beyond the largest one, and no p-value is "
                f"below 1/{n + 1}; more probes (exploration.n_probes) can tell more"
            )
        if math.isnan(self.fit_p_value):
            return f"whether an exponential tail fits cannot be checked with so few or such equal probes ({n})"
        return ""

    def p_values(self, weights: ArrayLike) -> Array:
        """One-sided p-value of each weight; NaN stays NaN."""
        given = np.asarray(weights, dtype=np.float64)
        n = len(self.weights)
        at_least = n - np.searchsorted(self.weights, given, side="left")
        with np.errstate(divide="ignore", invalid="ignore"):
            lead = np.maximum(np.log(given) - math.log(self.weights[-1]), 0.0)
        p_value = (1.0 + at_least) / (n + 1.0) * (1.0 + self.shape * lead / self.scale) ** (-1.0 / self.shape)
        return np.where(np.isnan(given), np.nan, p_value)

    def weight_at(self, p_value: float) -> float:
        """The weight above which every p-value is at most this; infinite where no weight is enough."""
        n = len(self.weights)
        exceeded = int(p_value * (n + 1.0) * (1.0 + 1e-12)) - 1  # probes that may be at least as heavy
        if exceeded >= n:
            return 0.0
        if exceeded >= 0:
            return float(self.weights[n - 1 - exceeded])
        if not math.isfinite(self.scale):
            return math.inf
        lead = self.scale / self.shape * ((p_value * (n + 1.0)) ** -self.shape - 1.0)
        return float(self.weights[-1] * math.exp(lead)) if lead < 500.0 else math.inf


def benjamini_hochberg(p_values: ArrayLike, rate: float) -> tuple[NDArray[np.bool_], float]:
    """What may be called a discovery (F,), and the p-value up to which one is: the step-up procedure of 1995.

    With r discoveries the largest p-value among them is at most rate * r / F, and r is as large as that allows. The
    share of false discoveries is then at most `rate` on average if the p-values are independent, or depend on each
    other as comparisons with one common control do (Benjamini & Yekutieli 2001), which these are. The second value is
    rate * max(r, 1) / F. Raises ValueError for a p-value outside [0, 1] or a rate outside (0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError("p-values must lie in [0, 1]: give a column that cannot be tested a p-value of 1")
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"rate is {rate}, it must lie in (0, 1]: 0.1 lets a tenth of the discoveries be false")
    limits = rate * np.arange(1, len(p) + 1) / max(len(p), 1)
    below = np.flatnonzero(np.sort(p) <= limits)
    r = int(below[-1]) + 1 if len(below) else 0
    limit = rate * max(r, 1) / max(len(p), 1)
    return (p <= limit) & (r > 0), limit


def heavier_tail_p_value(spacings: Array) -> float:
    """One-sided p-value of normalised spacings (k,), lowest first, against growing ones; NaN for too few or no spread.

    If they are draws from one exponential distribution, their running totals divided by the whole are k - 1 ordered
    uniform numbers, of mean 1/2; in a heavier tail the highest spacings are the widest, and the mean is lower.
    """
    k = len(spacings)
    if k < MIN_TESTED_TAIL or not spacings.sum() > 1e-9:
        return math.nan
    mean = float((np.cumsum(spacings)[:-1] / spacings.sum()).mean())
    return NormalDist().cdf((mean - 0.5) * math.sqrt(12.0 * (k - 1)))
