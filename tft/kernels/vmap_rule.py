"""Helpers of the operations' vmap rules, by which a stack of K folds is one call on tensors with a leading K."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def prepend_fold_dimension(info: Any, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list[Any]:
    """Arguments with the vmapped dimension moved to the front, for operations on tensors (...) or stacks (K, ...).

    Tensors that all folds share are expanded; arguments that are no tensors stay as they are.
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
    """Arguments with the vmapped dimension in place of their first one, for operations on stacks (K, ...) only.

    Each fold's tensors are (1, ...). Tensors that all folds share are expanded; arguments that are no tensors stay as
    they are.
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
