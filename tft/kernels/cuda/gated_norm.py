"""The gated norm by the CUDA kernels of gated_norm.cu, one launch forward and one backward.

Shapes: K stacked folds, R rows, D columns, P parts of a sum over rows.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.constants import NORM_EPSILON
from tft.kernels.cuda import compiling

SOURCE = Path(__file__).with_name("gated_norm.cu")
MAX_WIDTH = 512
"""Largest width whose rows fit the registers of a warp"""
WARPS, WARP = 8, 32
"""Warps of a block, and threads of a warp"""
N_BLOCKS = 1024
"""Most blocks of the backward, several for each multiprocessor of a GPU; each sums over a part of the rows"""


def unavailable(device: torch.device) -> str | None:
    """Reason why the kernels cannot run on this device at any width; None if they can."""
    return compiling.reason(_kernels(8, device))


def refuses(skip: Tensor) -> str | None:
    """Reason why the kernels do not take rows (K, R, D) like these; None if they do."""
    width = skip.shape[-1]
    if not 0 < width <= MAX_WIDTH or skip.numel() == 0:
        return f"{tuple(skip.shape)} rows, the kernels take at least one of 1 to {MAX_WIDTH} columns"
    return compiling.not_float32(skip) or compiling.reason(_kernels(width, skip.device))


def forward(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Gated norm (K, R, D) of skip (K, R, D), gated (K, R, 2D), weight and bias (K, D) or, if K = 1, (D,)."""
    n_folds, n_rows, width = skip.shape
    launch, _ = compiling.loaded(_kernels(width, skip.device))
    normed = torch.empty(skip.shape, device=skip.device)
    tensors = (*_rows(skip), *_rows(gated), weight.contiguous(), bias.contiguous(), normed)
    launch((-(-n_rows // WARPS), n_folds, 1), skip.device, *tensors, n_rows)
    return normed


def backward(d: Tensor, skip: Tensor, gated: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of skip, gated, weight and bias, from d (K, R, D) and the arguments of the forward."""
    n_folds, n_rows, width = skip.shape
    _, launch = compiling.loaded(_kernels(width, skip.device))
    n_each, n_parts = shares(n_rows, n_folds)
    d_skip, d_gated, parts = (
        torch.empty(shape, device=skip.device) for shape in (skip.shape, gated.shape, (2, n_folds, n_parts, width))
    )
    tensors = (*_rows(d), *_rows(skip), *_rows(gated), weight.contiguous(), d_skip, d_gated, parts)
    launch((n_parts, n_folds, 1), skip.device, *tensors, n_rows, n_each)
    d_weight, d_bias = parts.squeeze(2) if n_parts == 1 else parts.sum(dim=2)
    return d_skip, d_gated, d_weight, d_bias


def shares(n_rows: int, n_folds: int) -> tuple[int, int]:
    """Rows of a part, a multiple of WARPS, and number of parts of each fold's rows; a function of shapes only."""
    n_units = -(-n_rows // WARPS)
    n_each = -(-n_units // max(1, N_BLOCKS // n_folds))
    return n_each * WARPS, -(-n_units // n_each)


def _rows(tensor: Tensor) -> tuple[Tensor, int, int]:
    """A tensor (K, R, ...) with contiguous rows, and its strides between folds and between rows."""
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    return tensor, tensor.stride(0), tensor.stride(1)


@cache
def _kernels(width: int, device: torch.device) -> list[compiling.Kernel] | str:
    """Forward and backward kernels, compiled at the first call for a width."""
    options = [f"-DWIDTH={width}", f"-DWARPS={WARPS}", f"-DEPSILON={NORM_EPSILON}f"]
    sizes = dict.fromkeys(("gated_norm_forward", "gated_norm_backward"), (WARPS * WARP, 0))
    return compiling.kernels(SOURCE, options, device, sizes, "the gated norm")
