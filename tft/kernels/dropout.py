"""Dropout (Srivastava et al. 2014) as one operation.

A fold's seed says which elements are dropped, so that the backward drops them again and nothing of their number is
kept.

Shapes: K stacked folds (1 where there is no stack), N elements of each.
"""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor
from torch.autograd import Function

from tft.kernels import implementation
from tft.kernels.dropout_mask import Dropout, Mask, random_seeds
from tft.kernels.vmap_rule import prepend_fold_dimension


def apply_dropout(x: Tensor, dropout: Dropout | None) -> Tensor:
    """x with elements set to 0 and the rest scaled up; x itself without `dropout`, which is how one forecasts.

    Under vmap every fold draws its own.
    """
    if dropout is None:
        return x
    dropped: Tensor = _Dropout.apply(x, dropout.threshold, dropout.scale, dropout.generator)[0]  # type: ignore[no-untyped-call]
    return dropped


def drop(x: Tensor, mask: Mask) -> Tensor:
    """x of K folds, whatever its shape, times 0 where the mask drops an element and its scale elsewhere."""
    rows = x.reshape(len(mask.seeds), x.numel() // len(mask.seeds))
    return implementation.of("dropout", Reference, rows).drop(rows, mask).view(x.shape)


class Reference:
    """In torch, for any device."""

    @staticmethod
    def drop(x: Tensor, mask: Mask) -> Tensor:
        """x (K, N) without the elements that `mask` drops."""
        return x * mask.factor(range(1), x.shape[1], x.dtype).squeeze(1)


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
        return _Dropout.apply(*prepend_fold_dimension(info, in_dims, arguments)), (0, 0)  # type: ignore[no-untyped-call]
