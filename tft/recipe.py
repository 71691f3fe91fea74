"""What a fit is asked to do, and what it reports after each epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from tft.model import LOSS_MODES, LossMode, ModelConfig
from tft.volatility import Timing


@dataclass(frozen=True)
class TrainingConfig:
    """How a fold is fitted."""

    lr: float = 0.0027
    batch_size: int = 16
    loss_mode: LossMode = "joint_mle"
    mle_weight: float = 0.186
    patience: int = 15
    """Epochs without a better smoothed validation score before a fold stops; 0 never stops."""

    def faults(self) -> list[str]:
        found = []
        if self.lr <= 0.0:
            found.append(f"training.lr is {self.lr}, it must be positive")
        if self.batch_size < 2:
            found.append(f"training.batch_size is {self.batch_size}, the least is 2")
        if self.loss_mode not in LOSS_MODES:
            found.append(f"training.loss_mode is {self.loss_mode!r}, it must be one of {', '.join(LOSS_MODES)}")
        if self.mle_weight < 0.0:
            found.append(f"training.mle_weight is {self.mle_weight}, it must be at least 0")
        if self.patience < 0:
            found.append(f"training.patience is {self.patience}, the least is 0 (never stop)")
        return found


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a fit does, besides the data and the fold."""

    model: ModelConfig
    training: TrainingConfig
    timing: Timing
    epochs: int
    seed: int

    @property
    def common(self) -> Recipe:
        """What recipes of one stack agree on: all but learning rate, weight of the likelihood, and dropout."""
        return replace(
            self, model=replace(self.model, dropout=0.0), training=replace(self.training, lr=1.0, mle_weight=0.0)
        )


class EpochReport(NamedTuple):
    """What is known after an epoch of a stack; one value for each of its folds where there are several."""

    folds: tuple[int, ...]
    epoch: int
    train_loss: tuple[float, ...]
    validation_score: tuple[float, ...]
    n_active: int
    """Folds that have not stopped."""
    seconds: float
