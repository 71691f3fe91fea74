"""The cross-sectional step: what the instruments' forecasts of one bar say of each other.

With errors of equal variance and one correlation r between all of n instruments, the best portfolio of forecasts z is
proportional to R^-1 z, and so to

    z_i - n r / (1 + (n - 1) r) mean(z)

(Markowitz 1952 with the inverse of an equicorrelation matrix). A bet on what all have in common is held as far as it is
worth its risk, and no further.

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
    """Raw positions less n r / (1 + (n - 1) r) times their mean over the n instruments of the bar that are known.

    raw, known (K, n, A) with correlation (K,), as tensors; or (n, A) and a number. Unknown ones stay as they are.
    """
    if isinstance(raw, Tensor):
        r = correlation.to(raw.dtype).view(-1, 1, 1)
        n = known.sum(dim=-1, keepdim=True).to(raw.dtype)
        mean = torch.where(known, raw, 0.0).sum(dim=-1, keepdim=True) / n.clamp_min(1.0)
        return torch.where(known, raw - n * r / (1.0 + (n - 1.0) * r) * mean, raw)
    count = known.sum(axis=-1, keepdims=True)
    mean = np.where(known, raw, 0.0).sum(axis=-1, keepdims=True) / np.maximum(count, 1)
    return np.where(known, raw - count * correlation / (1.0 + (count - 1) * correlation) * mean, raw)
