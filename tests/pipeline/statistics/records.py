"""Records for tests of statistics: random ones with gaps, and ones written down by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tft.positions import BASIS_POINT, Earnings
from tft.record import Record, segments
from tft.volatility import Timing


def random_record(
    n_bars: int = 400, n_assets: int = 3, *, n_holdout: int = 200, seed: int = 0, missing: float = 0.05
) -> tuple[Record, NDArray[np.float64]]:
    """A record over bars 50 .. of a panel, and the panel's returns (T, A).

    Some cells hold no position, some positions are 0, and the last two bars have no return yet. Every tenth bar begins
    a fold.
    """
    rng = np.random.default_rng(seed)
    n_panel, timing = 50 + n_bars, Timing()
    returns = 0.01 * rng.standard_normal((n_panel, n_assets)) * np.exp(0.5 * np.sin(np.arange(n_panel) / 40.0))[:, None]
    bars = range(50, n_panel)
    position = rng.uniform(-0.3, 0.4, (n_bars, n_assets))
    position[rng.random(position.shape) < 0.05] = 0.0
    position[rng.random(position.shape) < missing] = np.nan
    position[0] = 0.1
    held = np.full((n_bars, n_assets), np.nan)
    held[:-2] = returns[52:]
    change = np.abs(np.diff(np.nan_to_num(position), axis=0, prepend=0.0))
    gross = position * held
    net = gross - 5.0 * BASIS_POINT * change
    record = Record(
        bars=np.arange(bars.start, bars.stop),
        times=np.datetime64("2022-11-20", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=tuple("ABCDEFGH"[:n_assets]),
        fold=np.where(np.isfinite(position), np.arange(n_bars)[:, None] // 10, -1),
        raw_position=2.0 * position,
        position=position,
        earned=Earnings(held, gross, net, np.where(np.isfinite(position), change, np.nan)),
        segment=segments(bars, n_development=bars.stop - n_holdout, timing=timing),
        timing=timing,
    )
    return record, returns
