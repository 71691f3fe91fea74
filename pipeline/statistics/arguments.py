"""Checks of arguments: what no statistic is defined for is refused, each with a sentence. Shapes: T bars."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def checked_returns(returns: ArrayLike, name: str = "returns") -> Array:
    """Returns (T,) as float64. Raises ValueError for fewer than 2 bars, NaN or infinite values, and no variance."""
    r = np.asarray(returns, dtype=np.float64)
    if r.ndim != 1 or len(r) < 2:
        raise ValueError(f"{name} have shape {r.shape}, at least 2 bars in one dimension are needed: pass (T,)")
    if not np.isfinite(r).all():
        raise ValueError(f"{name} hold NaN or infinite values, every bar must be finite: drop those bars first")
    if is_constant(r):
        raise ValueError(f"{name} have no variance, so that a Sharpe ratio is undefined: pass returns that vary")
    return r


def is_constant(returns: Array) -> bool:
    """Whether returns (T,) are the same on every bar, up to rounding."""
    return bool(returns.std() <= 1e-12 * np.abs(returns).max())


def check_finite(**values: float) -> None:
    """Raises ValueError naming the first value that is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}, it must be finite: find out where it was computed")


def check_count(name: str, value: int, least: int) -> None:
    """Raises ValueError for a count below `least`, and for one that is NaN or infinite."""
    if not least <= value < math.inf:
        raise ValueError(f"{name} is {value}, the least is {least}: pass a larger count")
