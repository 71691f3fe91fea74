"""The masked softmax by the CUDA kernels of masked_softmax.cu, one launch forward and one backward.

Shapes: R rows of all folds, S columns, U rows of `usable`, each of which applies to R / U consecutive rows.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.cuda import compiling

SOURCE = Path(__file__).with_name("masked_softmax.cu")
MAX_WIDTH = 1024
"""Largest width whose rows fit the registers of a warp"""
WARPS, WARP = 8, 32
"""Warps of a block, and threads of a warp"""
TYPES = {torch.float32: "float", torch.bool: "bool"}
"""Types of `usable` in torch, and their names in CUDA C++"""


def unavailable(device: torch.device) -> str | None:
    """Reason why the kernels cannot run on this device at any width; None if they can."""
    return compiling.reason(_kernels(8, torch.float32, device))


def refuses(logits: Tensor, usable: Tensor) -> str | None:
    """Reason why the kernels do not take tensors like these; None if they do."""
    width = logits.shape[-1]
    if not 0 < width <= MAX_WIDTH or not 0 < logits.numel() < 2**31:
        return f"{tuple(logits.shape)} logits, the kernels take 1 to {MAX_WIDTH} columns and 2^31 - 1 in all"
    if usable.dtype not in TYPES:
        return f"what is usable is {usable.dtype}, the kernels take float32 and bool"
    return compiling.not_float32(logits) or compiling.reason(_kernels(width, usable.dtype, logits.device))


def forward(logits: Tensor, usable: Tensor) -> Tensor:
    """Weights (..., S) from logits (..., S) and usable, which broadcasts to their shape."""
    logits, usable = logits.contiguous(), repeated(usable, logits.shape).contiguous()
    n_rows = logits.shape[:-1].numel()
    launch, _ = compiling.loaded(_kernels(logits.shape[-1], usable.dtype, logits.device))
    weights = torch.empty(logits.shape, device=logits.device)
    sizes = n_rows, n_rows // usable.shape[:-1].numel()
    launch((-(-n_rows // WARPS), 1, 1), logits.device, logits, usable, weights, *sizes)
    return weights


def backward(d: Tensor, weights: Tensor, usable: Tensor) -> Tensor:
    """Gradient of the logits, from d (..., S), the forward's weights (..., S) and usable."""
    n_rows = weights.shape[:-1].numel()
    _, launch = compiling.loaded(_kernels(weights.shape[-1], usable.dtype, weights.device))
    d_logits = torch.empty(weights.shape, device=weights.device)
    launch((-(-n_rows // WARPS), 1, 1), weights.device, d.contiguous(), weights, d_logits, n_rows)
    return d_logits


def repeated(usable: Tensor, shape: torch.Size) -> Tensor:
    """Expand usable to `shape`, except for dimensions of 1 just before the last: such a row serves several rows."""
    n_leading = len(shape) - 1
    while n_leading and usable.shape[n_leading - 1] == 1:
        n_leading -= 1
    return usable.expand(*shape[:n_leading], *usable.shape[n_leading:-1], shape[-1])


@cache
def _kernels(width: int, usable: torch.dtype, device: torch.device) -> list[compiling.Kernel] | str:
    """Forward and backward kernels, compiled at the first call for a width and a type."""
    options = [f"-DWIDTH={width}", f"-DWARPS={WARPS}", f"-DUsable={TYPES[usable]}"]
    sizes = dict.fromkeys(("masked_softmax_forward", "masked_softmax_backward"), (WARPS * WARP, 0))
    return compiling.kernels(SOURCE, options, device, sizes, "the softmax")
