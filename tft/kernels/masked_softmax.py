"""The softmax over usable columns only. Shapes: S columns."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_softmax(logits: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the last dimension where `usable` is 1; exactly 0, in value and gradient, where it is 0.

    logits (..., S) · usable, 0 and 1 or bool, broadcasts to their shape.
    """
    lowest = torch.finfo(logits.dtype).min
    return torch.softmax(logits.masked_fill(usable == 0, lowest), dim=-1) * usable
