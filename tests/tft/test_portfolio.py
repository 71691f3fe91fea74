"""The portfolio in training: the path of backtest and live, gradients, and what the running Sharpe ranks first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tft.blocks import BURN_IN_LEFT, MAX_BURN_IN_BARS, burn_in_bars
from tft.portfolio import MEMORY_BARS, Block, Sizing, capped, held_positions, portfolio_returns, sharpe_loss
from tft.positions import (
    BASIS_POINT,
    PositionsConfig,
    earnings,
    portfolio_return,
    position_path,
    volatility_scale,
)
from tft.volatility import Timing, held_return

ANNUAL = 252.0
TIMING = Timing(periods_per_year=ANNUAL, delay_bars=1)

Array = NDArray[np.float64]


class Case(NamedTuple):
    """Raw positions, volatility and returns of a panel, NaN = missing, and how the positions are sized."""

    raw: Array  # (n, A)
    sigma: Array
    returns: Array
    config: PositionsConfig


def random_case(rng: np.random.Generator, n_bars: int, n_assets: int) -> Case:
    """Missing forecasts, bars without volatility or trade; caps that bind; no smoothing in one case of four."""
    raw = rng.uniform(-1.0, 1.0, (n_bars, n_assets))
    sigma = rng.uniform(0.001, 0.03, (n_bars, n_assets))
    returns = rng.normal(0.0, 0.01, (n_bars, n_assets))
    for values in (raw, sigma, returns):
        values[rng.random(values.shape) < rng.choice([0.0, 0.15, 0.5])] = np.nan
    config = PositionsConfig(
        max_position=float(rng.uniform(0.05, 1.0)),
        position_smooth=float(rng.choice([0.0, 0.3, 0.5, 0.95])),
        cost_bps=float(rng.choice([0.0, 5.0, 200.0])),
    )
    return Case(raw, sigma, returns, config)


def in_torch(cases: list[Case]) -> tuple[Tensor, Block, Sizing]:
    """Raw positions, block and sizing of a stack of folds, in float64; any number stands where nothing is known."""

    def stack(values: list[NDArray[np.generic]]) -> Tensor:
        return torch.from_numpy(np.stack(values))

    scales = [volatility_scale(one.sigma, one.config, TIMING) for one in cases]
    known = np.arange(len(cases[0].raw)) < len(cases[0].raw) - TIMING.label_bars
    block = Block(
        decided=stack(
            [
                np.isfinite(one.raw) & np.isfinite(scale) & np.isfinite(one.returns)
                for one, scale in zip(cases, scales, strict=True)
            ]
        ),
        scale=stack([np.nan_to_num(scale, nan=77.0) for scale in scales]),
        held_return=stack([np.nan_to_num(held_return(one.returns, TIMING), nan=0.0) for one in cases]),
        scored=stack([np.broadcast_to(known[:, None], one.raw.shape) for one in cases]),
    )
    sizing = Sizing(
        *(
            torch.tensor(values, dtype=torch.float64)
            for values in (
                [one.config.max_position for one in cases],
                [one.config.position_smooth for one in cases],
                [one.config.cost_bps * BASIS_POINT for one in cases],
            )
        )
    )
    return stack([np.nan_to_num(one.raw, nan=55.0) for one in cases]), block, sizing


def by_backtest(case: Case) -> tuple[Array, Array]:
    """Positions (n, A) and net portfolio returns (n,) by tft.positions, each instrument from its first decision on.

    There it starts as if its first capped raw position had been held before: p = s c + (1 - s) c = c, without cost.
    """
    raw, sigma, returns, config = case
    scale = volatility_scale(sigma, config, TIMING)
    traded = np.isfinite(returns)
    decided = np.isfinite(raw) & np.isfinite(scale) & traded
    position = np.full(raw.shape, np.nan)
    first_cost = np.zeros(raw.shape)
    for i in range(raw.shape[1]):
        if not decided[:, i].any():
            continue
        start = int(decided[:, i].argmax())
        own = slice(start, None), slice(i, i + 1)
        at_first = np.clip(raw[start, i : i + 1], -config.max_position, config.max_position)
        before = position_path(raw[own][:0], sigma[own][:0], config, TIMING)
        before = replace(before, smoothed=at_first)
        position[own] = position_path(raw[own], sigma[own], config, TIMING, traded=traded[own], before=before).position
        first_cost[start, i] = config.cost_bps * BASIS_POINT * abs(position[start, i])
    return position, portfolio_return(earnings(position, returns, config, TIMING).net + first_cost)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_folds=st.integers(1, 3),
    n_bars=st.integers(2, 40),
    n_assets=st.integers(1, 5),
)
def test_positions_and_returns_are_those_of_the_backtest(seed: int, n_folds: int, n_bars: int, n_assets: int) -> None:
    """To 1e-12, cells missing anywhere, each stacked fold with its own cap, smoothing and cost."""
    rng = np.random.default_rng(seed)
    cases = [random_case(rng, n_bars, n_assets) for _ in range(n_folds)]
    raw, block, sizing = in_torch(cases)
    held, exists = held_positions(raw, block, sizing)
    returns, counted = portfolio_returns(raw, block, sizing)
    for k, case in enumerate(cases):
        position, net = by_backtest(case)
        assert np.array_equal(exists[k].numpy(), np.isfinite(position))
        np.testing.assert_allclose(held[k][exists[k]].numpy(), position[np.isfinite(position)], rtol=0.0, atol=1e-12)
        assert np.array_equal(counted[k].numpy(), np.isfinite(net))
        np.testing.assert_allclose(returns[k][counted[k]].numpy(), net[np.isfinite(net)], rtol=0.0, atol=1e-12)


def test_what_stands_where_nothing_is_known_does_not_matter() -> None:
    """Neither for the returns nor, being undecided, for the gradient."""
    raw, block, sizing = in_torch([random_case(np.random.default_rng(3), 30, 3)])
    assert not block.decided.all()
    other = torch.where(block.decided, raw, torch.nan)
    elsewhere = block._replace(scale=torch.where(block.decided, block.scale, -9.0))
    other.requires_grad_(True)
    returns, _ = portfolio_returns(other, elsewhere, sizing)
    assert torch.equal(returns, portfolio_returns(raw, block, sizing)[0])
    (gradient,) = torch.autograd.grad(returns.sum(), other)
    assert (gradient[~block.decided] == 0.0).all() and gradient.isfinite().all()


def test_a_path_worked_by_hand() -> None:
    """Cap 0.3, half of the last position kept, scale 2 and then 1, cost 0.01 a unit.

    raw 1, 0.1, undecided, -1: smoothed 0.3, 0.2, 0.2, -0.05; position 0.6, 0.2, 0.2, -0.05;
    change (free), 0.4, 0, 0.25; held return 0.1 throughout.
    """
    raw = torch.tensor([1.0, 0.1, 0.7, -1.0], dtype=torch.float64).view(1, 4, 1)
    block = Block(
        decided=torch.tensor([True, True, False, True]).view(1, 4, 1),
        scale=torch.tensor([2.0, 1.0, 5.0, 1.0], dtype=torch.float64).view(1, 4, 1),
        held_return=torch.full((1, 4, 1), 0.1, dtype=torch.float64),
        scored=torch.tensor([False, True, True, True]).view(1, 4, 1),
    )
    sizing = Sizing(*(torch.tensor([value], dtype=torch.float64) for value in (0.3, 0.5, 0.01)))
    returns, counted = portfolio_returns(raw, block, sizing)
    assert counted.tolist() == [[False, True, True, True]]
    np.testing.assert_allclose(returns[0].numpy(), [0.0, 0.02 - 0.004, 0.02, -0.005 - 0.0025], atol=1e-15)


# Gradients


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_the_numeric_one_away_from_kinks(seed: int) -> None:
    """Kinks are at the cap and where a position does not change at all; a finite difference does not see the latter."""
    rng = np.random.default_rng(seed)
    case = random_case(rng, 9, 3)
    case = case._replace(config=replace(case.config, max_position=0.5, position_smooth=[0.0, 0.4][seed % 2]))
    away = np.where(np.abs(np.abs(case.raw) - 0.5) < 0.01, 0.3, case.raw)
    inside = np.clip(away, -0.49, 0.49)  # beyond the cap the gradient is on purpose not the numeric one
    raw, block, sizing = in_torch([case._replace(raw=inside)])

    def returns(raw: Tensor) -> Tensor:
        return portfolio_returns(raw, block, sizing)[0]

    assert torch.autograd.gradcheck(returns, raw.requires_grad_(True))


def test_the_gradient_of_the_cap_passes_only_where_a_step_leads_back_inside() -> None:
    """A step goes against the gradient: beyond the upper cap a positive gradient leads back, beyond the lower a
    negative one; inside and on the cap all pass."""
    raw = torch.tensor([0.9, 0.9, -0.9, -0.9, 0.1, 0.1, 0.3, -0.3], dtype=torch.float64, requires_grad=True)
    push = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    out = capped(raw, torch.tensor(0.3, dtype=torch.float64))
    assert out.tolist() == [0.3, 0.3, -0.3, -0.3, 0.1, 0.1, 0.3, -0.3]
    (gradient,) = torch.autograd.grad(out, raw, push)
    assert gradient.tolist() == [1.0, 0.0, 0.0, -1.0, 1.0, -1.0, -1.0, 1.0]


def test_a_saturated_position_comes_back_by_gradient_descent() -> None:
    """With the gradient of torch.clamp it would stay where it is."""
    raw = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    cap = torch.tensor(0.3, dtype=torch.float64)
    for _ in range(100):
        (gradient,) = torch.autograd.grad((capped(raw, cap) ** 2).sum(), raw)
        raw = (raw - 0.1 * gradient).detach().requires_grad_(True)
    assert abs(raw.item()) < 0.01


# Burn-in


@pytest.mark.parametrize("smooth", [0.01, 0.3, 0.46, 0.5, 0.9, 0.95])
def test_after_the_burn_in_the_start_is_forgotten(smooth: float) -> None:
    """What a position before it still weighs in the first scored one is at most 0.05, and a bar fewer would not do."""
    n_bars = burn_in_bars(smooth)
    assert smooth**n_bars <= BURN_IN_LEFT
    assert n_bars == 1 or smooth ** (n_bars - 1) > BURN_IN_LEFT
    raw = torch.zeros(1, n_bars + 1, 1, dtype=torch.float64)
    raw[0, 0] = 1.0
    one, no = torch.ones_like(raw), torch.zeros_like(raw)
    block = Block(one > 0, one, no, one > 0)
    sizing = Sizing(*(torch.tensor([value], dtype=torch.float64) for value in (1.0, smooth, 0.0)))
    held, _ = held_positions(raw, block, sizing)
    assert held[0, -1, 0].item() == pytest.approx(smooth**n_bars)


def test_the_burn_in_has_a_least_and_a_most() -> None:
    assert burn_in_bars(0.0) == 1  # the bar from which the first change is counted
    assert burn_in_bars(0.999) == MAX_BURN_IN_BARS == 64


# The Sharpe ratio of the running moments


def running(blocks: Sequence[Tensor]) -> tuple[list[float], Tensor]:
    """The loss after each block, and the last moments."""
    moments, losses = torch.zeros(1, 3, dtype=torch.float64), []
    for block in blocks:
        loss, moments = loss_of(block, torch.ones_like(block) > 0, moments)
        losses.append(loss.item())
    return losses, moments


def loss_of(returns: Tensor, counted: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    return sharpe_loss(returns, counted, moments, block_bars=int(counted.sum()), periods_per_year=ANNUAL)


def pooled_sharpe(blocks: Sequence[Tensor]) -> float:
    """Annual Sharpe of all returns, weighted by how much of their block is remembered."""
    n_bars = blocks[0].shape[1]
    kept = 1.0 - n_bars / MEMORY_BARS
    weights = np.repeat(kept ** np.arange(len(blocks))[::-1], n_bars)
    values = np.concatenate([block[0].numpy() for block in blocks])
    mean = np.average(values, weights=weights)
    return float(math.sqrt(ANNUAL) * mean / math.sqrt(np.average((values - mean) ** 2, weights=weights)))


def test_the_value_is_the_sharpe_of_the_remembered_returns() -> None:
    """From the first block on: the weights of a young average cancel in the ratio."""
    rng = np.random.default_rng(0)
    blocks = [torch.from_numpy(rng.normal(0.001, 0.01, (1, 16))) for _ in range(30)]
    losses, _ = running(blocks)
    for n_blocks in (1, 2, 30):
        assert losses[n_blocks - 1] == pytest.approx(-pooled_sharpe(blocks[:n_blocks]), rel=1e-9)


@pytest.mark.parametrize("n_bars", [2, 8, 32])
def test_the_gradient_is_that_of_the_ratio_of_all_remembered_returns(n_bars: int) -> None:
    """Numeric derivative of the remembered Sharpe as the newest block's returns move, up to that block's weight among
    the remembered ones, whatever the block's length."""
    rng = np.random.default_rng(1)
    blocks = [torch.from_numpy(rng.normal(0.0005, 0.01, (1, n_bars))) for _ in range(60)]
    _, moments = running(blocks[:-1])
    newest = blocks[-1].clone().requires_grad_(True)
    loss, following = loss_of(newest, torch.ones_like(newest) > 0, moments)
    (gradient,) = torch.autograd.grad(loss.sum(), newest)
    weight = n_bars / MEMORY_BARS / following[0, 0].item()
    step = 1e-6
    for i in range(n_bars):
        sides = []
        for sign in (1.0, -1.0):
            moved = blocks[-1].clone()
            moved[0, i] += sign * step
            sides.append(-pooled_sharpe([*blocks[:-1], moved]))
        assert weight * gradient[0, i].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)


