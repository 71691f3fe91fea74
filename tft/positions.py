"""From raw forecast positions to the positions held, their returns after costs, and regimes.

Shapes: T bars, A instruments. Positions are fractions of the capital allotted to an instrument.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tft.volatility import Timing, held_return

BASIS_POINT = 1e-4


@dataclass(frozen=True)
class PositionsConfig:
    """Cap, smoothing and volatility scaling of raw positions, and the cost of trading."""

    max_position: float = 0.29
    """Cap on the absolute raw position, before smoothing and volatility scaling"""
    position_smooth: float = 0.46
    """Weight of the previous smoothed position, in [0, 1); 0 means no smoothing"""
    vol_target: float = 0.15
    """Annual volatility that a full position targets"""
    max_leverage: float = 4.0
    """Cap on vol_target / annualised sigma_t"""
    cost_bps: float = 5.0
    """Cost of a position change of 1, in basis points of the capital allotted to the instrument"""

    def faults(self) -> list[str]:
        """One sentence for each setting that is out of range."""
        faults = []
        if not 0.0 < self.max_position <= 1.0:
            faults.append(f"positions.max_position is {self.max_position}, it must lie in (0, 1]")
        if not 0.0 <= self.position_smooth < 1.0:
            faults.append(f"positions.position_smooth is {self.position_smooth}, it must lie in [0, 1)")
        if self.vol_target <= 0.0:
            faults.append(f"positions.vol_target is {self.vol_target}, it must be positive")
        if self.max_leverage <= 0.0:
            faults.append(f"positions.max_leverage is {self.max_leverage}, it must be positive")
        if self.cost_bps < 0.0:
            faults.append(f"positions.cost_bps is {self.cost_bps}, it must be at least 0")
        return faults


@dataclass(frozen=True, eq=False)
class PositionPath:
    """Positions of all instruments over T bars, and the state from which the next bars continue."""

    position: NDArray[np.float64]
    """(T, A) position held; NaN before an instrument's first forecast"""
    smoothed: NDArray[np.float64]
    """(A,) smoothed raw position after the last bar"""
    last_position: NDArray[np.float64]
    """(A,) position after the last bar"""


def volatility_scale(sigma: NDArray[np.float64], config: PositionsConfig, timing: Timing) -> NDArray[np.float64]:
    """min(vol_target / (sigma_t * sqrt(periods_per_year)), max_leverage), in the shape of sigma; NaN where sigma is."""
    scale: NDArray[np.float64] = config.vol_target / (sigma * np.sqrt(timing.periods_per_year))
    return np.minimum(scale, config.max_leverage)


def position_path(
    raw: NDArray[np.float64],
    sigma: NDArray[np.float64],
    config: PositionsConfig,
    timing: Timing,
    *,
    traded: NDArray[np.bool_] | None = None,
    before: PositionPath | None = None,
) -> PositionPath:
    """Cap, smooth and scale by volatility the raw positions (T, A), NaN = no forecast; `sigma` (T, A) is per bar.

    Each instrument starts flat, or from where the path `before` ended. Its position does not change at a bar without a
    forecast, without a known volatility, or in which it was not `traded` (T, A).
    """
    n_assets = raw.shape[1]
    smoothed = np.full(n_assets, np.nan) if before is None else before.smoothed.copy()
    position = np.full(n_assets, np.nan) if before is None else before.last_position.copy()
    scale = volatility_scale(sigma, config, timing)
    out = np.empty_like(raw)
    for t in range(len(raw)):
        capped = np.clip(raw[t], -config.max_position, config.max_position)
        decided = np.isfinite(capped) & np.isfinite(scale[t])
        if traded is not None:
            decided &= traded[t]
        previous = np.nan_to_num(smoothed, nan=0.0)
        blended = config.position_smooth * previous + (1.0 - config.position_smooth) * capped
        smoothed = np.where(decided, blended, smoothed)
        position = np.where(decided, smoothed * scale[t], position)
        out[t] = position
    return PositionPath(out, smoothed, position)


