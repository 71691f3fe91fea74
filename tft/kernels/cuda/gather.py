"""The backward of the gather by the kernel of gather.cu: no sorting, no atomic additions.

Shapes: K stacked folds, N cells, W windows, L bars of each, D width of a cell, S parts of a sum.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.cuda import compiling

SOURCE = Path(__file__).with_name("gather.cu")
N_WARPS = 4
"""Warps of a program, each with one cell."""
N_PROGRAMS = 512
"""Fewest programs of a launch, if the windows can be shared out that far."""
LEAST_WINDOWS = 128
"""Fewest windows of a part."""
MAX_LOOKS = 2**25
"""Most cells of a fold times its windows: each cell looks into each window, and beyond that sorting is faster."""


def unavailable(device: torch.device) -> str | None:
    """Why the kernel cannot run on this device; None where it can."""
    return compiling.reason(_kernel(device))


def refuses(d: Tensor, windows: Tensor, n_cells: int) -> str | None:
    """Why the kernel does not add up such rows; None where it does."""
    if n_cells * windows.shape[-2] > MAX_LOOKS:
        return f"{n_cells} cells times {windows.shape[-2]} windows are more than {MAX_LOOKS}, sorting is faster"
    return compiling.not_float32(d) or unavailable(d.device)


def add_rows(d: Tensor, windows: Tensor, n_cells: int, *, bar_major: bool = False) -> Tensor:
    """The sum of the rows that were read from each cell, (N, D) or (K, N, D).

    d (W, L, D), bar-major (L, W, D) · windows (W, L) the cells, ascending along L; or all with a leading K.
    """
    if d.dim() == 3:
        return add_rows(d.unsqueeze(0), windows.unsqueeze(0), n_cells, bar_major=bar_major).squeeze(0)
    n_folds, n_windows, n_bars = windows.shape
    n_programs = -(-n_cells // N_WARPS) * n_folds
    n_parts = min(-(-n_windows // LEAST_WINDOWS), -(-N_PROGRAMS // n_programs))
    n_each = -(-n_windows // n_parts)
    to = d.new_empty(n_parts, n_folds, n_cells, d.shape[-1])
    strides = (1, n_windows) if bar_major else (n_bars, 1)
    (kernel,) = compiling.loaded(_kernel(d.device))
    grid = (-(-n_cells // N_WARPS), n_folds, n_parts)
    tensors = (*compiling.laid_out(d), windows.contiguous(), to)
    kernel(grid, d.device, *tensors, n_cells, n_windows, n_bars, d.shape[-1], *strides, n_each)
    return to[0] if n_parts == 1 else to.sum(dim=0)


@cache
def _kernel(device: torch.device) -> list[compiling.Kernel] | str:
    return compiling.kernels(SOURCE, [], device, {"add_rows": (32 * N_WARPS, 0)}, "the gather")
