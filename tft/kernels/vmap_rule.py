"""vmap rules of the operations: a stack of K folds is one call on tensors with a leading K, not K calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def prepend_fold_dimension(info: Any, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list[Any]:
    """Arguments with the vmapped dimension in front, for an operation that takes a fold's (...) and a stack's (K, ...).

    A tensor that all folds share is repeated; what is not a tensor stays.
    """
    stacked: list[Any] = []
    for argument, dim in zip(arguments, in_dims, strict=True):
        if not isinstance(argument, Tensor):
            stacked.append(argument)
        elif dim is None:
            stacked.append(argument.unsqueeze(0).expand(info.batch_size, *argument.shape))
        else:
            stacked.append(argument.movedim(dim, 0))
    return stacked


def replace_fold_dimension(info: Any, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list[Any]:
    """Arguments with the vmapped dimension in place of their own first one, for an operation on (K, ...) alone.

    Each fold's tensors are (1, ...). A tensor that all folds share is repeated; what is not a tensor stays.
    """
    stacked: list[Any] = []
    for argument, dim in zip(arguments, in_dims, strict=True):
        if not isinstance(argument, Tensor):
            stacked.append(argument)
        elif dim is None:
            stacked.append(argument.expand(info.batch_size, *argument.shape[1:]))
        else:
            stacked.append(argument.movedim(dim, 0).squeeze(1))
    return stacked
