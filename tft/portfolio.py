"""What the portfolio earns in training: the position path in torch, and the gradient of its Sharpe ratio.

The path is that of tft/positions.py, which backtest and live follow, in a form that can be differentiated and needs no
loop over bars.

Shapes: K stacked folds, n neighbouring bars of a block (burn-in and scored), A instruments.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

MEMORY_BARS = 640
"""Scored bars that the running moments remember, whatever the length of a block: they are the fewer the more skewness
biases the ratio"""
VARIANCE_FLOOR = 1e-12
"""Least variance of a portfolio return"""


class Sizing(NamedTuple):
    """What may differ between stacked folds; all (K,)."""

    max_position: Tensor
    position_smooth: Tensor
    cost: Tensor
    """Cost of a position change of 1, as a fraction"""


class Block(NamedTuple):
    """What a block's positions meet; all (K, n, A)."""

    decided: Tensor
    """Whether there is a forecast, a known volatility and a trade, so that the position can change"""
    scale: Tensor
    """min(vol_target / annual volatility, max_leverage); any number where nothing is decided"""
    held_return: Tensor
    """Return of the bar in which the position is held, 0 if the instrument is not traded there"""
    scored: Tensor
    """Whether the bar counts and its return is known"""


class _Cap(Function):
    """Clip to +-cap; the gradient passes inside, and beyond the cap where it would move the position back inside."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, cap: Tensor) -> Tensor:
        ctx.save_for_backward(raw, cap)
        return torch.minimum(torch.maximum(raw, -cap), cap)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        raw, cap = ctx.saved_tensors
        (gradient,) = gradients
        outward = ((raw > cap) & (gradient < 0.0)) | ((raw < -cap) & (gradient > 0.0))  # a step goes against it
        return torch.where(outward, 0.0, gradient), None


def capped(raw: Tensor, cap: Tensor) -> Tensor:
    """Raw positions clipped to +-cap, of any shapes that broadcast; see `_Cap` for the gradient."""
    return _Cap.apply(raw, cap)  # type: ignore[no-any-return, no-untyped-call]


def held_positions(raw: Tensor, block: Block, sizing: Sizing) -> tuple[Tensor, Tensor]:
    """Positions held (K, n, A) and whether there is one (K, n, A), from raw positions (K, n, A).

    As tft.positions.position_path: p_j = s p_(j-1) + (1 - s) c_j over the bars j that decide, times the scale of the
    bar; a bar that does not keeps the position. The path starts at the instrument's first capped raw position.
    """
    decided = block.decided.to(raw.dtype)
    cap, smooth = (each.to(raw.dtype).view(-1, 1, 1) for each in (sizing.max_position, sizing.position_smooth))
    c = torch.where(block.decided, capped(torch.where(block.decided, raw, 0.0), cap), 0.0)  # (K, n, A)
    count = decided.cumsum(dim=1)  # decisions so far
    # p_t = sum over j <= t of weight_(t,j) c_j, weight = (1 - s) s^(decisions between), 1 - s being 1 for the first.
    between = (count.unsqueeze(2) - count.unsqueeze(1)).clamp_min(0.0)  # (K, t, j, A)
    share = torch.where(count == 1.0, 1.0, 1.0 - smooth) * decided  # (K, j, A)
    n = raw.shape[1]
    past = torch.ones(n, n, dtype=torch.bool, device=raw.device).tril()[None, :, :, None]
    weight = torch.where(past, smooth.unsqueeze(-1) ** between, 0.0) * share.unsqueeze(1)
    smoothed = (weight * c.unsqueeze(1)).sum(dim=2)  # (K, n, A)
    bar = torch.arange(n, device=raw.device).view(1, -1, 1)
    last = torch.where(block.decided, bar, 0).cummax(dim=1).values  # the bar that decided last
    return smoothed * block.scale.to(raw.dtype).gather(1, last), count > 0.0


def portfolio_returns(raw: Tensor, block: Block, sizing: Sizing) -> tuple[Tensor, Tensor]:
    """Net portfolio returns (K, n) by bar, and whether the bar counts (K, n): the mean over instruments of

        position_t return_(t+1+delay) - cost |position_t - position_(t-1)|

    over those with a position. The first position of a block is taken without cost.
    """
    position, exists = held_positions(raw, block, sizing)
    before = torch.cat([position[:, :1], position[:, :-1]], dim=1)
    existed = torch.cat([exists[:, :1], exists[:, :-1]], dim=1)
    change = torch.where(exists & existed, (position - before).abs(), 0.0)
    net = position * block.held_return.to(raw.dtype) - sizing.cost.to(raw.dtype).view(-1, 1, 1) * change
    earns = exists & block.scored
    n_earning = earns.sum(dim=2)
    return torch.where(earns, net, 0.0).sum(dim=2) / n_earning.clamp_min(1), n_earning > 0


def sharpe_loss(
    returns: Tensor, counted: Tensor, moments: Tensor, *, block_bars: int, periods_per_year: float
) -> tuple[Tensor, Tensor]:
    """Minus the annual Sharpe ratio (K,) of returns (K, n) where counted (K, n), and the next running moments (K, 3).

    moments: running sums of count, return and squared return (K, 3), zeros at first; a ratio of two of them is
    corrected for bias by itself. `block_bars` of the n bars are scored ones. The value is the Sharpe of the running
    moments, which hold this block's too; the gradient is that of the ratio mean / deviation at these moments with
    respect to the block's own mean and variance, so that it does not depend on how few bars a block has. A mean of the
    blocks' own Sharpes would: it rewards negative skew.
    """
    weight = counted.to(returns.dtype)
    sums = torch.stack([weight, weight * returns, weight * returns**2], dim=-1).sum(dim=1) / block_bars  # (K, 3)
    newest = min(block_bars / MEMORY_BARS, 1.0)
    following = (1.0 - newest) * moments + newest * sums.detach()
    n, total, squares = following.to(returns.dtype).unbind(dim=-1)
    n = n.clamp_min(torch.finfo(returns.dtype).tiny)
    mean = total / n
    variance = (squares / n - mean**2).clamp_min(VARIANCE_FLOOR)
    deviation = variance.sqrt()
    d_mean = sums[:, 1] - sums[:, 0] * mean
    d_variance = sums[:, 2] - sums[:, 0] * squares / n - 2.0 * mean * d_mean
    change = d_mean / deviation - 0.5 * mean * d_variance / (deviation * variance)
    annual = math.sqrt(periods_per_year)
    return -annual * (mean / deviation + change - change.detach()), following
