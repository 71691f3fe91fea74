"""What weight a column without information gets, as far as probes and all the other columns tell.

Forty probes cannot show how far one column in 276 strays by luck; the columns themselves can, as long as few of them
carry information (an empirical null, Efron 2004). Which do is not known, so that the r heaviest are left out of the fit
and r is the largest number for which all r are discoveries: those that are noise after all are not missed by the fit,
because what is left out counts as censored, and those that are not make it err upwards. Where many columns carry
information it therefore finds little, and the probes alone (false_discovery.py) find more.

Shapes: F columns, N weights (columns and probes), the r heaviest columns censored, k the next below them in the tail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.statistics.false_discovery import FIT_LEVEL, heavier_tail_p_value

Array = NDArray[np.float64]

TAIL_SHARE = 0.25
"""Share of all weights that the tail consists of."""
MIN_TAIL = 10
"""Fewest weights in the tail that are not censored."""


@dataclass(frozen=True, eq=False)
class PooledNull:
    """An exponential tail of the logarithm of weights, fitted to all but the r heaviest columns.

    With x logarithms, descending, the r heaviest columns' left out, u = x_(k+1) and r weights censored at x_(1), the
    maximum likelihood estimate (Epstein & Sobel 1953) and the p-value of a column are

        scale = [sum_(i <= k) (x_(i) - u) + r (x_(1) - u)] / k,    p = (k + r) / N (1 + (x - u) / (k scale))^(-k),

    which allows for the error of the scale; below u, p is the share of all weights that are at least as heavy.
    """

    below: Array
    """Logarithms of the weights that are not censored, ascending"""
    n_censored: int
    """r"""
    n_tail: int
    """k"""
    scale: float
    fit_p_value: float
    """p-value of the exponential tail against a heavier one, as in ProbeNull"""

    @classmethod
    def fit(cls, weights: Array, n_censored: int) -> PooledNull:
        """weights: (N - r,) without the censored ones, all above 0."""
        x = np.sort(np.log(weights))
        n = len(x) + n_censored
        k = max(math.ceil(TAIL_SHARE * n) - n_censored, MIN_TAIL)
        assert k < len(x), "the caller leaves enough weights below the tail"
        at_risk = np.arange(k, 0, -1.0) + n_censored  # weights at least as heavy as each of the tail
        spacings = np.diff(x[-k - 1 :]) * at_risk
        return cls(x, n_censored, k, float(spacings.sum()) / k, heavier_tail_p_value(spacings))

    @property
    def remark(self) -> str:
        """Nothing: a null whose fit is refused is not used."""
        return ""

    @property
    def n(self) -> int:
        return len(self.below) + self.n_censored

    @property
    def start(self) -> float:
        """u"""
        return float(self.below[-self.n_tail - 1])

    def p_values(self, weights: ArrayLike) -> Array:
        """One-sided p-value of each weight; NaN stays NaN, and a weight of 0 has 1."""
        with np.errstate(divide="ignore"):
            x = np.log(np.asarray(weights, dtype=np.float64))
        k = self.n_tail
        lead = np.maximum(x - self.start, 0.0)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            tail = (k + self.n_censored) / self.n * (1.0 + lead / (k * self.scale)) ** -k
        at_least = (len(self.below) - np.searchsorted(self.below, x, side="left") + self.n_censored) / self.n
        return np.where(np.isnan(x), np.nan, np.where(x > self.start, tail, np.minimum(at_least, 1.0)))

    def weight_at(self, p_value: float) -> float:
        """The weight from which every p-value is at most this; where the tail starts if it is less than that."""
        k, share = self.n_tail, (self.n_tail + self.n_censored) / self.n
        lead = k * self.scale * ((share / p_value) ** (1.0 / k) - 1.0)
        return math.exp(self.start + max(lead, 0.0))


def pooled_null(weights: ArrayLike, probes: ArrayLike, eligible: ArrayLike, rate: float) -> PooledNull | None:
    """The null in which as many columns as possible are discoveries at a false discovery rate of `rate`.

    weights: (F,) of columns, all above 0 · probes: weights of probes · eligible: (F,) columns that may be discovered.
    None where there are too few weights to fit a tail, where more than the tail is alike, or where the tail is heavier
    than the fitted one.
    """
    column, probe = np.asarray(weights, dtype=np.float64), np.asarray(probes, dtype=np.float64)
    order = np.argsort(-column, kind="stable")
    candidates = int(np.argmin(np.append(np.asarray(eligible, dtype=bool)[order], False)))  # the heaviest, in a row
    found: PooledNull | None = None
    for r in range(candidates + 1):
        rest = np.concatenate([column[order[r:]], probe])
        if len(rest) <= max(math.ceil(TAIL_SHARE * (len(rest) + r)) - r, MIN_TAIL):
            break
        null = PooledNull.fit(rest, r)
        if not null.scale > 1e-9:
            break
        if not r or null.p_values(column[order[r - 1]]) <= rate * r / len(column):
            found = null
    return None if found is None or found.fit_p_value < FIT_LEVEL else found
