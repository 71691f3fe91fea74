"""The LSTM by the CUDA kernels of scan.cu, one launch forward and one backward.

A block takes some windows of one fold through all bars. Everything is float32, and both launches can be captured in a
CUDA graph.

Shapes: K stacked folds, L look-back bars, W windows, N cells, H hidden width. Every tensor may have a leading K.
Gates are laid out input | forget | output | candidate along the last dimension of size 4H.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.affine import sum_over_rows
from tft.kernels.cuda import compiling

SOURCE = Path(__file__).with_name("scan.cu")
MAX_WIDTH = 256
"""Largest width; a wider block would have more threads than a multiprocessor takes"""
LEAST_CAPABILITY = (8, 0)
ROWS, WARP, TILE = 16, 32, 8
"""Windows of a block, threads of a warp, and columns of the state that a warp computes, as in scan.cu"""
MAX_KEPT_WIDTH = 64
"""Largest width at which the weight is held in shared memory, as in scan.cu"""


def unavailable(device: torch.device) -> str | None:
    """Reason why the kernels cannot run on this device at any width; None if they can."""
    return compiling.reason(_kernels(8, device))


def refuses(x: Tensor, width: int) -> str | None:
    """Reason why the kernels do not take a tensor like this one at this width; None if they do."""
    if width > MAX_WIDTH:
        return f"a width of {width} is above {MAX_WIDTH}"
    return compiling.not_float32(x) or compiling.reason(_kernels(width, x.device))


def forward(
    gates: Tensor, windows: Tensor | None, weight: Tensor, hidden: Tensor, cell: Tensor, *, for_backward: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """See Reference.forward in kernels/scan.py. Saves also the hidden states before each bar."""
    if hidden.dim() == 2:
        single = (None if tensor is None else tensor.unsqueeze(0) for tensor in (gates, windows, weight, hidden, cell))
        states, *kept = forward(*single, for_backward=for_backward)  # type: ignore[arg-type]
        entering, cells, active = (None if tensor is None else tensor.squeeze(0) for tensor in kept)
        return states.squeeze(0), entering, cells, active
    gates, weight, hidden, cell = compiling.laid_out(gates, weight, hidden, cell)
    n_folds, n_windows, width = hidden.shape
    n_steps = gates.shape[1] if windows is None else windows.shape[2]
    states = gates.new_empty(n_folds, n_steps, n_windows, width)
    entering, cells = (torch.empty_like(states), torch.empty_like(states)) if for_backward else (None, None)
    active = states.new_empty(*states.shape[:-1], 4 * width) if for_backward else None
    rows = None if windows is None else windows.contiguous()
    tensors = (gates, rows, weight, hidden, cell, states, entering, cells, active)
    n_rows = gates[0].numel() // (4 * width)
    launch, _ = compiling.loaded(_kernels(width, states.device))
    launch(_grid(states), states.device, *tensors, n_rows, n_steps, n_windows)
    return states, entering, cells, active


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
    """See Reference.backward in kernels/scan.py. The gradient of the weight is one matrix product over all steps."""
    assert entering is not None
    if hidden.dim() == 2:
        given = (t.unsqueeze(0) for t in (d_states, weight, cell, cells, active))
        d_gates, d_hidden, d_cell = (d.squeeze(0) for d in _backward(*given))
    else:
        d_gates, d_hidden, d_cell = _backward(d_states, weight, cell, cells, active)
    flat = (t.reshape(-1, t.shape[-3] * t.shape[-2], t.shape[-1]) for t in (entering, d_gates))
    return d_gates, sum_over_rows(*flat).view(weight.shape), d_hidden, d_cell


def _backward(
    d_states: Tensor, weight: Tensor, cell: Tensor, cells: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gates, for each bar of each window (K, L, W, 4H), and of the initial states (K, W, H)."""
    d_states, weight, cell, cells, active = compiling.laid_out(d_states, weight, cell, cells, active)
    d_gates, d_hidden, d_cell = torch.empty_like(active), torch.empty_like(cell), torch.empty_like(cell)
    tensors = (d_states, weight, cell, cells, active, d_gates, d_hidden, d_cell)
    _, launch = compiling.loaded(_kernels(cells.shape[-1], cells.device))
    launch(_grid(cells), cells.device, *tensors, *cells.shape[1:3])
    return d_gates, d_hidden, d_cell


def _grid(states: Tensor) -> tuple[int, int, int]:
    """Blocks for states (K, L, W, H)."""
    return -(-states.shape[2] // ROWS), states.shape[0], 1


@cache
def _kernels(width: int, device: torch.device) -> list[compiling.Kernel] | str:
    """Forward and backward kernels, compiled at the first call for a width (seconds)."""
    if fault := compiling.too_old(device, LEAST_CAPABILITY):
        return fault
    p = -(-width // TILE) * TILE
    rows = p if p <= MAX_KEPT_WIDTH else 0
    forward = 2 * ROWS * (p + (16 if p % 16 else 8)) + max(1, rows * (4 * p + 4))  # floats, as in scan.cu
    backward = 2 * ROWS * (4 * p + 8) + max(1, rows * (4 * p + 8))
    n_threads = p // TILE * WARP
    sizes = {"scan_forward": (n_threads, 4 * forward), "scan_backward": (n_threads, 4 * backward)}
    return compiling.kernels(SOURCE, [f"-DH={width}"], device, sizes, "the scan")
