"""The vmap rule of operations that take one fold's tensors and those of a stack (K, ...) alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def at_front(info: Any, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list[Any]:
    """The vmapped dimension of every tensor first; tensors without one are repeated, what is no tensor stays."""
    stacked: list[Any] = []
    for argument, dim in zip(arguments, in_dims, strict=True):
        if not isinstance(argument, Tensor):
            stacked.append(argument)
        elif dim is None:
            stacked.append(argument.unsqueeze(0).expand(info.batch_size, *argument.shape))
        else:
            stacked.append(argument.movedim(dim, 0))
    return stacked
