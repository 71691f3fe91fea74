"""Two traders who know the planted truth, and what positions are worth when the noise is averaged out.

Positions of bar t do not depend on the noise e_t that they meet. So their expected earnings and the variance of these
are known without drawing the noise: the *true* Sharpe of a path of positions. Over five years the realised Sharpe
strays from it by about 0.45, whatever the learner; differences between learners show in the true one.

Shapes: T bars, A instruments, n bars of a record.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.skill_task import Task
from benchmarks.truths import Truth
from tft.positions import BASIS_POINT
from tft.record import Record

Array = NDArray[np.float64]

KNOWER_SMOOTHING = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
"""With costs, a trader who knows smooths as much as pays: the best of these on the very bars, as befits a ceiling"""


def own_trader(truth: Truth) -> Array:
    """Raw positions (T, A), of any scale, proportional to E[y | own window].

    The best of all positions f(own window) up to a term of the order of E[y]^2. For a signal that is normal, as all
    kinds' are, write f as a series of Hermite polynomials: the first alone earns, while every other adds variance,
    through noise that instruments share as well as through their own.
    """
    return truth.own_expected


def all_trader(truth: Truth) -> Array:
    """Raw positions (T, A), of any scale, of the portfolio of highest Sharpe for one who knows E[y | all] of each bar.

    With S the covariance of the noise it is (S + mu mu')^-1 mu = S^-1 mu / (1 + mu' S^-1 mu) (Ferson & Siegel 2001):
    inverse covariance times expected, less of it at the rare bars that promise most.
    """
    best = np.linalg.solve(truth.noise_covariance, truth.expected.T).T
    return np.asarray(best / (1.0 + (best * truth.expected).sum(axis=1, keepdims=True)))


class TrueSharpe(NamedTuple):
    """Annual Sharpe of a path of positions, expected over the noise that it meets."""

    net: float
    gross: float


def true_sharpe(truth: Truth, record: Record, *, cost_bps: float) -> TrueSharpe:
    """The true Sharpe of a record's positions over all of its bars."""
    exposure = np.nan_to_num(record.position) * truth.sigma[record.bars] / record.position.shape[1]  # (n, A)
    gross = (exposure * truth.expected[record.bars]).sum(axis=1)  # (n,)
    noise = np.einsum("ti,ij,tj->t", exposure, truth.noise_covariance, exposure)  # (n,)
    cost = cost_bps * BASIS_POINT * np.nan_to_num(record.earned.change).mean(axis=1)  # (n,)

    def annual(expected: Array) -> float:
        variance = float(noise.mean() + expected.var())
        if variance <= 0.0:
            return 0.0
        return float(expected.mean() / np.sqrt(variance) * np.sqrt(record.timing.periods_per_year))

    return TrueSharpe(annual(gross - cost), annual(gross))


def knower_record(task: Task, raw: Array) -> Record:
    """The record of raw positions (T, A) of any scale: sized like everyone's, at a scale at which nothing is capped."""
    positions = task.config.positions
    records = []
    for smoothing in KNOWER_SMOOTHING if positions.cost_bps else (0.0,):
        path = raw.copy()
        for t in range(1, len(path)):
            path[t] = smoothing * path[t - 1] + (1.0 - smoothing) * raw[t]
        tested = path[task.test_bars.start : task.test_bars.stop]
        largest = float(np.abs(tested).max())
        records.append(task.record(tested * (positions.max_position / largest) if largest else tested))
    return max(records, key=lambda record: true_sharpe(task.truth, record, cost_bps=positions.cost_bps).net)
