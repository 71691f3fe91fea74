"""What training can aim at: which targets a step sees, its loss, the score of an epoch, and which epoch is kept.

Pooled: targets of any bars and instruments, the Sharpe ratio of their raw positions, and the epoch of the best
validation likelihood. Portfolio: blocks of whole bars, the net Sharpe ratio of what the portfolio earns over them, and
the last epoch: weight decay holds back what does not generalise, and nothing is chosen on the validation block.

Shapes: T bars, A instruments, K stacked folds, B targets of a step, M validation targets, D parameters of the
predictive distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.blocks import BlockBatch, BlockSampler
from tft.cross_section import error_correlation, hedged
from tft.folds import Fold, rows_of
from tft.forecast import Forecasts, on_grid
from tft.loss import correlated_nll, likelihood, training_loss, validation_score
from tft.market import Market
from tft.model import Output
from tft.portfolio import Block, Sizing, portfolio_returns, sharpe_loss
from tft.positions import BASIS_POINT, volatility_scale
from tft.recipe import Recipe
from tft.volatility import held_return
from tft.windows import Batch, TrainingSampler, WindowSpace


class Objective(Protocol):
    """One objective for a stack of folds; recipes of a stack have the same `common`."""

    keeps_latest: bool
    """Whether the weights of the last epoch are kept, whatever the validation block says"""
    batch: Any
    """Type of what a step sees, a named tuple"""
    correlation: list[float]
    """Of forecast errors between instruments, by fold; 0 where positions are not hedged"""
    running: tuple[Tensor, ...]
    """Tensors that `loss` changes in place"""

    def sampler(self, spaces: Sequence[WindowSpace]) -> TrainingSampler | BlockSampler:
        """Draws the batches. Raises ValueError for a fold without a training target."""
        ...

    def is_filled(self, batch: Any) -> Tensor:
        """Whether each fold has a batch in this step: (K, 1)."""
        ...

    def loss(self, output: Output, batch: Any, moves: Tensor) -> Tensor:
        """Loss (K,) of a step; `moves` (K, 1) is above 0 for folds that are updated."""
        ...

    def score(self, forecasts: Forecasts, cells: NDArray[np.int64], fold: int) -> float:
        """Score of one fold's forecasts at its flat validation cells (M,), lower is better; inf if not finite."""
        ...


def objective_of(market: Market, folds: Sequence[Fold], recipes: Sequence[Recipe]) -> Objective:
    """The objective of a stack, one recipe a fold."""
    if recipes[0].training.objective == "portfolio":
        return Portfolio(market, folds, recipes)
    return Pooled(market, folds, recipes)


class Pooled:
    """Targets of any bars and instruments."""

    keeps_latest = False
    batch = Batch
    running: tuple[Tensor, ...] = ()

    def __init__(self, market: Market, folds: Sequence[Fold], recipes: Sequence[Recipe]) -> None:
        self.market, self.folds, self.recipe = market, folds, recipes[0].common
        self.seeds = [recipe.seed for recipe in recipes]
        self.mle_weight = torch.tensor([recipe.training.mle_weight for recipe in recipes], device=market.device)  # (K,)
        self.correlation = [0.0] * len(folds)

    def sampler(self, spaces: Sequence[WindowSpace]) -> TrainingSampler:
        return TrainingSampler(
            spaces,
            self.folds,
            np.isfinite(self.market.y),
            batch_size=self.recipe.training.batch_size,
            seeds=self.seeds,
            device=self.market.device,
        )

    def is_filled(self, batch: Batch) -> Tensor:
        return batch.counted.sum(dim=1, keepdim=True) > 0.0

    def loss(self, output: Output, batch: Batch, moves: Tensor) -> Tensor:
        return training_loss(
            output.position,
            output.distribution,
            self.market.y_on_device[batch.targets],  # (K, B)
            batch.counted,
            loss_mode=self.recipe.training.loss_mode,
            mle_weight=self.mle_weight,
            periods_per_year=self.market.timing.periods_per_year,
        )

    def score(self, forecasts: Forecasts, cells: NDArray[np.int64], fold: int) -> float:
        y = self.market.y.reshape(-1)[cells]
        score = validation_score(
            torch.from_numpy(forecasts.position),
            torch.from_numpy(forecasts.distribution),
            torch.from_numpy(np.nan_to_num(y, nan=0.0)),
            torch.from_numpy(np.isfinite(y).astype(np.float64)),
            loss_mode=self.recipe.training.loss_mode,
            periods_per_year=self.market.timing.periods_per_year,
        )
        return _finite_or_inf(score)


