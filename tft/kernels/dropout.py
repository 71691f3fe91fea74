"""Dropout (Srivastava et al. 2014) as one operation.

A seed per fold determines which elements are dropped. The backward recomputes the mask from it, so that only the seed
is saved.

Shapes: K stacked folds (1 for a single fold), N elements per fold.
"""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor
from torch.autograd import Function

from tft.kernels import implementation
from tft.kernels.dropout_mask import Dropout, Mask, random_seeds
from tft.kernels.vmap_rule import prepend_fold_dimension


def apply_dropout(x: Tensor, dropout: Dropout | None) -> Tensor:
    """Set random elements of x to 0 and scale up the rest; return x unchanged if `dropout` is None, as in forecasts.

    Under vmap every fold has its own mask.
    """
    if dropout is None:
        return x
    dropped: Tensor = _Dropout.apply(x, dropout.threshold, dropout.scale, dropout.generator)[0]  # type: ignore[no-untyped-call]
    return dropped


def drop(x: Tensor, mask: Mask) -> Tensor:
    """Apply the mask of K folds to x of any shape, fold after fold: times 0 where dropped, else the scale."""
    rows = x.reshape(len(mask.seeds), x.numel() // len(mask.seeds))
    return implementation.of("dropout", Reference, rows).drop(rows, mask).view(x.shape)


class Reference:
    """Dropout in torch, for any device."""

    @staticmethod
    def drop(x: Tensor, mask: Mask) -> Tensor:
        """Apply the mask to x (K, N)."""
        return x * mask.factor(range(1), x.shape[1], x.dtype).squeeze(1)


class _Dropout(Function):
    """Dropout of one fold, with threshold and scale (), or of a stack (K, ...), with threshold and scale (K,)."""

    @staticmethod
    def forward(x: Tensor, threshold: Tensor, scale: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        seeds = random_seeds(threshold.numel(), generator)
        return drop(x, Mask(seeds, threshold.reshape(-1), scale.reshape(-1))), seeds

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, threshold, scale, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros as the gradient of the seeds
        ctx.save_for_backward(output[1], threshold, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        seeds, threshold, scale = ctx.saved_tensors
        return drop(gradients[0], Mask(seeds, threshold.reshape(-1), scale.reshape(-1))), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return _Dropout.apply(*prepend_fold_dimension(info, in_dims, arguments)), (0, 0)  # type: ignore[no-untyped-call]
