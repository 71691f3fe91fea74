"""What a record loses when a group of columns tells nothing any more, beside the weight that the network gave it.

A weight says how much the network listened, a loss what it earned by listening: correlated groups stand in for each
other, and a heavy group can be worth nothing. Shapes: n bars, K permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.arguments import is_constant
from pipeline.statistics.estimate import Estimate, mean_error
from pipeline.statistics.standard_errors import error_of_mean, per_bar_sharpe, sharpe_scores
from tft.metrics import MIN_INFERENCE_BARS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GroupLoss:
    """One group of columns. Losses are the record as it is minus the mean over permutations; above 0, it helped."""

    group: str
    n_columns: int
    """Columns of the group that any of the folds reads."""
    weight: float
    """Share of the selection weight (VSN), summed over the columns, mean over the folds."""
    sharpe_loss: Estimate | None
    """Annual, net, paired bar by bar; None where a Sharpe ratio has no standard error."""
    return_loss: Estimate
    """Annual net return."""


@dataclass(frozen=True)
class GroupLosses:
    """The groups of a record, heaviest first."""

    segment: Literal["holdout", "development"]
    n_bars: int
    n_permutations: int
    block_bars: int
    """Length of the blocks that changed places."""
    rows: tuple[GroupLoss, ...]
    left_out: tuple[str, ...]
    """Groups that were not permuted, because others have more weight."""


def sharpe_loss(net: Array, permuted: Sequence[Array], *, periods_per_year: float) -> Estimate | None:
    """Annual Sharpe ratio of net returns (n,) minus the mean of those of K permuted ones, on the same bars.

    The error is that of Ledoit & Wolf 2008, section 3.1, of the mean of the K differences: HAC, by the delta method.
    It holds the noise of the permutations too, as far as they move the returns of single bars. None under
    MIN_INFERENCE_BARS bars and where one of the series does not vary; a loss of exactly 0 has no error.
    """
    if len(net) < MIN_INFERENCE_BARS or any(is_constant(one) for one in (net, *permuted)):
        return None
    loss = per_bar_sharpe(net) - float(np.mean([per_bar_sharpe(one) for one in permuted]))
    scores = sharpe_scores(net) - np.mean([sharpe_scores(one) for one in permuted], axis=0)
    if np.abs(scores).max() <= 1e-9:
        return Estimate(0.0, None)
    annual = math.sqrt(periods_per_year)
    return Estimate(loss * annual, error_of_mean(scores) * annual)


def return_loss(net: Array, permuted: Sequence[Array], *, periods_per_year: float) -> Estimate:
    """Annual mean of net returns (n,) minus the mean of those of K permuted ones, on the same bars."""
    difference = np.mean([net - one for one in permuted], axis=0)  # exactly 0 where nothing changed
    error = mean_error(difference)
    return Estimate(float(difference.mean()) * periods_per_year, None if error is None else error * periods_per_year)
