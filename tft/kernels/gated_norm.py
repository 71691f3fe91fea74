"""The gated skip's layer norm as one operation (Lim et al. 2021, eq 5, from its gate on).

LayerNorm(skip + value * sigmoid(gate)), of Ba et al. 2016 (layer norm) and Dauphin et al. 2017 (gated linear unit). The
backward computes the normalised rows again, so that nothing but the operands is kept. It is written here for any
device, and done by native.cpp on a CPU and gated_norm.cu on a GPU where they can run.

Shapes: K stacked folds (1 where there is no stack), R rows, D columns, P parts of a sum over rows.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from tft.kernels.cpu import native
from tft.kernels.cuda import compiling as cuda
from tft.kernels.stack import at_front

EPSILON = 1e-5
SOURCE = Path(__file__).with_name("cuda") / "gated_norm.cu"
MAX_WIDTH = 512
"""Above it a row does not fit the registers of a warp."""
WARPS, WARP = 8, 32
"""Of a block, and the threads of each of them."""
N_BLOCKS = 1024
"""Of the backward at most: several for each of a GPU's multiprocessors, each with a part of the sums over rows."""


class Kernels(NamedTuple):
    forward: cuda.Kernel
    backward: cuda.Kernel


def gated_norm(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm(skip + value * sigmoid(gate)) over the last dimension -> (..., D).

    skip (..., D), or what broadcasts to it · gated (..., 2D) value | gate · weight, bias (D,) of the norm.
    """
    shape = (*gated.shape[:-1], skip.shape[-1])
    normed: Tensor = _GatedNorm.apply(skip.expand(shape), gated, weight, bias)  # type: ignore[no-untyped-call]
    return normed


class _GatedNorm(Function):
    """Works on one fold's tensors and on those of a stack (K, ...) alike."""

    @staticmethod
    def forward(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shape = skip.shape
        skip, gated = _of_folds(weight, skip, gated)
        if skip.device.type == "cpu" and (kernels := native.kernels()):
            normed = kernels.gated_norm_forward(skip, gated, weight, bias)
        else:
            normed = (_forward_on_gpu if takes(skip) else _forward)(skip, gated, weight, bias)
        return normed.view(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        skip, gated, weight, _ = inputs
        ctx.save_for_backward(skip, gated, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        skip, gated, weight = ctx.saved_tensors
        shapes = skip.shape, gated.shape, weight.shape, weight.shape
        d, skip, gated = _of_folds(weight, *gradients, skip, gated)
        if skip.device.type == "cpu" and (kernels := native.kernels()):
            given = kernels.gated_norm_backward(d, skip, gated, weight)
        else:
            given = (_backward_on_gpu if takes(skip) else _backward)(d, skip, gated, weight)
        d_skip, d_gated, d_weight, d_bias = (each.view(shape) for each, shape in zip(given, shapes, strict=True))
        return d_skip, d_gated, d_weight, d_bias

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[Tensor, int]:
        return _GatedNorm.apply(*at_front(info, in_dims, arguments)), 0  # type: ignore[no-untyped-call]


def _of_folds(weight: Tensor, *tensors: Tensor) -> list[Tensor]:
    """(K, R, ...) each; weight is (D,) or (K, D)."""
    shape = weight.shape[:-1].numel(), tensors[0].shape[:-1].numel() // weight.shape[:-1].numel()
    return [tensor.reshape(*shape, tensor.shape[-1]) for tensor in tensors]


def _forward(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addcmul(bias.unsqueeze(-2), _normalised(skip, gated)[0], weight.unsqueeze(-2))


def _backward(d: Tensor, skip: Tensor, gated: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From d (K, R, D) to the gradients of skip, gated, weight and bias."""
    normed, inverse_std = _normalised(skip, gated)
    value, gate = gated.chunk(2, dim=-1)
    gate = gate.sigmoid()
    scaled = d * weight.unsqueeze(-2)
    across, along = scaled.mean(dim=-1, keepdim=True), (scaled * normed).mean(dim=-1, keepdim=True)
    d_skip = (scaled - across - normed * along) * inverse_std
    d_value = d_skip * gate
    d_gated = torch.cat([d_value, d_value * value * (1.0 - gate)], dim=-1)
    return d_skip, d_gated, (d * normed).sum(dim=1), d.sum(dim=1)


def _normalised(skip: Tensor, gated: Tensor) -> tuple[Tensor, Tensor]:
    """Before weight and bias (K, R, D), and the inverse deviations (K, R, 1)."""
    rows = skip + F.glu(gated, dim=-1)
    normed, _, inverse_std = torch.native_layer_norm(rows, rows.shape[-1:], None, None, EPSILON)
    return normed, inverse_std


def takes(skip: Tensor) -> bool:
    """Whether gated_norm.cu does it for rows like these."""
    width = skip.shape[-1]
    fits = skip.is_cuda and skip.dtype == torch.float32 and 0 < width <= MAX_WIDTH and skip.numel() > 0
    return fits and _kernels(width, skip.device) is not None


def _forward_on_gpu(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    n_folds, n_rows, _ = skip.shape
    normed = torch.empty(skip.shape, device=skip.device)
    tensors = (*_rows(skip), *_rows(gated), weight.contiguous(), bias.contiguous(), normed)
    _loaded(skip).forward((-(-n_rows // WARPS), n_folds, 1), skip.device, *tensors, n_rows)
    return normed


def _backward_on_gpu(d: Tensor, skip: Tensor, gated: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_folds, n_rows, width = skip.shape
    n_each, n_parts = shares(n_rows, n_folds)
    d_skip, d_gated, parts = (
        torch.empty(shape, device=skip.device) for shape in (skip.shape, gated.shape, (2, n_folds, n_parts, width))
    )
    tensors = (*_rows(d), *_rows(skip), *_rows(gated), weight.contiguous(), d_skip, d_gated, parts)
    _loaded(skip).backward((n_parts, n_folds, 1), skip.device, *tensors, n_rows, n_each)
    d_weight, d_bias = parts.squeeze(2) if n_parts == 1 else parts.sum(dim=2)
    return d_skip, d_gated, d_weight, d_bias


def shares(n_rows: int, n_folds: int) -> tuple[int, int]:
    """Rows of a part, as many for each of a block's warps, and parts of each fold's rows; from the shapes alone."""
    n_units = -(-n_rows // WARPS)
    n_each = -(-n_units // max(1, N_BLOCKS // n_folds))
    return n_each * WARPS, -(-n_units // n_each)


def _rows(tensor: Tensor) -> tuple[Tensor, int, int]:
    """As the kernels address it: a tensor, and what lies between two folds and between two rows."""
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    return tensor, tensor.stride(0), tensor.stride(1)


def _loaded(skip: Tensor) -> Kernels:
    kernels = _kernels(skip.shape[-1], skip.device)
    assert kernels is not None
    return kernels


@cache
def _kernels(width: int, device: torch.device) -> Kernels | None:
    """Compiled at the first call for a width; None where that fails."""
    options = [f"-DWIDTH={width}", f"-DWARPS={WARPS}", f"-DEPSILON={EPSILON}f"]
    sizes = dict.fromkeys(("gated_norm_forward", "gated_norm_backward"), (WARPS * WARP, 0))
    found = cuda.kernels(SOURCE, options, device, sizes, "the gated norm")
    return Kernels(*found) if found else None
