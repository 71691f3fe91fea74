"""The masked softmax by the kernels of masked_softmax.cu, one launch forward and one backward.

Shapes: R rows of all folds, S columns, U rows of what is usable, each for R / U rows in turn.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.cuda import compiling

SOURCE = Path(__file__).with_name("masked_softmax.cu")
MAX_WIDTH = 1024
"""Above it a row does not fit the registers of a warp."""
WARPS, WARP = 8, 32
"""Warps of a block, and threads of each of them."""
TYPES = {torch.float32: "float", torch.bool: "bool"}
"""Types that `usable` may have, in torch and in CUDA C++."""


def unavailable(device: torch.device) -> str | None:
    """Why the kernels cannot run on this device at any width; None where they can."""
    return compiling.reason(_kernels(8, torch.float32, device))


def refuses(logits: Tensor, usable: Tensor) -> str | None:
    """Why the kernels do not take tensors like these; None where they do."""
    width = logits.shape[-1]
    if not 0 < width <= MAX_WIDTH or not 0 < logits.numel() < 2**31:
        return f"{tuple(logits.shape)} logits, the kernels take 1 to {MAX_WIDTH} columns and 2^31 - 1 in all"
    if usable.dtype not in TYPES:
        return f"what is usable is {usable.dtype}, the kernels take float32 and bool"
    return compiling.not_float32(logits) or compiling.reason(_kernels(width, usable.dtype, logits.device))


def forward(logits: Tensor, usable: Tensor) -> Tensor:
    """logits (..., S) · usable (..., S), which broadcasts to it -> weights (..., S)."""
    logits, usable = logits.contiguous(), repeated(usable, logits.shape).contiguous()
    n_rows = logits.shape[:-1].numel()
    launch, _ = compiling.loaded(_kernels(logits.shape[-1], usable.dtype, logits.device))
    weights = torch.empty(logits.shape, device=logits.device)
    sizes = n_rows, n_rows // usable.shape[:-1].numel()
    launch((-(-n_rows // WARPS), 1, 1), logits.device, logits, usable, weights, *sizes)
    return weights


def backward(d: Tensor, weights: Tensor, usable: Tensor) -> Tensor:
    """From d (..., S), what the forward gave and what is usable -> the gradient of the logits."""
    n_rows = weights.shape[:-1].numel()
    _, launch = compiling.loaded(_kernels(weights.shape[-1], usable.dtype, weights.device))
    d_logits = torch.empty(weights.shape, device=weights.device)
    launch((-(-n_rows // WARPS), 1, 1), weights.device, d.contiguous(), weights, d_logits, n_rows)
    return d_logits


def repeated(usable: Tensor, shape: torch.Size) -> Tensor:
    """usable with dimensions of 1 only just before its last one: each of its rows is meant for several of `shape`."""
    n_leading = len(shape) - 1
    while n_leading and usable.shape[n_leading - 1] == 1:
        n_leading -= 1
    return usable.expand(*shape[:n_leading], *usable.shape[n_leading:-1], shape[-1])


@cache
def _kernels(width: int, usable: torch.dtype, device: torch.device) -> list[compiling.Kernel] | str:
    """Forward and backward, compiled at the first call for a width."""
    options = [f"-DWIDTH={width}", f"-DWARPS={WARPS}", f"-DUsable={TYPES[usable]}"]
    sizes = dict.fromkeys(("masked_softmax_forward", "masked_softmax_backward"), (WARPS * WARP, 0))
    return compiling.kernels(SOURCE, options, device, sizes, "the softmax")
