"""The softmax over usable columns only, as one operation. Shapes: S columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tft.kernels import implementation
from tft.kernels.vmap_rule import prepend_fold_dimension


def masked_softmax(logits: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the last dimension where `usable` is 1; exactly 0, in value and gradient, where it is 0.

    logits (..., S) · usable, 0 and 1 or bool, has as many dimensions as logits and broadcasts to their shape.
    """
    weights: Tensor = _MaskedSoftmax.apply(logits, usable)  # type: ignore[no-untyped-call]
    return weights


class Reference:
    """The masked softmax in torch, for any device."""

    @staticmethod
    def forward(logits: Tensor, usable: Tensor) -> Tensor:
        """Weights (..., S) from logits (..., S) and usable, which broadcasts to their shape."""
        lowest = torch.finfo(logits.dtype).min
        return torch.softmax(logits.masked_fill(usable == 0, lowest), dim=-1) * usable

    @staticmethod
    def backward(d: Tensor, weights: Tensor, usable: Tensor) -> Tensor:
        """Gradient of the logits, from d (..., S), the forward's weights (..., S) and usable."""
        d_logits: Tensor = torch._softmax_backward_data(d * usable, weights, -1, weights.dtype)
        return d_logits.masked_fill(usable == 0, 0.0)


class _MaskedSoftmax(Function):
    """Masked softmax of the tensors of one fold, or of a stack (K, ...)."""

    @staticmethod
    def forward(logits: Tensor, usable: Tensor) -> Tensor:
        return implementation.of("masked_softmax", Reference, logits, usable).forward(logits, usable)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        weights, usable = ctx.saved_tensors
        (d,) = gradients
        return implementation.of("masked_softmax", Reference, weights, usable).backward(d, weights, usable), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[Tensor, int]:
        return _MaskedSoftmax.apply(*prepend_fold_dimension(info, in_dims, arguments)), 0  # type: ignore[no-untyped-call]
