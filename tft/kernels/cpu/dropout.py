"""Dropout in native code (dropout.h). Shapes: K stacked folds, N elements per fold."""

from __future__ import annotations

from torch import Tensor

from tft.kernels.cpu.compiling import call, mask_tensors, pointers, refuses, unavailable
from tft.kernels.dropout_mask import Mask

__all__ = ["drop", "refuses", "unavailable"]


def drop(x: Tensor, mask: Mask) -> Tensor:
    """Apply the mask to x (K, N)."""
    dropped, drawn = x.new_empty(x.shape), mask_tensors(mask, len(x))
    call("drop_folds", (x,), (dropped,), x.shape, pointers(drawn))
    return dropped
