"""Adam by the kernel of adam.cu. Shapes: K stacked folds, P parameters of one model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.constants import ADAM_EPSILON
from tft.kernels.cuda import compiling

SOURCE = Path(__file__).with_name("adam.cu")
N_THREADS, EACH = 256, 4
"""Threads of a block, and the parameters that each of them updates."""


def unavailable(device: torch.device) -> str | None:
    """Why the kernel cannot run on this device; None where it can."""
    return compiling.reason(_kernel(device))


def refuses(flat: Tensor) -> str | None:
    """Why the kernel does not update these weights; None where it does."""
    return compiling.not_float32(flat) or unavailable(flat.device)


def update(weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, of_folds: Tensor) -> None:
    """One update of weights and moments (K, P) in place; of_folds (K, 5) as adam.py lays it out."""
    n_folds, n_parameters = weights.shape
    (kernel,) = compiling.loaded(_kernel(weights.device))
    grid = (-(-n_parameters // (N_THREADS * EACH)), n_folds, 1)
    kernel(grid, weights.device, weights, gradient.contiguous(), mean, square, of_folds.contiguous(), n_parameters)


@cache
def _kernel(device: torch.device) -> list[compiling.Kernel] | str:
    options = [f"-DEPSILON={ADAM_EPSILON}f", f"-DN_THREADS={N_THREADS}", f"-DEACH={EACH}"]
    return compiling.kernels(SOURCE, options, device, {"adam": (N_THREADS, 0)}, "Adam")
