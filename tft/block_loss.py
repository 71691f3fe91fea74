"""The loss of a training block: minus the net Sharpe of what the portfolio earns over it, plus the likelihood.

Shapes: T bars, A instruments, K stacked folds, B targets of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.blocks import BlockBatch
from tft.cross_section import hedged
from tft.loss import correlated_nll, likelihood
from tft.market import Market
from tft.model import Output
from tft.portfolio import Block, Sizing, portfolio_returns, sharpe_loss
from tft.positions import BASIS_POINT, volatility_scale
from tft.recipe import Recipe
from tft.volatility import held_return


class BlockLoss:
    """What a stack's blocks earn: the market's tensors by cell, and the running moments of the portfolio's returns."""

    def __init__(self, market: Market, recipes: Sequence[Recipe], correlation: Sequence[float]) -> None:
        device, positions = market.device, [recipe.positions for recipe in recipes]
        scale = volatility_scale(market.sigma, positions[0], market.timing)
        traded = np.isfinite(market.panel.returns)
        held = held_return(market.panel.returns, market.timing)
        ended = np.arange(len(held)) < len(held) - market.timing.label_bars

        def flat(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values).reshape(-1)).to(device)

        self.scale = flat(np.nan_to_num(scale, nan=0.0).astype(np.float32))
        self.can_decide = flat(np.isfinite(scale) & traded)
        self.held_return = flat(np.nan_to_num(held, nan=0.0).astype(np.float32))
        self.has_ended = flat(np.repeat(ended, held.shape[1]))
        self.y, self.labelled = market.y_on_device, flat(np.isfinite(market.y))
        self.n_assets, self.periods_per_year = held.shape[1], market.timing.periods_per_year
        self.loss_mode, self.block_bars = recipes[0].training.loss_mode, recipes[0].training.block_bars

        def of_folds(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.sizing = Sizing(
            of_folds([one.max_position for one in positions]),
            of_folds([one.position_smooth for one in positions]),
            of_folds([one.cost_bps * BASIS_POINT for one in positions]),
        )
        self.correlation = of_folds(correlation)
        self.moments = torch.zeros(len(recipes), 3, device=device)

    def __call__(self, output: Output, batch: BlockBatch, mle_weight: Tensor, moves: Tensor) -> Tensor:
        """Minus the portfolio's net Sharpe plus `mle_weight` times the likelihood term: (K,)."""
        n_folds, n_chosen = batch.has_context.shape[:2]

        def grid(values: Tensor) -> Tensor:
            return values.view(n_folds, -1, n_chosen, *values.shape[2:])

        decided = grid(batch.forecast & self.can_decide[batch.targets])
        scored = grid(batch.scored)
        block = Block(
            decided,
            grid(self.scale[batch.targets]),
            grid(self.held_return[batch.targets]),
            scored & grid(self.has_ended[batch.targets]),
        )
        raw = hedged(grid(output.position), grid(batch.forecast), self.correlation)
        returns, counted = portfolio_returns(raw, block, self.sizing)
        loss, moments = sharpe_loss(
            returns, counted, self.moments, block_bars=self.block_bars, periods_per_year=self.periods_per_year
        )
        known = torch.isfinite(moments).all(dim=1, keepdim=True)
        self.moments.copy_(torch.where((moves > 0.0) & known, moments, self.moments))
        if self.loss_mode == "sharpe":
            return loss
        y = grid(self.y[batch.targets])
        labelled = (scored & grid(batch.forecast & self.labelled[batch.targets])).to(y.dtype)
        if self.loss_mode == "joint_mle":
            return loss + mle_weight * correlated_nll(grid(output.distribution), y, labelled, self.correlation)
        flat = (each.flatten(1) for each in (y, labelled))
        return loss + mle_weight * likelihood(output.distribution, *flat, loss_mode=self.loss_mode)
