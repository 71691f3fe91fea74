"""The data that folds are fitted on. Shapes: T bars, A instruments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tft.market import Market
from tft.panel import Panel
from tft.volatility import Timing


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The bars that a phase may see, the volatility they are scaled by, and the device to train on."""

    panel: Panel
    sigma: NDArray[np.float64] | None
    """(T, A); None where it is the volatility of the panel's own returns."""
    device: torch.device

    @property
    def n_bars(self) -> int:
        return len(self.panel.times)

    def select(self, features: Sequence[str]) -> TrainingData:
        """Keep these columns, in this order, on the same bars."""
        return replace(self, panel=self.panel.select(features))

    def market(self, timing: Timing) -> Market:
        """The panel on the device, with volatility and labels, ready for fitting."""
        return Market(self.panel, timing, self.device, self.sigma)
