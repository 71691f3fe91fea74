"""The loss against torch.distributions, scipy and plain loops; padding never enters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from tft.head import LOSS_MODES, QUANTILE_LEVELS, LossMode
from tft.loss import (
    correlated_nll,
    gaussian_nll,
    likelihood,
    mean_over,
    negative_sharpe,
    pinball,
    training_loss,
    validation_score,
)


def sample(loss_mode: LossMode, n: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """position, distribution, y, counted; the last two are padding."""
    draws = torch.Generator().manual_seed(seed)
    position = torch.rand(n, generator=draws, dtype=torch.float64) * 2.0 - 1.0
    y = torch.randn(n, generator=draws, dtype=torch.float64)
    counted = torch.ones(n, dtype=torch.float64)
    counted[-2:] = 0.0
    if loss_mode == "sharpe":
        return position, position.new_empty(n, 0), y, counted
    if loss_mode == "joint_mle":
        mu = torch.randn(n, generator=draws, dtype=torch.float64)
        sigma = 0.2 + torch.rand(n, generator=draws, dtype=torch.float64)
        return position, torch.stack([mu, sigma], dim=-1), y, counted
    quantiles = torch.randn(n, len(QUANTILE_LEVELS), generator=draws, dtype=torch.float64)
    return position, quantiles.sort(dim=-1).values, y, counted


def naive_sharpe(position: Tensor, y: Tensor, periods_per_year: float) -> float:
    pnl = [p * r for p, r in zip(position.tolist(), y.tolist(), strict=True)]
    mean = sum(pnl) / len(pnl)
    variance = sum((one - mean) ** 2 for one in pnl) / len(pnl)
    return math.sqrt(periods_per_year) * mean / math.sqrt(variance + 1e-8)


def naive_pinball(quantiles: Tensor, y: Tensor) -> float:
    total = 0.0
    for row, value in zip(quantiles.tolist(), y.tolist(), strict=True):
        for level, quantile in zip(QUANTILE_LEVELS, row, strict=True):
            total += level * (value - quantile) if value >= quantile else (1.0 - level) * (quantile - value)
    return total / y.numel() / len(QUANTILE_LEVELS)


def test_the_gaussian_term_is_minus_the_log_density() -> None:
    _, distribution, y, _ = sample("joint_mle")
    expected = -torch.distributions.Normal(distribution[:, 0], distribution[:, 1]).log_prob(y)
    torch.testing.assert_close(gaussian_nll(distribution, y), expected, rtol=1e-12, atol=1e-12)


def test_the_pinball_term_is_the_mean_over_levels_by_a_loop() -> None:
    _, quantiles, y, _ = sample("joint_quantile")
    assert pinball(quantiles, y).mean().item() == pytest.approx(naive_pinball(quantiles, y), rel=1e-12)


def test_pinball_worked_by_hand() -> None:
    """All quantiles at 0 and y = 1: each level costs itself; y = -1: what is left of it to 1."""
    zeros = torch.zeros(2, len(QUANTILE_LEVELS), dtype=torch.float64)
    found = pinball(zeros, torch.tensor([1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.full((2,), 0.5, dtype=torch.float64))
    skewed = zeros.clone()
    skewed[0, :6] = 1.0  # only the highest level, 0.95, is off
    assert pinball(skewed, torch.ones(2, dtype=torch.float64))[0].item() == pytest.approx(0.95 / 7)


def test_the_sharpe_term_by_a_loop() -> None:
    """Population variance over the batch, a floor of 1e-8, padding left out."""
    position, _, y, counted = sample("sharpe")
    found = negative_sharpe(position, y, counted, periods_per_year=252.0)
    assert found.item() == pytest.approx(-naive_sharpe(position[:-2], y[:-2], 252.0), rel=1e-12)


def test_a_flat_batch_has_a_finite_loss_and_gradient() -> None:
    position = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    loss = negative_sharpe(position, torch.randn(8, dtype=torch.float64), torch.ones(8), periods_per_year=252.0)
    (gradient,) = torch.autograd.grad(loss, position)
    assert loss.item() == 0.0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_the_training_loss_adds_the_weighted_likelihood(loss_mode: LossMode) -> None:
    """-Sharpe + weight * (NLL | pinball); in sharpe mode there is no likelihood, whatever the weight."""
    position, distribution, y, counted = sample(loss_mode)
    found = training_loss(
        position, distribution, y, counted, loss_mode=loss_mode, mle_weight=0.3, periods_per_year=365.0
    )
    expected = -naive_sharpe(position[:-2], y[:-2], 365.0)
    if loss_mode == "joint_mle":
        normal = torch.distributions.Normal(distribution[:-2, 0], distribution[:-2, 1])
        expected -= 0.3 * normal.log_prob(y[:-2]).mean().item()
    if loss_mode == "joint_quantile":
        expected += 0.3 * naive_pinball(distribution[:-2], y[:-2])
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_early_stopping_goes_by_the_likelihood_and_in_sharpe_mode_by_the_loss(loss_mode: LossMode) -> None:
    position, distribution, y, counted = sample(loss_mode)
    found = validation_score(position, distribution, y, counted, loss_mode=loss_mode, periods_per_year=252.0)
    if loss_mode == "sharpe":
        expected = negative_sharpe(position, y, counted, periods_per_year=252.0)
    else:
        expected = likelihood(distribution, y, counted, loss_mode=loss_mode)
        flipped = validation_score(-position, distribution, y, counted, loss_mode=loss_mode, periods_per_year=252.0)
        assert flipped == found  # positions do not enter
    assert found == expected


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_padding_changes_neither_loss_nor_gradient(loss_mode: LossMode) -> None:
    position, distribution, y, counted = sample(loss_mode)

    def loss_and_gradient(n: int, fill: float) -> tuple[Tensor, Tensor]:
        p = position[:n].clone()
        p[10:] = fill
        p.requires_grad_(True)
        loss = training_loss(
            p, distribution[:n], y[:n], counted[:n], loss_mode=loss_mode, mle_weight=0.2, periods_per_year=252.0
        )
        (gradient,) = torch.autograd.grad(loss, p)
        return loss.detach(), gradient

    loss, gradient = loss_and_gradient(10, 0.0)
    padded_loss, padded_gradient = loss_and_gradient(12, 0.7)
    torch.testing.assert_close(padded_loss, loss, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(padded_gradient[:10], gradient, rtol=1e-12, atol=1e-15)
    assert (padded_gradient[10:] == 0.0).all()


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_a_stack_of_batches_gives_each_its_own_loss(loss_mode: LossMode) -> None:
    batches = [sample(loss_mode, seed=seed) for seed in range(3)]
    batches[1][3][:5] = 0.0
    together = [torch.stack(parts) for parts in zip(*batches, strict=True)]

    def loss(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        return training_loss(*parts, loss_mode=loss_mode, mle_weight=0.2, periods_per_year=252.0)

    torch.testing.assert_close(loss(together), torch.stack([loss(one) for one in batches]), rtol=1e-12, atol=1e-14)


def test_the_mean_over_nothing_is_zero() -> None:
    assert mean_over(torch.ones(4), torch.zeros(4)) == 0.0


# The likelihood of instruments whose errors are correlated


def correlated_sample(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """distribution (2, 7, 4, 2), y and counted (2, 7, 4); some are missing, of one bar all, of another all but one."""
    draws = torch.Generator().manual_seed(seed)
    mu = torch.randn(2, 7, 4, generator=draws, dtype=torch.float64)
    sigma = 0.2 + torch.rand(2, 7, 4, generator=draws, dtype=torch.float64)
    y = torch.randn(2, 7, 4, generator=draws, dtype=torch.float64)
    counted = (torch.rand(2, 7, 4, generator=draws) > 0.3).double()
    counted[0, 2] = 0.0
    counted[1, 3, 1:] = 0.0
    return torch.stack([mu, sigma], dim=-1), y, counted


def test_the_correlated_term_is_minus_the_log_density_of_each_bar_by_scipy() -> None:
    """Over the counted instruments of a bar, one correlation between all; per target in the mean."""
    distribution, y, counted = correlated_sample()
    correlations = [0.35, 0.9]
    found = correlated_nll(distribution, y, counted, torch.tensor(correlations, dtype=torch.float64))
    for k, r in enumerate(correlations):
        total = 0.0
        for bar in range(7):
            there = counted[k, bar].numpy() > 0.0
            if there.any():
                mu, sigma = distribution[k, bar].numpy()[there].T
                matrix = np.where(np.eye(len(mu)) > 0.0, 1.0, r) * np.outer(sigma, sigma)
                total -= multivariate_normal.logpdf(y[k, bar].numpy()[there], mu, matrix)
        assert found[k].item() == pytest.approx(total / counted[k].sum().item(), rel=1e-10)


def test_without_correlation_it_is_the_gaussian_term() -> None:
    distribution, y, counted = correlated_sample(1)
    found = correlated_nll(distribution, y, counted, torch.zeros(2, dtype=torch.float64))
    expected = mean_over(gaussian_nll(distribution, y).flatten(1), counted.flatten(1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_correlated_term_is_the_numeric_one() -> None:
    """Nothing flows to what is not counted."""
    distribution, y, counted = correlated_sample(2)
    r = torch.tensor([0.3, 0.8], dtype=torch.float64)
    distribution.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda d: correlated_nll(d, y, counted, r), distribution)
    (gradient,) = torch.autograd.grad(correlated_nll(distribution, y, counted, r).sum(), distribution)
    assert (gradient[counted == 0.0] == 0.0).all()


def test_with_nothing_counted_the_correlated_term_is_zero() -> None:
    distribution, y, _ = correlated_sample(3)
    found = correlated_nll(distribution, y, torch.zeros_like(y), torch.tensor([0.5, 0.98], dtype=torch.float64))
    assert found.tolist() == [0.0, 0.0]
