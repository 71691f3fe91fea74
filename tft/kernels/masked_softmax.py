"""A softmax over what is usable as one operation; on a GPU by the kernels of masked_softmax.cu, where they can run.

Shapes: R rows of all folds, S columns, U rows of what is usable, each for R / U rows in turn.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from tft.kernels.cuda import compiling as cuda
from tft.kernels.stack import at_front

SOURCE = Path(__file__).with_name("cuda") / "masked_softmax.cu"
MAX_WIDTH = 1024
"""Above it a row does not fit the registers of a warp."""
WARPS, WARP = 8, 32
"""Of a block, and the threads of each of them."""
TYPES = {torch.float32: "float", torch.bool: "bool"}
"""Of what is usable, in CUDA C++."""


class Kernels(NamedTuple):
    forward: cuda.Kernel
    backward: cuda.Kernel


def masked_softmax(logits: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the last dimension where usable is 1; exactly 0, in value and gradient, where it is 0.

    logits (..., S) · usable, 0 and 1 or a bool, has as many dimensions and broadcasts to it.
    """
    if takes(logits, usable):
        weights: Tensor = _MaskedSoftmax.apply(logits, usable)  # type: ignore[no-untyped-call]
        return weights
    lowest = torch.finfo(logits.dtype).min
    return torch.softmax(logits.masked_fill(usable == 0, lowest), dim=-1) * usable


class _MaskedSoftmax(Function):
    """Works on one fold's tensors and on those of a stack (K, ...) alike."""

    @staticmethod
    def forward(logits: Tensor, usable: Tensor) -> Tensor:
        logits, usable = logits.contiguous(), repeated(usable, logits.shape).contiguous()
        n_rows, width = logits.shape[:-1].numel(), logits.shape[-1]
        weights = torch.empty(logits.shape, device=logits.device)
        kernels = _loaded(width, usable.dtype, logits.device)
        sizes = n_rows, n_rows // usable.shape[:-1].numel()
        kernels.forward((-(-n_rows // WARPS), 1, 1), logits.device, logits, usable, weights, *sizes)
        return weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.usable_dtype = inputs[1].dtype
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        d, d_logits = gradients[0].contiguous(), torch.empty(weights.shape, device=weights.device)
        n_rows, width = weights.shape[:-1].numel(), weights.shape[-1]
        kernels = _loaded(width, ctx.usable_dtype, weights.device)
        kernels.backward((-(-n_rows // WARPS), 1, 1), weights.device, d, weights, d_logits, n_rows)
        return d_logits, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[Tensor, int]:
        return _MaskedSoftmax.apply(*at_front(info, in_dims, arguments)), 0  # type: ignore[no-untyped-call]


def repeated(usable: Tensor, shape: torch.Size) -> Tensor:
    """usable with dimensions of 1 only just before its last one: each of its rows is meant for several of `shape`."""
    n_leading = len(shape) - 1
    while n_leading and usable.shape[n_leading - 1] == 1:
        n_leading -= 1
    return usable.expand(*shape[:n_leading], *usable.shape[n_leading:-1], shape[-1])


def takes(logits: Tensor, usable: Tensor) -> bool:
    """Whether masked_softmax.cu does it for tensors like these."""
    width = logits.shape[-1]
    fits = logits.is_cuda and logits.dtype == torch.float32 and 0 < width <= MAX_WIDTH and 0 < logits.numel() < 2**31
    return fits and usable.dtype in TYPES and _kernels(width, usable.dtype, logits.device) is not None


def _loaded(width: int, usable: torch.dtype, device: torch.device) -> Kernels:
    kernels = _kernels(width, usable, device)
    assert kernels is not None
    return kernels


@cache
def _kernels(width: int, usable: torch.dtype, device: torch.device) -> Kernels | None:
    """Compiled at the first call for a width; None where that fails."""
    options = [f"-DWIDTH={width}", f"-DWARPS={WARPS}", f"-DUsable={TYPES[usable]}"]
    sizes = dict.fromkeys(("masked_softmax_forward", "masked_softmax_backward"), (WARPS * WARP, 0))
    found = cuda.kernels(SOURCE, options, device, sizes, "the softmax")
    return Kernels(*found) if found else None
