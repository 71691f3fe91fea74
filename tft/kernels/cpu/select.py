"""Variable selection in native code (select.h), which also uses the cores of idle threads (lent_cores.py).

Shapes: K stacked folds, V variables, N cells, H hidden width.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

from torch import Tensor

from tft.kernels.cpu.buffers import ALIGNMENT, Buffers
from tft.kernels.cpu.compiling import call, mask_tensors, pointers, refuses, unavailable
from tft.kernels.dropout_mask import Mask
from tft.runtime.lent_cores import share

__all__ = ["backward", "forward", "refuses", "unavailable"]

KEPT_BYTES = 2**27
"""Most bytes of intermediate values that are saved for the backward; the others are recomputed"""
BLOCK = 64
"""Cells that select.h computes at a time"""

_buffers = Buffers()


def forward(
    x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None, *, for_backward: bool
) -> tuple[Tensor, Tensor | None]:
    """See Reference.forward in kernels/select.py. Saves intermediate values of as many variables as KEPT_BYTES hold."""
    n_folds, n_variables, n_cells = x.shape
    h, size = grns[0].shape[-1], x.element_size()
    line = ALIGNMENT // size  # select.h rounds widths up to whole vectors
    n_values = n_cells * 3 * -(-h // line) * line
    n_kept = min(n_variables, KEPT_BYTES // (n_folds * n_values * size)) if for_backward else 0
    shape = (n_folds, n_kept, n_values)
    kept = _buffers.take(math.prod(shape) * size).view(x.dtype).view(shape) if n_kept else None
    selected = x.new_empty(n_folds, n_cells, h)
    # Cells are independent of each other.
    _shared("select_forward", (x, weights, *grns), (selected,), mask, kept, n_cells, multiple=BLOCK)
    return selected, kept


def backward(
    d: Tensor, x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None, kept: Tensor | None
) -> tuple[Tensor, Sequence[Tensor]]:
    """See Reference.backward in kernels/select.py. The result does not depend on how much was saved."""
    d_weights, *d_grns = (t.new_empty(t.shape) for t in (weights, *grns))
    # Variables are independent of each other.
    _shared("select_backward", (d, x, weights, *grns), (d_weights, *d_grns), mask, kept, x.shape[1], multiple=1)
    return d_weights, d_grns


def _shared(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    mask: Mask | None,
    kept: Tensor | None,
    n: int,
    *,
    multiple: int,
) -> None:
    """Call a function of select.h for parts of range(n), on the caller's core and on the cores that are lent."""
    x, constant = inputs[-12], inputs[-10]
    inputs = [t.contiguous() for t in inputs]
    sizes = (*x.shape, constant.shape[-1], 0 if kept is None else kept.shape[1])
    tensors = [] if mask is None else mask_tensors(mask, len(x))
    memory = None if kept is None else ctypes.c_void_p(kept.data_ptr())
    drawn = pointers(tensors) if tensors else None
    share(n, lambda *part: call(name, inputs, outputs, (*sizes, *part), drawn, memory), multiple=multiple)
