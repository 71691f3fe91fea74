"""Adam by native code (adam.h). Shapes: K stacked folds, P parameters of one model."""

from __future__ import annotations

from torch import Tensor

from tft.kernels.cpu.compiling import call, refuses, unavailable

__all__ = ["refuses", "unavailable", "update"]


def update(weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, of_folds: Tensor) -> None:
    """One update of weights and moments (K, P) in place; of_folds (K, 5) as adam.py lays it out."""
    assert weights.shape == mean.shape == square.shape == gradient.shape and of_folds.shape == (len(weights), 5)
    assert all(t.is_contiguous() for t in (weights, mean, square))
    call("adam", (gradient, of_folds), (weights, mean, square), weights.shape)
