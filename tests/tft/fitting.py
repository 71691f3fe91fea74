"""What tests of training share: three folds of the small panel, when two fits are the same, and a store in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from tests.conftest import CPU
from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.market import Market
from tft.panel import Panel
from tft.train import Recipe, fit_folds
from tft.volatility import Timing

FOLDS = (
    Fold(0, range(20, 80), range(85, 100), range(105, 120)),
    Fold(1, range(40, 70), range(75, 95), range(100, 115)),
    Fold(2, range(50, 110), range(115, 130), range(135, 150)),
)


def market_of(panel: Panel) -> Market:
    return Market(panel, Timing(), CPU)


def fitted(panel: Panel, folds: tuple[Fold, ...], recipe: Recipe, *, stack_size: int = 1) -> list[FoldFit]:
    return list(fit_folds(market_of(panel), folds, recipe, stack_size=stack_size))


def identical(a: FoldFit, b: FoldFit) -> bool:
    return (
        a.parameters.keys() == b.parameters.keys()
        and all(torch.equal(a.parameters[name], b.parameters[name]) for name in a.parameters)
        and all(
            np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
            for name in ("train_loss", "validation_score", "validation_position")
        )
        and (a.kept_epoch, a.skipped_steps, a.correlation) == (b.kept_epoch, b.skipped_steps, b.correlation)
        and a.fold == b.fold
        and np.array_equal(a.scaler.mean, b.scaler.mean, equal_nan=True)
    )


def distance(a: FoldFit, b: FoldFit) -> float:
    return max(float((a.parameters[name] - b.parameters[name]).abs().max()) for name in a.parameters)


@dataclass
class MemoryStore:
    """A `Store` that lives as long as a test."""

    full: bool = False
    """Whether every write fails."""
    pieces: dict[str, dict[str, bytes]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    """Names in the order in which they were put."""
    prefix: str = ""

    def __str__(self) -> str:
        return "a full disk" if self.full else "memory"

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.pieces[self.prefix + name] = dict(files)
        self.written.append(self.prefix + name)

    def get(self, name: str) -> dict[str, bytes] | None:
        return self.pieces.get(self.prefix + name)

    def exists(self, name: str) -> bool:
        return self.prefix + name in self.pieces

    def within(self, name: str) -> MemoryStore:
        return MemoryStore(self.full, self.pieces, self.written, f"{self.prefix}{name}/")
