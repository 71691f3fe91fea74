"""Positions and distributions from the last layer's numbers, worked by hand and against other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tft.test_model import N_ASSETS, N_VARIABLES, SMALL, TIGHT, make_batch, make_model
from tft.head import LOSS_MODES, QUANTILE_LEVELS, SIGMA_FLOOR, LossMode, probability_up, read_head
from tft.model import TemporalFusionTransformer


def raw_heads(width: int, n: int = 200) -> Tensor:
    return 3.0 * torch.randn(n, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_sharpe_head_gives_a_position_and_no_distribution() -> None:
    raw = raw_heads(1)
    position, distribution = read_head(raw, "sharpe")
    torch.testing.assert_close(position, torch.tanh(raw[:, 0]))
    assert distribution.shape == (200, 0)


def test_a_gaussian_head_takes_the_position_from_the_probability_of_a_rise() -> None:
    """2 Phi(mu / sigma) - 1, sigma never below its floor."""
    raw = raw_heads(2)
    raw[0, 1] = -1e3
    position, distribution = read_head(raw, "joint_mle")
    mu, sigma = distribution.unbind(-1)
    assert sigma.min() == SIGMA_FLOOR
    above_zero = 1.0 - torch.distributions.Normal(mu, sigma).cdf(torch.zeros_like(mu))
    torch.testing.assert_close(position, 2.0 * above_zero - 1.0, **TIGHT)


def test_a_quantile_head_is_monotone_and_takes_the_position_from_its_distribution() -> None:
    position, quantiles = read_head(raw_heads(len(QUANTILE_LEVELS)), "joint_quantile")
    assert (quantiles.diff(dim=-1) >= 0.0).all()
    torch.testing.assert_close(position, 2.0 * probability_up(quantiles) - 1.0)


def test_the_probability_of_a_rise_comes_from_the_interpolated_distribution_function() -> None:
    """As numpy.interp has it, flat beyond the outermost quantiles; every segment is met."""
    _, quantiles = read_head(raw_heads(len(QUANTILE_LEVELS), 400), "joint_quantile")
    quantiles[0] = torch.linspace(0.5, 1.0, 7)
    quantiles[1] = torch.linspace(-1.0, -0.5, 7)
    expected = [1.0 - np.interp(0.0, row, QUANTILE_LEVELS) for row in quantiles.numpy()]
    np.testing.assert_allclose(probability_up(quantiles).numpy(), expected, atol=1e-12)
    assert set((quantiles < 0.0).sum(dim=-1).tolist()) == set(range(8))


def test_the_probability_of_a_rise_worked_by_hand() -> None:
    """0 a third of the way between the quantiles of 0.25 and 0.5; on the median; outside on either side."""
    table = torch.tensor(
        [
            [-4.0, -3.0, -1.0, 2.0, 3.0, 4.0, 5.0],
            [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0],
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
            [-7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0],
        ],
        dtype=torch.float64,
    )
    expected = torch.tensor([1.0 - 0.25 - 0.25 / 3.0, 0.5, 0.95, 0.05], dtype=torch.float64)
    torch.testing.assert_close(probability_up(table), expected, **TIGHT)


# How training begins, and what is done to the distribution after it


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_with_nothing_but_its_biases_the_head_forecasts_a_standard_normal(loss_mode: LossMode) -> None:
    model = TemporalFusionTransformer(SMALL, n_variables=N_VARIABLES, n_assets=N_ASSETS, loss_mode=loss_mode).double()
    position, distribution = read_head(model.windows.head.bias.detach()[None], loss_mode)
    assert position.item() == pytest.approx(0.0, abs=1e-6)
    expected = {
        "sharpe": [],
        "joint_mle": [0.0, 1.0],
        "joint_quantile": [-1.644854, -1.281552, -0.674490, 0.0, 0.674490, 1.281552, 1.644854],  # of a table
    }
    assert distribution[0].tolist() == pytest.approx(expected[loss_mode], abs=1e-5)


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_recalibration_scales_centre_and_spread_and_leaves_the_position(loss_mode: LossMode) -> None:
    model, batch = make_model(loss_mode=loss_mode), make_batch()
    model.requires_grad_(False)
    model.windows.recalibration.fill_(1.0)
    before, _ = model(*batch.inputs())
    model.windows.recalibration.copy_(torch.tensor([0.5, 2.0]))
    after, _ = model(*batch.inputs())
    assert torch.equal(before.position, after.position)
    if loss_mode == "joint_mle":
        torch.testing.assert_close(after.distribution, before.distribution * torch.tensor([0.5, 2.0]), **TIGHT)
    if loss_mode == "joint_quantile":
        middle = before.distribution[:, 3:4]
        torch.testing.assert_close(after.distribution[:, 3:4], 0.5 * middle, **TIGHT)
        width = after.distribution.diff(dim=1) / before.distribution.diff(dim=1)
        torch.testing.assert_close(width, torch.full_like(width, 2.0), **TIGHT)
