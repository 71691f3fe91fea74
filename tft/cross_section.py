"""The cross-sectional step: what the instruments' forecasts of one bar say of each other.

With errors of equal variance and one correlation r between all of n instruments, the best portfolio of forecasts z is
proportional to R^-1 z (Markowitz 1952), and so to

    z_i - r / (1 + (n - 2) r) * (sum of z over the other instruments)

the forecast less what the others' errors would predict of one's own by regression: R^-1 with each row divided by its
diagonal (Stevens 1998), which are all the same. The level is that of a raw position: it is the raw position where there
is nothing to hedge, because the instrument is alone, the others have no view, or r is 0. A bet on what all have in
common is held as far as it is worth its risk, and no further.

Shapes: K stacked folds, n bars, A instruments.
"""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST_CORRELATION = 0.98


def error_correlation(y: NDArray[np.float64]) -> float:
    """Mean correlation between instruments of labels y (n, A), NaN where there is none; within 0 and
    LARGEST_CORRELATION.

    Labels stand for forecast errors: what can be forecast is a few hundredths of their variance.
    """
    known = np.isfinite(y)
    filled = np.where(known, y, 0.0)
    count = known.sum(axis=1)
    pairs = float((count * (count - 1.0)).sum())
    squares = (filled**2).sum(axis=1)
    if pairs == 0.0 or not squares.any():
        return 0.0
    products = float((filled.sum(axis=1) ** 2 - squares).sum()) / pairs
    variance = float(squares.sum()) / float(count.sum())
    return float(np.clip(products / variance, 0.0, LARGEST_CORRELATION))


@overload
def hedged(raw: Tensor, known: Tensor, correlation: Tensor) -> Tensor: ...


@overload
def hedged(raw: NDArray[np.float64], known: NDArray[np.bool_], correlation: float) -> NDArray[np.float64]: ...


def hedged(raw, known, correlation):  # type: ignore[no-untyped-def]
    """Raw positions less r / (1 + (n - 2) r) times the sum over the bar's other known instruments, n being known.

    raw, known (K, n, A) with correlation (K,), as tensors; or (n, A) and a number. Unknown ones stay as they are.
    """
    if isinstance(raw, Tensor):
        r = correlation.to(raw.dtype).view(-1, 1, 1)
        n = known.sum(dim=-1, keepdim=True).clamp_min(1).to(raw.dtype)
        total = torch.where(known, raw, 0.0).sum(dim=-1, keepdim=True)
        return torch.where(known, raw - r / (1.0 + (n - 2.0) * r) * (total - raw), raw)
    n = np.maximum(known.sum(axis=-1, keepdims=True), 1)
    total = np.where(known, raw, 0.0).sum(axis=-1, keepdims=True)
    return np.where(known, raw - correlation / (1.0 + (n - 2.0) * correlation) * (total - raw), raw)
