"""Variable selection by the CUDA kernels of select.cu, one launch forward and one backward.

If a launch would be too small for a GPU, each sum is divided into S parts that are added afterwards: no two blocks
write to the same place, so that results are reproducible to the last bit. Sizes depend on the shapes only, and launches
can be captured in a CUDA graph.

Shapes: K stacked folds, V variables, N cells, H hidden width, S parts of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tft.kernels.constants import NORM_EPSILON
from tft.kernels.cuda import compiling
from tft.kernels.dropout_mask import Mask

SOURCE = Path(__file__).with_name("select.cu")
MAX_WIDTH = 64
"""Largest width at which a block's values fit the registers"""
LEAST_CAPABILITY = (8, 0)
MIN_BLOCKS = 1024
"""Fewest blocks of a launch, several for each multiprocessor of a GPU, if there is enough work to divide"""
ROWS, FORWARD_WARPS, WARP = 16, 6, 32
"""Cells of a warp, warps of a block and threads of a warp, as in select.cu"""


def unavailable(device: torch.device) -> str | None:
    """Reason why the kernels cannot run on this device at any width; None if they can."""
    return compiling.reason(_kernels(8, device))


def refuses(x: Tensor, width: int) -> str | None:
    """Reason why the kernels do not take this tensor at this width; None if they do."""
    if width > MAX_WIDTH:
        return f"a width of {width} is above {MAX_WIDTH}"
    return compiling.not_float32(x) or compiling.reason(_kernels(width, x.device))


def forward(
    x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None, *, for_backward: bool
) -> tuple[Tensor, Tensor | None]:
    """See Reference.forward in kernels/select.py. Nothing is saved for the backward."""
    x, weights, *grns = compiling.laid_out(x, weights, *grns)
    (n_folds, n_variables, n_cells), width = x.shape, grns[0].shape[-1]
    n_blocks = -(-n_cells // (FORWARD_WARPS * ROWS))
    n_each, n_parts = shares(n_variables, n_blocks * n_folds)
    parts = x.new_empty(n_parts, n_folds, n_cells, width)
    tensors = (x, weights, compiling.pointers(grns), *_mask_tensors(mask), parts)
    launch, _ = compiling.loaded(_kernels(width, x.device))
    launch((n_blocks, n_folds, n_parts), x.device, *tensors, n_variables, n_cells, n_each)
    return parts[0] if n_parts == 1 else parts.sum(dim=0), None


def backward(
    d: Tensor, x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None, kept: Tensor | None
) -> tuple[Tensor, Sequence[Tensor]]:
    """See Reference.backward in kernels/select.py."""
    d, x, weights, *grns = compiling.laid_out(d, x, weights, *grns)
    (n_folds, n_variables, n_cells), width = x.shape, grns[0].shape[-1]
    n_each, n_parts = shares(n_cells, n_folds * n_variables, multiple=_chunk(width))
    d_weights = torch.empty_like(weights)
    n_values = [parameter.numel() for parameter in grns]
    parts = x.new_empty(n_parts, sum(n_values))  # the gradients of all parameters, concatenated
    gradients = compiling.pointers(parts[0].split(n_values))
    tensors = (d, x, weights, compiling.pointers(grns), *_mask_tensors(mask), d_weights, gradients)
    sizes = (parts.shape[1], n_variables, n_cells, n_each)
    _, launch = compiling.loaded(_kernels(width, x.device))
    launch((n_folds * n_variables, n_parts, 1), x.device, *tensors, *sizes)
    d_grns = (parts[0] if n_parts == 1 else parts.sum(dim=0)).split(n_values)
    return d_weights, [d.view(parameter.shape) for d, parameter in zip(d_grns, grns, strict=True)]


def shares(n_terms: int, n_sums: int, *, multiple: int = 1) -> tuple[int, int]:
    """Terms of a part, a multiple of `multiple`, and number of parts of each sum; a function of shapes only."""
    n_units = -(-n_terms // multiple)
    n_each = -(-n_units // min(n_units, -(-MIN_BLOCKS // n_sums)))
    return n_each * multiple, -(-n_units // n_each)


def _mask_tensors(mask: Mask | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Seeds, thresholds and scales (K,) in the dtypes that the kernels read."""
    if mask is None:
        return None, None, None
    return mask.seeds.contiguous(), mask.threshold.int(), mask.scale.float()


def _padded(width: int) -> int:
    """The width rounded up to a multiple of 16."""
    return -(-width // 16) * 16


def _chunk(width: int) -> int:
    """Cells that a block of the backward computes at a time."""
    return ROWS * (_padded(width) // 8)


@cache
def _kernels(width: int, device: torch.device) -> list[compiling.Kernel] | str:
    """Forward and backward kernels, compiled at the first call for a width (seconds)."""
    if fault := compiling.too_old(device, LEAST_CAPABILITY):
        return fault
    properties: Any = torch.cuda.get_device_properties(device)
    p, chunk = _padded(width), _chunk(width)
    weight_floats = p * (-(-p // 32) * 32 + -(-2 * p // 32) * 32) + 9 * p  # floats, as in select.cu
    forward = 2 * 4 * weight_floats
    backward = 4 * (weight_floats + chunk * (p + 8 + 2 * p + 8) + p // 8 * 9 * p)
    needed, available = max(forward, backward), properties.shared_memory_per_block_optin
    if needed > available:
        return f"a block has {available} bytes of shared memory, a width of {width} takes {needed}"
    sizes = {"select_forward": (FORWARD_WARPS * WARP, forward), "select_backward": (p // 8 * WARP, backward)}
    options = [f"-DH={width}", f"-DEPSILON={NORM_EPSILON}f"]
    return compiling.kernels(SOURCE, options, device, sizes, "variable selection")