def test_bars_that_do_not_count_do_not_matter() -> None:
    """Not for the value, nor for the ratio of the moments, nor for the direction of the gradient."""
    rng = np.random.default_rng(2)
    values = torch.from_numpy(rng.normal(0.001, 0.01, (1, 12)))
    padded = torch.cat([torch.full((1, 5), 3.0, dtype=torch.float64), values], dim=1)
    counted = torch.arange(17)[None] >= 5
    results = []
    for returns, counts in ((values, counted[:, 5:]), (padded, counted)):
        returns = returns.clone().requires_grad_(True)
        start = torch.zeros(1, 3, dtype=torch.float64)
        loss, moments = loss_of(returns, counts, start)
        (gradient,) = torch.autograd.grad(loss.sum(), returns)
        results.append((loss.item(), moments[0] / moments[0, 0], gradient[0] / gradient.norm()))
    (loss, ratio, direction), (padded_loss, padded_ratio, padded_direction) = results
    assert padded_loss == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(padded_ratio, ratio)
    torch.testing.assert_close(padded_direction[5:], direction)
    assert (padded_direction[:5] == 0.0).all()


def test_a_block_in_which_nothing_counts_has_no_gradient() -> None:
    returns = torch.randn(1, 8, dtype=torch.float64, requires_grad=True)
    moments = torch.zeros(1, 3, dtype=torch.float64)
    loss, following = sharpe_loss(returns, torch.zeros(1, 8) > 0, moments, block_bars=8, periods_per_year=ANNUAL)
    (gradient,) = torch.autograd.grad(loss.sum(), returns)
    assert loss.isfinite().all() and (gradient == 0.0).all() and (following == 0.0).all()