class Portfolio:
    """Blocks of whole bars: what the portfolio earns, and a likelihood that knows what instruments have in common."""

    keeps_latest = True
    batch = BlockBatch

    def __init__(self, market: Market, folds: Sequence[Fold], recipes: Sequence[Recipe]) -> None:
        device, positions = market.device, [recipe.positions for recipe in recipes]
        self.pooled = Pooled(market, folds, recipes)
        self.market, self.folds, self.recipe = market, folds, recipes[0].common
        correlation_of = {fold: error_correlation(rows_of(market.y, fold.trained)) for fold in dict.fromkeys(folds)}
        self.correlation = [correlation_of[fold] for fold in folds]
        scale = volatility_scale(market.sigma, positions[0], market.timing)
        held = held_return(market.panel.returns, market.timing)
        ended = np.arange(len(held)) < len(held) - market.timing.label_bars

        def flat(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values).reshape(-1)).to(device)

        def of_folds(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        # What the market says of each of its cells (T * A,), and what differs between folds (K,).
        self.scale = flat(np.nan_to_num(scale, nan=0.0).astype(np.float32))
        self.can_decide = flat(np.isfinite(scale) & np.isfinite(market.panel.returns))
        self.held_return = flat(np.nan_to_num(held, nan=0.0).astype(np.float32))
        self.has_ended = flat(np.repeat(ended, held.shape[1]))
        self.labelled = flat(np.isfinite(market.y))
        self.sizing = Sizing(
            of_folds([one.max_position for one in positions]),
            of_folds([one.position_smooth for one in positions]),
            of_folds([one.cost_bps * BASIS_POINT for one in positions]),
        )
        self.correlations = of_folds(self.correlation)
        self.moments = torch.zeros(len(recipes), 3, device=device)
        self.running: tuple[Tensor, ...] = (self.moments,)

    def sampler(self, spaces: Sequence[WindowSpace]) -> BlockSampler:
        return BlockSampler(
            spaces,
            self.folds,
            np.isfinite(self.market.y),
            block_bars=self.recipe.training.block_bars,
            burn_in=self.recipe.burn_in_bars,
            seeds=self.pooled.seeds,
            device=self.market.device,
        )

    def is_filled(self, batch: BlockBatch) -> Tensor:
        return batch.scored.any(dim=1, keepdim=True)

    def loss(self, output: Output, batch: BlockBatch, moves: Tensor) -> Tensor:
        n_folds, n_chosen = batch.has_context.shape[:2]

        def grid(values: Tensor) -> Tensor:
            return values.view(n_folds, -1, n_chosen, *values.shape[2:])

        scored = grid(batch.scored)
        block = Block(
            grid(batch.forecast & self.can_decide[batch.targets]),
            grid(self.scale[batch.targets]),
            grid(self.held_return[batch.targets]),
            scored & grid(self.has_ended[batch.targets]),
        )
        raw = hedged(grid(output.position), grid(batch.forecast), self.correlations)
        returns, counted = portfolio_returns(raw, block, self.sizing)
        training, per_year = self.recipe.training, self.market.timing.periods_per_year
        loss, moments = sharpe_loss(
            returns, counted, self.moments, block_bars=training.block_bars, periods_per_year=per_year
        )
        known = torch.isfinite(moments).all(dim=1, keepdim=True)
        self.moments.copy_(torch.where((moves > 0.0) & known, moments, self.moments))
        if training.loss_mode == "sharpe":
            return loss
        y = grid(self.market.y_on_device[batch.targets])
        labelled = (scored & grid(batch.forecast & self.labelled[batch.targets])).to(y.dtype)
        if training.loss_mode == "joint_mle":
            of_labels = correlated_nll(grid(output.distribution), y, labelled, self.correlations)
        else:
            flat = (each.flatten(1) for each in (y, labelled))
            of_labels = likelihood(output.distribution, *flat, loss_mode=training.loss_mode)
        return loss + self.pooled.mle_weight * of_labels

    def score(self, forecasts: Forecasts, cells: NDArray[np.int64], fold: int) -> float:
        if self.recipe.training.loss_mode != "joint_mle":
            return self.pooled.score(forecasts, cells, fold)
        bars = self.folds[fold].validation
        distribution = on_grid(forecasts.distribution, cells, bars, self.market.y.shape[1])  # (n, A, 2)
        y = self.market.y[bars.start : bars.stop]
        known = np.isfinite(y) & np.isfinite(distribution).all(axis=-1)
        filled, labels, counted = (
            torch.from_numpy(part)[None]
            for part in (np.where(known[..., None], distribution, (0.0, 1.0)), np.where(known, y, 0.0), 1.0 * known)
        )
        correlation = torch.tensor([self.correlation[fold]], dtype=torch.float64)
        return _finite_or_inf(correlated_nll(filled, labels, counted, correlation))


def _finite_or_inf(score: Tensor) -> float:
    return float(score) if math.isfinite(score) else math.inf
