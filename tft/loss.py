"""The training loss and the likelihood that early stopping goes by.

Shapes: B targets (or n validation targets), D parameters of the predictive distribution. Everything is in units of
sigma_t * sqrt(horizon); `counted` (B,) is 1 for real targets and 0 for padding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tft.model import LossMode, quantile_levels

VARIANCE_FLOOR = 1e-8


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over the last dimension of what is counted; 0 where nothing is."""
    return (values * counted).sum(dim=-1) / counted.sum(dim=-1).clamp_min(1.0)


def negative_sharpe(position: Tensor, y: Tensor, counted: Tensor, *, periods_per_year: float) -> Tensor:
    """-sqrt(periods per year) * mean(p y) / sqrt(var(p y) + 1e-8), population variance over the batch (...,)."""
    pnl = position * y
    mean = mean_over(pnl, counted)
    variance = mean_over((pnl - mean.unsqueeze(-1)) ** 2, counted)
    return -math.sqrt(periods_per_year) * mean / torch.sqrt(variance + VARIANCE_FLOOR)


def gaussian_nll(distribution: Tensor, y: Tensor) -> Tensor:
    """Negative log likelihood (...,) of y under mu, sigma = distribution (..., 2)."""
    mu, sigma = distribution[..., 0], distribution[..., 1]
    return 0.5 * math.log(2.0 * math.pi) + torch.log(sigma) + 0.5 * ((y - mu) / sigma) ** 2


def pinball(distribution: Tensor, y: Tensor) -> Tensor:
    """Quantile loss (...,), mean over QUANTILE_LEVELS (Lim et al. 2021, eqs 24-25)."""
    levels = quantile_levels(distribution)
    error = y.unsqueeze(-1) - distribution
    return torch.maximum(levels * error, (levels - 1.0) * error).mean(dim=-1)


def likelihood(distribution: Tensor, y: Tensor, counted: Tensor, *, loss_mode: LossMode) -> Tensor:
    """Mean NLL or pinball loss over what is counted (...,)."""
    assert loss_mode != "sharpe"
    term = gaussian_nll if loss_mode == "joint_mle" else pinball
    return mean_over(term(distribution, y), counted)


def training_loss(
    position: Tensor,
    distribution: Tensor,
    y: Tensor,
    counted: Tensor,
    *,
    loss_mode: LossMode,
    mle_weight: float | Tensor,
    periods_per_year: float,
) -> Tensor:
    """Negative Sharpe of the raw positions plus mle_weight times the likelihood term; no such term in `sharpe` mode.

    mle_weight: of all, or (...,) one of each batch.
    """
    loss = negative_sharpe(position, y, counted, periods_per_year=periods_per_year)
    if loss_mode == "sharpe":
        return loss
    return loss + mle_weight * likelihood(distribution, y, counted, loss_mode=loss_mode)


def validation_score(
    position: Tensor, distribution: Tensor, y: Tensor, counted: Tensor, *, loss_mode: LossMode, periods_per_year: float
) -> Tensor:
    """What early stopping minimises: the likelihood term; in `sharpe` mode, which has none, the loss."""
    if loss_mode == "sharpe":
        return negative_sharpe(position, y, counted, periods_per_year=periods_per_year)
    return likelihood(distribution, y, counted, loss_mode=loss_mode)
