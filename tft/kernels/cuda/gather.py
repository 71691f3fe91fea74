"""The backward of the gather of recurrent.py by the kernel of gather.cu: no sorting, no atomic additions.

Shapes: K folds, N cells, W windows, L bars of each, D width of a cell, S parts of a sum.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.cuda import compiling as cuda

SOURCE = Path(__file__).with_name("gather.cu")
N_WARPS = 4
"""Of a program: as many cells."""
N_PROGRAMS = 512
"""Of a launch at least, if the windows can be shared out that far."""
LEAST_WINDOWS = 128
"""Of a part."""
MAX_LOOKS = 2**25
"""Of a fold's cells into its windows: with more of them sorting is faster."""


def takes(d: Tensor, n_cells: int, n_windows: int) -> bool:
    """Whether such rows are added up here."""
    few = n_cells * n_windows <= MAX_LOOKS
    return few and d.dtype == torch.float32 and d.device.type == "cuda" and _kernel(d.device) is not None


def add_rows(d: Tensor, windows: Tensor, n_cells: int, *, bar_major: bool = False) -> Tensor:
    """The sum of the rows that were read from each cell, (K, N, D).

    d (K, W, L, D), bar-major (K, L, W, D) · windows (K, W, L) the cells, ascending along L.
    """
    n_folds, n_windows, n_bars = windows.shape
    n_programs = -(-n_cells // N_WARPS) * n_folds
    n_parts = min(-(-n_windows // LEAST_WINDOWS), -(-N_PROGRAMS // n_programs))
    n_each = -(-n_windows // n_parts)
    to = d.new_empty(n_parts, n_folds, n_cells, d.shape[-1])
    strides = (1, n_windows) if bar_major else (n_bars, 1)
    kernel = _kernel(d.device)
    assert kernel is not None
    grid = (-(-n_cells // N_WARPS), n_folds, n_parts)
    tensors = (d.contiguous(), windows.contiguous(), to)
    kernel(grid, d.device, *tensors, n_cells, n_windows, n_bars, d.shape[-1], *strides, n_each)
    return to[0] if n_parts == 1 else to.sum(dim=0)


@cache
def _kernel(device: torch.device) -> cuda.Kernel | None:
    found = cuda.kernels(SOURCE, [], device, {"add_rows": (32 * N_WARPS, 0)}, "the gather")
    return found[0] if found else None
