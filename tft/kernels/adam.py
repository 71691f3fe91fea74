"""One step of Adam (Kingma & Ba 2015) for a stack of folds, each with its own learning rate, clipping and count.

Shapes: K stacked folds, P parameters of one model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tft.kernels import implementation
from tft.kernels.constants import ADAM_EPSILON

BETA_1, BETA_2 = 0.9, 0.999
CPU_CHUNK = 2**15
"""Parameters that torch updates at once on a CPU, so that the update's dozen passes stay in the cache."""


def adam(
    flat: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    n_updates: Tensor,
    clip: Tensor,
    update: Tensor,
    lr: Tensor,
) -> None:
    """Update weights `flat` and moments (K, P) in place, at `lr` (K, 1) on `clip` (K, 1) times the gradient, and count
    in `n_updates` (K, 1): for the folds whose `update` (K, 1) is 1.

    The others keep weights, moments and count, whatever their gradient holds.
    """
    n_updates.add_(update)
    count = n_updates.clamp_min(1.0)
    rate = lr * update / (1.0 - BETA_1**count)
    correction = torch.rsqrt(1.0 - BETA_2**count)
    of_folds = torch.cat([rate, correction, clip, (1.0 - BETA_1) * update, (1.0 - BETA_2) * update], dim=1)
    implementation.of("adam", Reference, flat).update(flat, gradient, first, second, of_folds)


class Reference:
    """In torch, for any device."""

    @staticmethod
    def update(weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, of_folds: Tensor) -> None:
        """One update of weights and moments (K, P) in place.

        of_folds (K, 5): rate, correction of the second moment, clipping, and the weights of the gradient in the first
        and in the second moment.
        """
        rate, correction, clip, of_slope, of_square = of_folds.split(1, dim=1)
        size = CPU_CHUNK if weights.device.type == "cpu" else weights.shape[1]
        chunks = (tensor.split(size, dim=1) for tensor in (weights, gradient, mean, square))
        for own_weights, slope, own_mean, own_square in zip(*chunks, strict=True):
            slope = torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0).mul_(clip)
            own_mean.lerp_(slope, of_slope)
            own_square.lerp_(slope.square_(), of_square)
            root = torch.sqrt(own_square).mul_(correction).add_(ADAM_EPSILON)
            own_weights.sub_((own_mean * rate).div_(root))
