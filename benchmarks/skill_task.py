"""What every learner of benchmarks/skill.py is handed, and what it gives back.

Shapes: T bars, A instruments, n bars of a test block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.truths import DELAY, PERIODS_PER_YEAR, Kind, Truth, plant
from pipeline.config.schema import Config
from tft.backtest import FoldOutcome
from tft.folds import Fold, walk_forward
from tft.market import Market
from tft.record import RawForecast, Record, stitch
from tft.volatility import Timing

Array = NDArray[np.float64]

TIMING = Timing(PERIODS_PER_YEAR, DELAY)
WARM_UP_BARS = 64
"""Bars before the first decision, the same for every learner; a longer look-back is refused"""


@dataclass(frozen=True)
class Size:
    """Length of a market and of its blocks, in bars. The last `n_folds * test_bars` bars with a label are tested."""

    n_bars: int = 2200
    n_folds: int = 5
    test_bars: int = 250
    validation_bars: int = 250
    purge_gap: int = 5

    def folds(self) -> tuple[Fold, ...]:
        """Expanding folds in bars of the panel."""
        n_decisions = self.n_bars - TIMING.label_bars - WARM_UP_BARS
        folds = walk_forward(
            n_decisions,
            train_window=n_decisions - self.n_folds * self.test_bars - self.purge_gap,
            validation_window=self.validation_bars,
            test_window=self.test_bars,
            step_size=self.test_bars,
            purge_gap=self.purge_gap,
            expanding=True,
        )
        assert len(folds) == self.n_folds
        return tuple(fold.shifted(WARM_UP_BARS) for fold in folds)


@dataclass(frozen=True, eq=False)
class Task:
    """A planted market, its folds, and the settings of sizing and of networks."""

    truth: Truth
    market: Market
    """Its `sigma` is estimated, as everyone's is; labels y (T, A) are returns divided by it"""
    folds: tuple[Fold, ...]
    config: Config
    """Of which `model`, `training`, `positions`, `production.epochs` and `production.seeds` are read"""
    seed: int
    """Of the generator, and the first one of networks"""

    @classmethod
    def of(cls, kind: Kind, seed: int, size: Size, config: Config, device: torch.device) -> Task:
        truth = plant(kind, seed, n_bars=size.n_bars)
        return cls(truth, Market(truth.panel, TIMING, device), size.folds(), config, seed)

    @property
    def test_bars(self) -> range:
        return range(self.folds[0].test.start, self.folds[-1].test.stop)

    def record(self, raw: Array) -> Record:
        """The stitched record of raw positions (n, A) over all test bars: everyone's sizing and costs."""
        first = self.test_bars.start
        forecasts = [
            RawForecast(fold, fold.test, raw[fold.test.start - first : fold.test.stop - first]) for fold in self.folds
        ]
        panel = self.truth.panel
        return stitch(
            forecasts, panel, self.market.sigma, self.config.positions, TIMING, n_development=len(panel.times)
        )


@dataclass(frozen=True, eq=False)
class FoldForecast:
    """What a learner says of the test bars of one fold."""

    raw: Array
    """(n, A) raw positions in [-1, 1]"""
    rho: float
    """Correlation between instruments of what the forecast leaves unexplained, on training bars"""
    mu: Array | None = None
    """(n, A) forecast of y; None if the learner has none"""
    kept_epochs: tuple[int, ...] = ()
    """Of each of the networks averaged, counted from 0"""
    outcome: FoldOutcome | None = None
    """Of this project's networks, averaged"""


def joined(parts: Sequence[Array]) -> Array:
    """Test blocks (n, A) one after the other."""
    return np.concatenate(list(parts))
