"""The optimiser step in native code (adam.h). Shapes: K stacked folds, P parameters of one model."""

from __future__ import annotations

from torch import Tensor

from tft.kernels.cpu.compiling import call, refuses, unavailable

__all__ = ["refuses", "unavailable", "update"]


def update(
    weights: Tensor,
    averaged: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    decay: Tensor | None,
    coefficients: Tensor,
) -> None:
    """Update weights, their average and the moments (K, P) in place; decay (P,), coefficients (K, 7) as in
    kernels/adam.py.
    """
    state = weights, averaged, mean, square
    assert all(t.shape == weights.shape and t.is_contiguous() for t in state) and gradient.shape == weights.shape
    assert coefficients.shape == (len(weights), 7) and (decay is None or decay.shape == weights.shape[1:])
    given = (gradient, coefficients) if decay is None else (gradient, coefficients, decay)
    call("adam", given, state, (*weights.shape, len(given)))