def stream(mean_sharpe: float, jump: float, every: int, n_returns: int, seed: int) -> Array:
    """Returns of unit noise with a jump once in so many bars, of exactly this annual Sharpe."""
    rng = np.random.default_rng(seed)
    noise = 0.2 * rng.standard_normal(n_returns)
    noise[rng.permutation(n_returns)[: n_returns // every]] += jump
    noise = (noise - noise.mean()) / noise.std()
    return np.asarray(noise + mean_sharpe / math.sqrt(ANNUAL))


@pytest.mark.parametrize("n_bars", [8, 16, 32])
def test_rare_gains_are_ranked_above_rare_losses_of_a_lower_sharpe(n_bars: int) -> None:
    """Over a stream of blocks a lottery of true Sharpe 1.1 beats rare losses of 1.0, on average over the steps, where
    the mean of the blocks' own Sharpes has it the other way round: many blocks do not hold the rare bar."""
    lottery, losses = (
        torch.from_numpy(stream(sharpe, jump, 14, 32_000, seed=0).reshape(-1, 1, n_bars))
        for sharpe, jump in ((1.1, 3.0), (1.0, -3.0))
    )

    def by_moments(blocks: Tensor) -> float:
        return -float(np.mean(running(list(blocks))[0][MEMORY_BARS // n_bars :]))

    def by_blocks(blocks: Tensor) -> float:
        return float((math.sqrt(ANNUAL) * blocks.mean(dim=2) / blocks.std(dim=2, unbiased=False)).mean())

    assert by_moments(lottery) > by_moments(losses)
    assert by_moments(lottery) == pytest.approx(1.1, abs=0.1) and by_moments(losses) == pytest.approx(1.0, abs=0.1)
    assert by_blocks(lottery) < by_blocks(losses) - 3.0


def test_at_the_moments_of_a_whole_stream_any_skewness_is_ranked_right() -> None:
    """One bar in a hundred holds the gain, or the loss; blocks of eight."""
    values = []
    for sharpe, jump in ((1.1, 20.0), (1.0, -20.0)):
        blocks = torch.from_numpy(stream(sharpe, jump, 100, 32_000, seed=0).reshape(-1, 1, 8))
        moments = 1e6 * torch.stack([torch.ones(()).double(), blocks.mean(), (blocks**2).mean()])[None]
        values.append(-float(np.mean([loss_of(b, torch.ones_like(b) > 0, moments)[0].item() for b in blocks])))
    assert values == pytest.approx([1.1, 1.0], abs=1e-3)
