"""Adam in native code (adam.h). Shapes: K stacked folds, P parameters of one model."""

from __future__ import annotations

from torch import Tensor

from tft.kernels.cpu.compiling import call, refuses, unavailable

__all__ = ["refuses", "unavailable", "update"]


def update(weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, coefficients: Tensor) -> None:
    """Update weights and moments (K, P) in place; coefficients (K, 5) as in kernels/adam.py."""
    assert weights.shape == mean.shape == square.shape == gradient.shape and coefficients.shape == (len(weights), 5)
    assert all(t.is_contiguous() for t in (weights, mean, square))
    call("adam", (gradient, coefficients), (weights, mean, square), weights.shape)
