"""One step of Adam (Kingma & Ba 2015) for a stack of folds, each with its own learning rate, clipping and count.

Shapes: K stacked folds, P parameters of one model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.cpu import native
from tft.kernels.cuda import compiling as cuda

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
CPU_CHUNK = 2**15
"""Parameters updated at once on a CPU without kernels, so that the update's dozen passes stay in the cache."""
SOURCE = Path(__file__).with_name("cuda") / "adam.cu"
N_THREADS, EACH = 256, 4
"""Of a program of adam.cu, and the parameters that each of them updates."""


def adam(
    flat: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    n_updates: Tensor,
    clip: Tensor,
    update: Tensor,
    lr: Tensor,
) -> None:
    """Update weights `flat` and moments (K, P) in place, at `lr` (K, 1) on `clip` (K, 1) times the gradient, and count
    in `n_updates` (K, 1): for the folds whose `update` (K, 1) is 1.

    The others keep weights, moments and count, whatever their gradient holds.
    """
    n_updates.add_(update)
    count = n_updates.clamp_min(1.0)
    rate = lr * update / (1.0 - BETA_1**count)
    correction = torch.rsqrt(1.0 - BETA_2**count)
    of_folds = rate, correction, clip, (1.0 - BETA_1) * update, (1.0 - BETA_2) * update
    if flat.device.type == "cpu" and (kernels := native.kernels()):
        kernels.adam(gradient, torch.cat(of_folds, dim=1), flat, first, second)
        return
    kernel = _kernel(flat.device) if flat.is_cuda and flat.dtype == torch.float32 else None
    if kernel:
        n_folds, n_parameters = flat.shape
        grid = (-(-n_parameters // (N_THREADS * EACH)), n_folds, 1)
        tensors = (flat, gradient.contiguous(), first, second, torch.cat(of_folds, dim=1))
        kernel(grid, flat.device, *tensors, n_parameters)
        return
    size = CPU_CHUNK if flat.device.type == "cpu" else flat.shape[1]
    chunks = (tensor.split(size, dim=1) for tensor in (flat, gradient, first, second))
    for weights, slope, mean, square in zip(*chunks, strict=True):
        slope = torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0).mul_(clip)
        mean.lerp_(slope, (1.0 - BETA_1) * update)
        square.lerp_(slope.square_(), (1.0 - BETA_2) * update)
        weights.sub_((mean * rate).div_(torch.sqrt(square).mul_(correction).add_(EPSILON)))


@cache
def _kernel(device: torch.device) -> cuda.Kernel | None:
    options = [f"-DEPSILON={EPSILON}f", f"-DN_THREADS={N_THREADS}", f"-DEACH={EACH}"]
    found = cuda.kernels(SOURCE, options, device, {"adam": (N_THREADS, 0)}, "Adam")
    return found[0] if found else None
