"""The LSTM in native code (scan.h).

Shapes: K stacked folds, L look-back bars, W windows, N cells, H hidden width. Every tensor may have a leading K.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tft.kernels.cpu.compiling import call, refuses, unavailable

__all__ = ["backward", "forward", "refuses", "unavailable"]


def forward(
    gates: Tensor, windows: Tensor | None, weight: Tensor, hidden: Tensor, cell: Tensor, *, for_backward: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """See Reference.forward in kernels/scan.py. The hidden states before each bar are not returned."""
    n_steps = gates.shape[-3] if windows is None else windows.shape[-1]
    states = gates.new_empty(*hidden.shape[:-2], n_steps, *hidden.shape[-2:])
    cells = torch.empty_like(states) if for_backward else None
    active = states.new_empty(*states.shape[:-1], 4 * states.shape[-1]) if for_backward else None
    _scan("scan_forward", (gates, weight, hidden, cell), (states, cells, active), _sizes(states, gates.shape), windows)
    return states, None, cells, active


def backward(
    d_states: Tensor,
    windows: Tensor | None,
    weight: Tensor,
    hidden: Tensor,
    cell: Tensor,
    states: Tensor,
    entering: Tensor | None,
    cells: Tensor,
    active: Tensor,
    n_rows: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See Reference.backward in kernels/scan.py. With windows the gradient of the gates is (N, 4H)."""
    if windows is None:
        d_gates = torch.empty_like(active)
    else:
        d_gates = active.new_zeros(*active.shape[:-3], n_rows, active.shape[-1])
    d_weight, d_hidden, d_cell = (t.new_empty(t.shape) for t in (weight, hidden, cell))
    inputs, outputs = (d_states, weight, hidden, cell, states, cells, active), (d_gates, d_weight, d_hidden, d_cell)
    _scan("scan_backward", inputs, outputs, _sizes(states, d_gates.shape), windows)
    return outputs


def _scan(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor | None],
    sizes: Sequence[int],
    windows: Tensor | None,
) -> None:
    """Call a function of scan.h, with a null pointer for windows that are None."""
    rows = None if windows is None else windows.contiguous()
    assert rows is None or rows.dtype == torch.int64
    address = None if rows is None else ctypes.c_void_p(rows.data_ptr())
    call(name, inputs, outputs, sizes, address)


def _sizes(states: Tensor, gates: Sequence[int]) -> tuple[int, ...]:
    """Sizes that scan.h takes: K, L, W, H and the number of rows of a fold's gates."""
    assert states.numel() > 0
    n_folds = states.shape[:-3].numel()
    return n_folds, *states.shape[-3:], math.prod(gates[:-1]) // n_folds
