"""The variable selection of selection.py by the kernels of select.cu, one launch forward and one backward.

Where a launch would be too small for a GPU, each sum is cut into S parts that are added afterwards: no two programs
write to one place, so that a repetition agrees to the last bit. Sizes are chosen from the shapes alone, and launches
can be captured in a CUDA graph.

Shapes: K folds, V variables, N cells, H hidden width, S parts of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tft.kernels.cuda import compiling as cuda
from tft.kernels.noise import Mask

SOURCE = Path(__file__).with_name("select.cu")
MAX_WIDTH = 64
"""Above it what a program holds does not fit the registers."""
N_PROGRAMS = 1024
"""Of a launch at least, if there is that much to share out: several for each of a GPU's multiprocessors."""
ROWS, FORWARD_WARPS, WARP = 16, 6, 32
"""Cells of a warp, warps of a program and threads of a warp, as in select.cu."""


class Kernels(NamedTuple):
    forward: cuda.Kernel
    backward: cuda.Kernel


def takes(x: Tensor, h: int) -> bool:
    """Whether the selection of this tensor with this width can be done here."""
    return x.dtype == torch.float32 and x.device.type == "cuda" and h <= MAX_WIDTH and _kernels(h, x.device) is not None


def available(device: torch.device) -> bool:
    """Whether there are kernels for any width on this device."""
    return takes(torch.empty(0, device=device), 8)


def select_forward(x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None) -> Tensor:
    """The weighted sum of the transformed variables (K, N, H).

    x, weights (K, V, N) · grns as in selection.VariableGRNs, all with a leading K · mask of rows V * N, or None where
    nothing is dropped.
    """
    x, weights, *grns = _checked(x, weights, *grns)
    (n_folds, n_variables, n_cells), width = x.shape, grns[0].shape[-1]
    n_blocks = -(-n_cells // (FORWARD_WARPS * ROWS))
    n_each, n_parts = shares(n_variables, n_blocks * n_folds)
    parts = x.new_empty(n_parts, n_folds, n_cells, width)
    tensors = (x, weights, cuda.pointers(grns), *_of_folds(mask), parts)
    _loaded(width, x.device).forward((n_blocks, n_folds, n_parts), x.device, *tensors, n_variables, n_cells, n_each)
    return parts[0] if n_parts == 1 else parts.sum(dim=0)


def select_backward(
    d_selected: Tensor, x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None
) -> tuple[Tensor, list[Tensor]]:
    """From d_selected (K, N, H) and what select_forward took -> gradients of weights and of grns."""
    d_selected, x, weights, *grns = _checked(d_selected, x, weights, *grns)
    (n_folds, n_variables, n_cells), width = x.shape, grns[0].shape[-1]
    n_each, n_parts = shares(n_cells, n_folds * n_variables, multiple=_chunk(width))
    d_weights = torch.empty_like(weights)
    n_values = [parameter.numel() for parameter in grns]
    parts = x.new_empty(n_parts, sum(n_values))  # the gradients of the parameters one after the other
    gradients = cuda.pointers(parts[0].split(n_values))
    tensors = (d_selected, x, weights, cuda.pointers(grns), *_of_folds(mask), d_weights, gradients)
    sizes = (parts.shape[1], n_variables, n_cells, n_each)
    _loaded(width, x.device).backward((n_folds * n_variables, n_parts, 1), x.device, *tensors, *sizes)
    d_grns = (parts[0] if n_parts == 1 else parts.sum(dim=0)).split(n_values)
    return d_weights, [d.view(parameter.shape) for d, parameter in zip(d_grns, grns, strict=True)]


def shares(n_terms: int, n_sums: int, *, multiple: int = 1) -> tuple[int, int]:
    """Terms of a part, a multiple, and parts of each sum, from the shapes alone."""
    n_units = -(-n_terms // multiple)
    n_each = -(-n_units // min(n_units, -(-N_PROGRAMS // n_sums)))
    return n_each * multiple, -(-n_units // n_each)


def _checked(*tensors: Tensor) -> list[Tensor]:
    """Laid out as the kernels address them."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"the kernels are float32, got {tensor.dtype}: use the selection of tft/selection.py")
    if tensors[-1].shape[-1] > MAX_WIDTH:
        raise ValueError(f"the kernels take widths up to {MAX_WIDTH}, got {tensors[-1].shape[-1]}")
    return [tensor.contiguous() for tensor in tensors]


def _of_folds(mask: Mask | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Seeds, thresholds and scales (K,) as the kernels take them."""
    if mask is None:
        return None, None, None
    return mask.seeds.contiguous(), mask.threshold.int(), mask.scale.float()


def _padded(width: int) -> int:
    return -(-width // 16) * 16


def _chunk(width: int) -> int:
    """Cells that a program of the backward takes at a time."""
    return ROWS * (_padded(width) // 8)


def _loaded(width: int, device: torch.device) -> Kernels:
    kernels = _kernels(width, device)
    assert kernels is not None
    return kernels


@cache
def _kernels(width: int, device: torch.device) -> Kernels | None:
    """Compiled at the first call for a width (seconds); None where that fails, or the GPU is too small or too old."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    properties: Any = torch.cuda.get_device_properties(device)
    p, chunk = _padded(width), _chunk(width)
    of_weights = p * (-(-p // 32) * 32 + -(-2 * p // 32) * 32) + 9 * p  # floats, as in select.cu
    forward = 2 * 4 * of_weights
    backward = 4 * (of_weights + chunk * (p + 8 + 2 * p + 8) + p // 8 * 9 * p)
    if max(forward, backward) > properties.shared_memory_per_block_optin:
        return None
    sizes = {"select_forward": (FORWARD_WARPS * WARP, forward), "select_backward": (p // 8 * WARP, backward)}
    found = cuda.kernels(SOURCE, [f"-DH={width}"], device, sizes, "variable selection")
    return Kernels(*found) if found else None
