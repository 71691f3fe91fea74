"""What a version decides on the newest bars of a table, and what that earns. Shapes: A instruments, n bars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tft.checkpoint import TrainedModel
from tft.panel import Panel
from tft.positions import portfolio_return
from tft.predict import Predictor, TooFewBars
from tft.record import block_earnings


def positions(trained: TrainedModel, panel: Panel, first: int) -> NDArray[np.float64]:
    """Positions (n, A) from bar `first` of the panel on; NaN where there is no decision.

    The path of positions begins flat `min_history_bars` earlier, as far as the panel reaches back. The panel has the
    instruments of the version, and its columns among others.
    """
    start = max(first - trained.min_history_bars, 0)
    recent = replace(
        panel, times=panel.times[start:], features=panel.features[start:], returns=panel.returns[start:]
    ).select(trained.feature_names)
    path = np.full(recent.returns.shape, np.nan)
    try:
        decided = Predictor(trained).run(recent).position
    except TooFewBars:
        return path[first - start :]
    path[len(path) - len(decided) :] = decided
    return path[first - start :]


def net_returns(trained: TrainedModel, panel: Panel, first: int) -> NDArray[np.float64]:
    """Net portfolio returns (n,) by bar of decision from bar `first` of the panel on; NaN where they are not known.

    The first of them pays for the change from the position of the bar before.
    """
    before = max(first - 1, 0)
    path = positions(trained, panel, before)
    bars = range(before, len(panel.times))
    earned = block_earnings(path, bars, panel.returns, trained.positions, trained.timing)
    return portfolio_return(earned.net)[first - before :]
