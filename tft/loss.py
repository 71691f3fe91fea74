"""The terms of the training loss, and the validation score, by which objective pooled keeps the epoch.

Shapes: (..., B) a batch of B targets, or all validation targets, with any leading dimensions; D parameters of the
predictive distribution. Labels are in units of sigma_t * sqrt(horizon). `counted` is 1 for targets and 0 for padding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tft.head import LossMode, quantile_levels

VARIANCE_FLOOR = 1e-8
"""Added to the variance in the Sharpe ratio of a batch"""


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over the last dimension of the values whose `counted` is 1; 0 if there are none."""
    return (values * counted).sum(dim=-1) / counted.sum(dim=-1).clamp_min(1.0)


def negative_sharpe(position: Tensor, y: Tensor, counted: Tensor, *, periods_per_year: float) -> Tensor:
    """Negative annual Sharpe ratio (...,) of position * y over a batch (..., B), with the population variance.

    -sqrt(periods_per_year) * mean(position * y) / sqrt(var(position * y) + VARIANCE_FLOOR)
    """
    pnl = position * y
    mean = mean_over(pnl, counted)
    variance = mean_over((pnl - mean.unsqueeze(-1)) ** 2, counted)
    return -math.sqrt(periods_per_year) * mean / torch.sqrt(variance + VARIANCE_FLOOR)


def gaussian_nll(distribution: Tensor, y: Tensor) -> Tensor:
    """Negative log likelihood (..., B) of y (..., B) under a Gaussian with mu, sigma = distribution (..., B, 2)."""
    mu, sigma = distribution[..., 0], distribution[..., 1]
    return 0.5 * math.log(2.0 * math.pi) + torch.log(sigma) + 0.5 * ((y - mu) / sigma) ** 2


def correlated_nll(distribution: Tensor, y: Tensor, counted: Tensor, correlation: Tensor) -> Tensor:
    """Mean negative log likelihood (K,) of y (K, n, A) under Gaussians mu, sigma = distribution (K, n, A, 2) whose
    errors e = (y - mu) / sigma have one correlation (K,) between all instruments of a bar.

    What the instruments have in common is most of a return's noise: a likelihood that takes them for independent learns
    as from a fraction of the bars. With R = (1 - r) I + r 11' over the m counted instruments of a bar (generalised
    least squares, Aitken 1935),

        e' R^-1 e = (sum e^2 - r / (1 + (m - 1) r) (sum e)^2) / (1 - r)
        log|R| = (m - 1) log(1 - r) + log(1 + (m - 1) r)
    """
    mu, sigma = distribution[..., 0], distribution[..., 1]
    e = (y - mu) / sigma * counted
    m = counted.sum(dim=-1)
    r = correlation.unsqueeze(-1)
    squares = ((e**2).sum(dim=-1) - r / (1.0 + (m - 1.0) * r) * e.sum(dim=-1) ** 2) / (1.0 - r)  # (K, n)
    log_determinant = (m - 1.0) * torch.log1p(-r) + torch.log1p((m - 1.0) * r)
    by_bar = (torch.log(sigma) * counted).sum(dim=-1) + 0.5 * (squares + log_determinant + m * math.log(2.0 * math.pi))
    return torch.where(m > 0.0, by_bar, 0.0).sum(dim=-1) / m.sum(dim=-1).clamp_min(1.0)


def pinball(distribution: Tensor, y: Tensor) -> Tensor:
    """Quantile loss (..., B) of quantiles (..., B, 7), mean over QUANTILE_LEVELS (Lim et al. 2021, eqs 24-25)."""
    levels = quantile_levels(distribution)
    error = y.unsqueeze(-1) - distribution
    return torch.maximum(levels * error, (levels - 1.0) * error).mean(dim=-1)


def likelihood(distribution: Tensor, y: Tensor, counted: Tensor, *, loss_mode: LossMode) -> Tensor:
    """Mean negative log likelihood or pinball loss (...,) over the counted targets; not defined in `sharpe` mode."""
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
    """Negative Sharpe ratio (...,) of the raw positions plus `mle_weight` times the likelihood term.

    `sharpe` mode has no likelihood term. `mle_weight` is a number or a tensor (...,) with one weight per batch.
    """
    loss = negative_sharpe(position, y, counted, periods_per_year=periods_per_year)
    if loss_mode == "sharpe":
        return loss
    return loss + mle_weight * likelihood(distribution, y, counted, loss_mode=loss_mode)


def validation_score(
    position: Tensor, distribution: Tensor, y: Tensor, counted: Tensor, *, loss_mode: LossMode, periods_per_year: float
) -> Tensor:
    """Score (...,) of an epoch, lower is better: the likelihood term, in `sharpe` mode the negative Sharpe ratio."""
    if loss_mode == "sharpe":
        return negative_sharpe(position, y, counted, periods_per_year=periods_per_year)
    return likelihood(distribution, y, counted, loss_mode=loss_mode)
