"""The affine map of many rows with few columns, with a backward that is fast on a GPU.

The gradient of the weight is a sum over all rows. As one matrix product it would keep only a few of a GPU's hundred
multiprocessors busy, so that the rows are divided into parts, whose products are added afterwards.

Shapes: K stacked folds, R rows, I columns in, O columns out, S parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tft.kernels.vmap_rule import replace_fold_dimension

PART_ROWS = 32
"""Fewest rows of a part"""
MAX_PARTS = 32
"""Most parts that the rows are divided into"""


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute x (..., I) @ weight (I, O) + bias (O) -> (..., O)."""
    if x.device.type == "cpu":
        return x @ weight if bias is None else x @ weight + bias
    rows = x.reshape(1, -1, x.shape[-1])
    stacked_bias = None if bias is None else bias.unsqueeze(0)
    y: Tensor = _Affine.apply(rows, weight.unsqueeze(0), stacked_bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], y.shape[-1])


def sum_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """Product left^T @ right (K, I, O) of left (K, R, I) and right (K, R, O), a sum over rows."""
    n_folds, n_rows, _ = left.shape
    n_parts = max(n for n in range(1, MAX_PARTS + 1) if n_rows % n == 0 and (n == 1 or n_rows >= n * PART_ROWS))
    parts = (tensor.reshape(n_folds, n_parts, n_rows // n_parts, -1) for tensor in (left, right))
    return torch.matmul(next(parts).transpose(-1, -2), next(parts)).sum(dim=1)


class _Affine(Function):
    """Affine map of stacks: x (K, R, I), weight (K, I, O), bias (K, O)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, bias = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        (d,) = gradients
        d_x = torch.bmm(d, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return d_x, sum_over_rows(x, d), d.sum(dim=1) if ctx.has_bias else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor | None) -> tuple[Tensor, int]:
        return _Affine.apply(*replace_fold_dimension(info, in_dims, arguments)).unsqueeze(1), 0  # type: ignore[no-untyped-call]
