"""The last layer's numbers as a position and a predictive distribution, by loss mode.

Shapes: B targets, D parameters of the predictive distribution. All in units of sigma_t * sqrt(horizon).
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from statistics import NormalDist
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

LossMode = Literal["sharpe", "joint_mle", "joint_quantile"]
LOSS_MODES: tuple[LossMode, ...] = get_args(LossMode)
QUANTILE_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MEDIAN = QUANTILE_LEVELS.index(0.5)
SIGMA_FLOOR = 1e-3
"""Lower bound of the predictive standard deviation, in units of sigma_t * sqrt(horizon)"""


def _inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


def _standard_normal() -> dict[LossMode, tuple[float, ...]]:
    """Biases of the last layer with which the forecast of y is a standard normal, and the position 0: training begins
    with the volatility known, and learns what is left.
    """
    quantiles = [NormalDist().inv_cdf(level) for level in QUANTILE_LEVELS]
    steps = [_inverse_softplus(high - low) for low, high in pairwise(quantiles)]
    return {
        "sharpe": (0.0,),
        "joint_mle": (0.0, _inverse_softplus(1.0 - SIGMA_FLOOR)),
        "joint_quantile": (quantiles[0], *steps),
    }


STANDARD_NORMAL = _standard_normal()


def read_head(raw: Tensor, loss_mode: LossMode) -> tuple[Tensor, Tensor]:
    """Output (B, *) of the last layer -> position (B,) and predictive distribution (B, D)."""
    if loss_mode == "sharpe":
        return torch.tanh(raw[:, 0]), raw[:, :0]
    if loss_mode == "joint_mle":
        mu, sigma = raw[:, 0], F.softplus(raw[:, 1]) + SIGMA_FLOOR
        return torch.erf(mu / sigma / math.sqrt(2.0)), torch.stack([mu, sigma], dim=-1)  # erf = 2 Phi - 1
    steps = torch.cat([raw[:, :1], F.softplus(raw[:, 1:])], dim=-1)
    quantiles = torch.cumsum(steps, dim=-1)  # monotone by construction
    return 2.0 * probability_up(quantiles) - 1.0, quantiles


def recalibrated(distribution: Tensor, scales: Tensor, loss_mode: LossMode) -> Tensor:
    """The distribution (B, D) with its centre and its spread multiplied by scales (2,), which are 1 in training.

    The centre is mu, or the median. The position is not touched: it is that of the head as it was trained.
    """
    if loss_mode == "sharpe":
        return distribution
    if loss_mode == "joint_mle":
        return distribution * scales
    median = distribution[:, MEDIAN : MEDIAN + 1]
    return scales[0] * median + scales[1] * (distribution - median)


def quantile_levels(like: Tensor) -> Tensor:
    """QUANTILE_LEVELS (7,) as a tensor like `like`; cached, because a captured GPU step cannot copy from the host."""
    return _constant(QUANTILE_LEVELS, like.dtype, like.device)


@cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def probability_up(quantiles: Tensor) -> Tensor:
    """P(y > 0) (B,) from quantiles (B, 7), with a CDF that is linear between the levels and constant beyond them."""
    levels = quantile_levels(quantiles)
    low, high = quantiles[:, :-1], quantiles[:, 1:]
    # The CDF at 0 is the lowest level plus each segment's rise, in proportion to how much of it lies below 0.
    share = (-low / (high - low).clamp_min(1e-9)).clamp(0.0, 1.0)
    return 1.0 - (levels[0] + (share * (levels[1:] - levels[:-1])).sum(dim=-1))
