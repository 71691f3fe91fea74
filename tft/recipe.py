"""The settings of a fit, and the report after each of its epochs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from tft.head import LOSS_MODES, LossMode
from tft.model import ModelConfig
from tft.positions import PositionsConfig
from tft.volatility import Timing

Objective = Literal["portfolio", "pooled"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
MAX_BLOCK_BARS = 1024
"""Most scored bars of a block: the position path takes memory for every pair of its bars"""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimiser, loss and early stopping of a fit."""

    objective: Objective = "portfolio"
    """portfolio: a step sees a block of neighbouring whole bars and maximises the net Sharpe that the portfolio earns
    over it; pooled: a step sees targets of any bars and instruments, and the Sharpe of their raw positions"""
    block_bars: int = 32
    """Scored bars of a step with objective portfolio"""
    lr: float = 0.003
    """Learning rate of Adam"""
    weight_decay: float = 8.0
    """Share of a weight that is taken off at each step, in units of the learning rate (Loshchilov & Hutter 2019)"""
    batch_size: int = 16
    """Targets per optimiser step with objective pooled"""
    loss_mode: LossMode = "joint_mle"
    mle_weight: float = 5.0
    """Weight of the likelihood term in the loss"""
    patience: int = 15
    """Epochs without a better smoothed validation score after which a fold stops, with objective pooled; 0: never"""

    def faults(self) -> list[str]:
        """One sentence for each setting that is out of range."""
        faults = []
        if self.objective not in OBJECTIVES:
            faults.append(f"training.objective is {self.objective!r}, it must be one of {', '.join(OBJECTIVES)}")
        if not 2 <= self.block_bars <= MAX_BLOCK_BARS:
            faults.append(f"training.block_bars is {self.block_bars}, it must lie between 2 and {MAX_BLOCK_BARS}")
        if self.lr <= 0.0:
            faults.append(f"training.lr is {self.lr}, it must be positive")
        if not 0.0 <= self.weight_decay * self.lr < 1.0:
            faults.append(
                f"training.weight_decay is {self.weight_decay}, it must be at least 0 and below 1 / lr ({self.lr})"
            )
        if self.batch_size < 2:
            faults.append(f"training.batch_size is {self.batch_size}, the least is 2")
        if self.loss_mode not in LOSS_MODES:
            faults.append(f"training.loss_mode is {self.loss_mode!r}, it must be one of {', '.join(LOSS_MODES)}")
        if self.mle_weight < 0.0:
            faults.append(f"training.mle_weight is {self.mle_weight}, it must be at least 0")
        if self.patience < 0:
            faults.append(f"training.patience is {self.patience}, the least is 0 (never stop)")
        return faults


@dataclass(frozen=True)
class Recipe:
    """Everything besides the data and the fold that determines a fit."""

    model: ModelConfig
    training: TrainingConfig
    timing: Timing
    epochs: int
    """Largest number of epochs"""
    seed: int
    positions: PositionsConfig
    """What positions are made with: those that objective portfolio trains on, and those of the backtest"""
    burn_in_bars: int = 1
    """Bars before the scored ones of a block, in which the smoothed position settles"""

    @property
    def common(self) -> Recipe:
        """The part that all recipes of a stack must share: the recipe with fixed seed, lr, mle_weight, dropout, cap,
        smoothing and cost.
        """
        return replace(
            self,
            seed=0,
            model=replace(self.model, dropout=0.0),
            training=replace(self.training, lr=1.0, mle_weight=0.0),
            positions=replace(self.positions, max_position=1.0, position_smooth=0.0, cost_bps=0.0),
        )


class EpochReport(NamedTuple):
    """Progress of a stack of folds after an epoch. Tuples hold one value per fold."""

    folds: tuple[int, ...]
    """Indices of the folds; one that is fitted with several seeds or recipes is listed once for each"""
    epoch: int
    """Counted from 0"""
    train_loss: tuple[float, ...]
    """Mean over the steps of the epoch"""
    validation_score: tuple[float, ...]
    """Not smoothed; lower is better"""
    n_active: int
    """Number of folds that have not stopped"""
    seconds: float
    """Wall time of the epoch"""
