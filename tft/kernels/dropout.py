"""Dropout (Srivastava et al. 2014) as one operation.

A fold's seed says which elements are dropped, so that the backward drops them again and nothing of their number is
kept. It is written here for any device, and done by native.cpp on a CPU and dropout.cu on a GPU where they can run.

Shapes: K stacked folds (1 where there is no stack), N elements of each.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd import Function

from tft.kernels.cpu import native
from tft.kernels.cuda import compiling as cuda
from tft.kernels.noise import Mask, Noise, random_seeds
from tft.kernels.stack import at_front

SOURCE = Path(__file__).with_name("cuda") / "dropout.cu"
N_THREADS, EACH = 256, 4
"""Of a block of dropout.cu, and the elements that each of them takes."""


def dropout(x: Tensor, noise: Noise | None) -> Tensor:
    """x with elements set to 0 and the rest scaled up; x itself without `noise`, which is how one forecasts.

    Under vmap every fold draws its own.
    """
    if noise is None:
        return x
    dropped: Tensor = _Dropout.apply(x, noise.threshold, noise.scale, noise.generator)[0]  # type: ignore[no-untyped-call]
    return dropped


def drop(x: Tensor, mask: Mask) -> Tensor:
    """x of K folds, whatever its shape, times 0 where the mask drops an element and its scale elsewhere."""
    rows = x.reshape(len(mask.seeds), x.numel() // len(mask.seeds))
    if x.device.type == "cpu" and (kernels := native.kernels()):
        return kernels.drop(rows, mask).view(x.shape)
    if takes(x):
        return _drop_on_gpu(rows, mask).view(x.shape)
    return (rows * mask.factor(range(1), rows.shape[1], x.dtype).squeeze(1)).view(x.shape)


class _Dropout(Function):
    """Works on one fold, with threshold and scale (), and on a stack (K, ...), with (K,), alike."""

    @staticmethod
    def forward(x: Tensor, threshold: Tensor, scale: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        seeds = random_seeds(threshold.numel(), generator)
        return drop(x, Mask(seeds, threshold.reshape(-1), scale.reshape(-1))), seeds

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, threshold, scale, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # none of zeros for what has none
        ctx.save_for_backward(output[1], threshold, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        seeds, threshold, scale = ctx.saved_tensors
        return drop(gradients[0], Mask(seeds, threshold.reshape(-1), scale.reshape(-1))), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return _Dropout.apply(*at_front(info, in_dims, arguments)), (0, 0)  # type: ignore[no-untyped-call]


def takes(x: Tensor) -> bool:
    """Whether dropout.cu does it for a tensor like this."""
    return x.is_cuda and x.dtype == torch.float32 and 0 < x.numel() < 2**31 and _kernel(x.device) is not None


def _drop_on_gpu(x: Tensor, mask: Mask) -> Tensor:
    """x (K, N)"""
    n_folds, n_elements = x.shape
    if x.stride(1) != 1:
        x = x.contiguous()
    kernel, dropped = _kernel(x.device), torch.empty(x.shape, device=x.device)
    assert kernel is not None
    of_folds = (mask.seeds.contiguous(), mask.threshold.contiguous(), mask.scale.contiguous())
    grid = (-(-n_elements // (N_THREADS * EACH)), n_folds, 1)
    kernel(grid, x.device, x, x.stride(0), *of_folds, dropped, n_elements)
    return dropped


@cache
def _kernel(device: torch.device) -> cuda.Kernel | None:
    """Compiled at the first call; None where that fails."""
    options = [f"-DN_THREADS={N_THREADS}", f"-DEACH={EACH}"]
    found = cuda.kernels(SOURCE, options, device, {"drop": (N_THREADS, 0)}, "dropout")
    return found[0] if found else None
