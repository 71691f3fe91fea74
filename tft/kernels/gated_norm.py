"""The gated skip connection with layer norm as one operation (Lim et al. 2021, end of eq 5).

LayerNorm(skip + value * sigmoid(gate)), after Ba et al. 2016 (layer norm) and Dauphin et al. 2017 (gated linear unit).
The backward recomputes the normalised rows, so that only the operands are saved.

Shapes: K stacked folds (1 for a single fold), R rows, D columns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from tft.kernels import implementation
from tft.kernels.constants import NORM_EPSILON
from tft.kernels.vmap_rule import prepend_fold_dimension


def gated_norm(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute LayerNorm(skip + value * sigmoid(gate)) over the last dimension -> (..., D).

    skip (..., D), or a shape that broadcasts to it · gated (..., 2D) value | gate · weight, bias (D,) of the norm.
    """
    shape = (*gated.shape[:-1], skip.shape[-1])
    normed: Tensor = _GatedNorm.apply(skip.expand(shape), gated, weight, bias)  # type: ignore[no-untyped-call]
    return normed


class Reference:
    """The gated norm in torch, for any device."""

    @staticmethod
    def forward(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Gated norm (K, R, D) of skip (K, R, D), gated (K, R, 2D), weight and bias (K, D) or, if K = 1, (D,)."""
        return torch.addcmul(bias.unsqueeze(-2), _normalised(skip, gated)[0], weight.unsqueeze(-2))

    @staticmethod
    def backward(d: Tensor, skip: Tensor, gated: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of skip, gated, weight and bias, from d (K, R, D) and the arguments of the forward."""
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
    """Normalised rows (K, R, D) before weight and bias, and inverse standard deviations (K, R, 1)."""
    rows = skip + F.glu(gated, dim=-1)
    normed, _, inverse_std = torch.native_layer_norm(rows, rows.shape[-1:], None, None, NORM_EPSILON)
    return normed, inverse_std


class _GatedNorm(Function):
    """Gated norm of the tensors of one fold, or of a stack (K, ...)."""

    @staticmethod
    def forward(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shape = skip.shape
        skip, gated = _rows_of_folds(weight, skip, gated)
        return implementation.of("gated_norm", Reference, skip).forward(skip, gated, weight, bias).view(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        skip, gated, weight, _ = inputs
        ctx.save_for_backward(skip, gated, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        skip, gated, weight = ctx.saved_tensors
        shapes = skip.shape, gated.shape, weight.shape, weight.shape
        d, skip, gated = _rows_of_folds(weight, *gradients, skip, gated)
        gradients_of_rows = implementation.of("gated_norm", Reference, skip).backward(d, skip, gated, weight)
        d_skip, d_gated, d_weight, d_bias = (
            each.view(shape) for each, shape in zip(gradients_of_rows, shapes, strict=True)
        )
        return d_skip, d_gated, d_weight, d_bias

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[Tensor, int]:
        return _GatedNorm.apply(*prepend_fold_dimension(info, in_dims, arguments)), 0  # type: ignore[no-untyped-call]


def _rows_of_folds(weight: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Reshape tensors (..., D) to (K, R, D), with K = 1 if weight is (D,) and not (K, D)."""
    shape = weight.shape[:-1].numel(), tensors[0].shape[:-1].numel() // weight.shape[:-1].numel()
    return [tensor.reshape(*shape, tensor.shape[-1]) for tensor in tensors]
