"""The optimiser step by the CUDA kernel of adam.cu. Shapes: K stacked folds, P parameters of one model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.constants import ADAM_EPSILON
from tft.kernels.cuda import compiling

SOURCE = Path(__file__).with_name("adam.cu")
N_THREADS, EACH = 256, 4
"""Threads of a block, and the parameters that each of them updates"""


def unavailable(device: torch.device) -> str | None:
    """Reason why the kernel cannot run on this device; None if it can."""
    return compiling.reason(_kernel(device))


def refuses(flat: Tensor) -> str | None:
    """Reason why the kernel cannot update these weights; None if it can."""
    return compiling.not_float32(flat) or unavailable(flat.device)


def update(
    weights: Tensor,
    averaged: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    decay: Tensor | None,
    coefficients: Tensor,
) -> None:
    """Update weights, their average and the moments (K, P) in place; decay (P,), coefficients (K, 7) as in
    kernels/adam.py.
    """
    n_folds, n_parameters = weights.shape
    (kernel,) = compiling.loaded(_kernel(weights.device))
    grid = (-(-n_parameters // (N_THREADS * EACH)), n_folds, 1)
    given = averaged, gradient.contiguous(), mean, square, None if decay is None else decay.contiguous()
    kernel(grid, weights.device, weights, *given, coefficients.contiguous(), n_parameters)


@cache
def _kernel(device: torch.device) -> list[compiling.Kernel] | str:
    options = [f"-DEPSILON={ADAM_EPSILON}f", f"-DN_THREADS={N_THREADS}", f"-DEACH={EACH}"]
    return compiling.kernels(SOURCE, options, device, {"adam": (N_THREADS, 0)}, "Adam")
