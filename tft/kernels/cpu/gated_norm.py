"""The gated norm in native code (gated_norm.h). Shapes: K stacked folds, R rows, D columns."""

from __future__ import annotations

from torch import Tensor

from tft.kernels.cpu.compiling import call, refuses, unavailable

__all__ = ["backward", "forward", "refuses", "unavailable"]


def forward(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Gated norm (K, R, D) of skip (K, R, D), gated (K, R, 2D), weight and bias (K, D) or, if K = 1, (D,)."""
    normed = skip.new_empty(skip.shape)
    call("gated_norm_forward", (skip, gated, weight, bias), (normed,), skip.shape)
    return normed


def backward(d: Tensor, skip: Tensor, gated: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of skip, gated, weight and bias, from d (K, R, D) and the arguments of the forward."""
    d_skip, d_gated, d_weight, d_bias = (t.new_empty(t.shape) for t in (skip, gated, weight, weight))
    call("gated_norm_backward", (d, skip, gated, weight), (d_skip, d_gated, d_weight, d_bias), skip.shape)
    return d_skip, d_gated, d_weight, d_bias
