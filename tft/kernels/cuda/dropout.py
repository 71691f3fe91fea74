"""Dropout by the CUDA kernel of dropout.cu. Shapes: K stacked folds, N elements per fold."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.cuda import compiling
from tft.kernels.dropout_mask import Mask

SOURCE = Path(__file__).with_name("dropout.cu")
N_THREADS, EACH = 256, 4
"""Threads of a block, and the elements that each of them computes"""


def unavailable(device: torch.device) -> str | None:
    """Reason why the kernel cannot run on this device; None if it can."""
    return compiling.reason(_kernel(device))


def refuses(x: Tensor) -> str | None:
    """Reason why the kernel does not take this tensor; None if it does."""
    if not 0 < x.numel() < 2**31:
        return f"{x.numel()} elements, the kernel takes 1 to 2^31 - 1"
    return compiling.not_float32(x) or unavailable(x.device)


def drop(x: Tensor, mask: Mask) -> Tensor:
    """Apply the mask to x (K, N)."""
    n_folds, n_elements = x.shape
    if x.stride(1) != 1:
        x = x.contiguous()
    (kernel,) = compiling.loaded(_kernel(x.device))
    dropped = torch.empty(x.shape, device=x.device)
    drawn = (mask.seeds.contiguous(), mask.threshold.contiguous(), mask.scale.contiguous())
    grid = (-(-n_elements // (N_THREADS * EACH)), n_folds, 1)
    kernel(grid, x.device, x, x.stride(0), *drawn, dropped, n_elements)
    return dropped


@cache
def _kernel(device: torch.device) -> list[compiling.Kernel] | str:
    options = [f"-DN_THREADS={N_THREADS}", f"-DEACH={EACH}"]
    return compiling.kernels(SOURCE, options, device, {"drop": (N_THREADS, 0)}, "dropout")
