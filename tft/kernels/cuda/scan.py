"""The LSTM scan of recurrent.py by the kernels of scan.cu, one launch forward and one backward.

A program takes some windows of one fold through all bars. Everything is float32, and both launches can be captured in a
CUDA graph.

Shapes: K folds, L look-back bars, W windows, H hidden width.
Gates are laid out input | forget | output | candidate along the last dimension of size 4H.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tft.kernels.cuda import compiling as cuda

SOURCE = Path(__file__).with_name("scan.cu")
MAX_WIDTH = 256
"""Above it a program has more threads than a multiprocessor takes."""
ROWS, WARP, TILE = 16, 32, 8
"""Windows of a program, threads of a warp and columns of the state that a warp has, as in scan.cu."""
MAX_KEPT_WIDTH = 64
"""Up to it the weight stays in shared memory, as in scan.cu."""


class Kernels(NamedTuple):
    forward: cuda.Kernel
    backward: cuda.Kernel


def takes(tensor: Tensor, h: int) -> bool:
    """Whether the scan of this tensor with this width can be done here."""
    return (
        tensor.dtype == torch.float32
        and tensor.device.type == "cuda"
        and h <= MAX_WIDTH
        and _kernels(h, tensor.device) is not None
    )


def available(device: torch.device) -> bool:
    """Whether there are kernels for any width on this device."""
    return takes(torch.empty(0, device=device), 8)


def scan_forward(
    gates: Tensor, windows: Tensor | None, weight: Tensor, hidden: Tensor, cell: Tensor, *, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """States (K, L, W, H); to `keep` for the backward those that a bar begins with and cells (K, L, W, H), and gates
    (K, L, W, 4H) after their nonlinearities.

    gates (K, L, W, 4H), or (K, N, 4H) of which windows (K, W, L) are rows · weight (K, H, 4H) · hidden, cell (K, W, H)
    initial states.
    """
    gates, weight, hidden, cell = _checked(gates, weight, hidden, cell)
    n_folds, n_windows, width = hidden.shape
    n_steps = gates.shape[1] if windows is None else windows.shape[2]
    states = gates.new_empty(n_folds, n_steps, n_windows, width)
    entering, cells = (torch.empty_like(states), torch.empty_like(states)) if keep else (None, None)
    active = states.new_empty(*states.shape[:-1], 4 * width) if keep else None
    rows = None if windows is None else windows.contiguous()
    tensors = (gates, rows, weight, hidden, cell, states, entering, cells, active)
    n_rows = gates[0].numel() // (4 * width)
    _loaded(states).forward(_grid(states), states.device, *tensors, n_rows, n_steps, n_windows)
    return states, entering, cells, active


def scan_backward(
    d_states: Tensor, weight: Tensor, cell: Tensor, cells: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gates (K, L, W, 4H) and of the initial states (K, W, H).

    From d_states (K, L, W, H) and what scan_forward took and gave. The gradient of the weight, one matrix product over
    all steps of the states that they begin with, is the caller's.
    """
    d_states, weight, cell, cells, active = _checked(d_states, weight, cell, cells, active)
    d_gates, d_hidden, d_cell = torch.empty_like(active), torch.empty_like(cell), torch.empty_like(cell)
    tensors = (d_states, weight, cell, cells, active, d_gates, d_hidden, d_cell)
    _loaded(cells).backward(_grid(cells), cells.device, *tensors, *cells.shape[1:3])
    return d_gates, d_hidden, d_cell


def _checked(*tensors: Tensor) -> list[Tensor]:
    """Laid out as the kernels address them."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"the kernels are float32, got {tensor.dtype}: use the scan of tft/recurrent.py")
    return [tensor.contiguous() for tensor in tensors]


def _grid(states: Tensor) -> tuple[int, int, int]:
    return -(-states.shape[2] // ROWS), states.shape[0], 1


def _loaded(states: Tensor) -> Kernels:
    kernels = _kernels(states.shape[-1], states.device)
    assert kernels is not None
    return kernels


@cache
def _kernels(width: int, device: torch.device) -> Kernels | None:
    """Compiled at the first call for a width (seconds); None where that fails, or the GPU is too old."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    p = -(-width // TILE) * TILE
    rows = p if p <= MAX_KEPT_WIDTH else 0
    forward = 2 * ROWS * (p + (16 if p % 16 else 8)) + max(1, rows * (4 * p + 4))  # floats, as in scan.cu
    backward = 2 * ROWS * (4 * p + 8) + max(1, rows * (4 * p + 8))
    n_threads = p // TILE * WARP
    sizes = {"scan_forward": (n_threads, 4 * forward), "scan_backward": (n_threads, 4 * backward)}
    found = cuda.kernels(SOURCE, [f"-DH={width}"], device, sizes, "the scan")
    return Kernels(*found) if found else None