@dataclass(frozen=True, eq=False)
class Earnings:
    """Returns by decision bar and instrument, (T, A) each, as fractions of the capital allotted to an instrument.

    NaN where no position is held or the return is not known yet.
    """

    held_return: NDArray[np.float64]
    """Return of the instrument over the bar in which the position is held"""
    gross: NDArray[np.float64]
    """Position times held return"""
    net: NDArray[np.float64]
    """Gross return minus trading costs"""
    change: NDArray[np.float64]
    """Absolute change of position; the first is from flat"""


def earnings(
    position: NDArray[np.float64], returns: NDArray[np.float64], config: PositionsConfig, timing: Timing
) -> Earnings:
    """Earnings of positions (T, A), with returns (T, A) of the same bars:

        net_t = position_t * return_(t+1+delay) - cost_bps * 1e-4 * |position_t - position_(t-1)|

    An instrument that is not traded in the bar in which the position is held earns 0 there. The last bars, which have
    no label yet, are NaN.
    """
    held = held_return(returns, timing)
    known = np.arange(len(held)) < len(held) - timing.label_bars
    earned = np.where(known[:, None], np.nan_to_num(held, nan=0.0), np.nan)
    change = np.abs(np.diff(np.nan_to_num(position, nan=0.0), axis=0, prepend=0.0))
    gross = position * earned
    net = gross - config.cost_bps * BASIS_POINT * change
    return Earnings(held, gross, net, np.where(np.isfinite(position), change, np.nan))


def portfolio_return(pnl: NDArray[np.float64]) -> NDArray[np.float64]:
    """Portfolio returns (T,): mean of pnl (T, A) over the instruments for which it is known; NaN if there are none."""
    known = np.isfinite(pnl)
    count = known.sum(axis=1)
    total = np.where(known, pnl, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class RegimeConfig:
    """Thresholds at which an instrument counts as bullish or bearish."""

    enter: float = 0.55
    """Probability of a rise (a fall) at which the bullish (bearish) regime begins"""
    leave: float = 0.52
    """Probability of a rise (a fall) below which the bullish (bearish) regime ends"""
    min_position: float = 0.05
    """For models without a probability: smallest absolute position whose sign counts as a regime"""

    def faults(self) -> list[str]:
        """One sentence for each setting that is out of range."""
        faults = []
        if not 0.5 <= self.leave <= self.enter <= 1.0:
            faults.append(
                f"regime.leave ({self.leave}) and regime.enter ({self.enter}) must satisfy 0.5 <= leave <= enter <= 1"
            )
        if self.min_position < 0.0:
            faults.append(f"regime.min_position is {self.min_position}, it must be at least 0")
        return faults


def next_regime(
    before: NDArray[np.int64],
    position: NDArray[np.float64],
    probability_up: NDArray[np.float64] | None,
    config: RegimeConfig,
) -> NDArray[np.int64]:
    """Regimes (A,) in {-1, 0, 1} (bearish, neutral, bullish) after one bar, from the regimes `before` (A,) it.

    With probabilities (A,), a regime begins at `enter` and ends when its probability falls below `leave`; a missing
    forecast (NaN) leaves it unchanged. Without them, it is the sign of any position (A,) of at least `min_position`.
    """
    if probability_up is None:
        held = np.nan_to_num(position, nan=0.0)
        return np.where(np.abs(held) >= config.min_position, np.sign(held), 0.0).astype(np.int64)
    known = np.isfinite(probability_up)
    up = np.where(known, probability_up, 0.5)
    bullish = (up >= config.enter) | ((before == 1) & (up >= config.leave))
    bearish = (1.0 - up >= config.enter) | ((before == -1) & (1.0 - up >= config.leave))
    return np.where(known, bullish.astype(np.int64) - bearish.astype(np.int64), before)
