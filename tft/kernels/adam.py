"""One step of Adam (Kingma & Ba 2015) for a stack of folds with separate learning rates, clipping and step counts.

Shapes: K stacked folds, P parameters of one model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tft.kernels import implementation
from tft.kernels.constants import ADAM_EPSILON

BETA_1, BETA_2 = 0.9, 0.999
CPU_CHUNK = 2**15
"""Parameters that torch updates at once on a CPU, so that the dozen passes of an update stay in the cache"""


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
    """Update, in place, weights `flat` (K, P), moments `first` and `second` (K, P), and step counts `n_updates` (K, 1).

    The gradient (K, P) is multiplied by `clip` (K, 1); learning rates are `lr` (K, 1). Folds whose `update` (K, 1) is 0
    do not change, even if their gradient is not finite.
    """
    n_updates.add_(update)
    count = n_updates.clamp_min(1.0)
    rate = lr * update / (1.0 - BETA_1**count)
    correction = torch.rsqrt(1.0 - BETA_2**count)
    coefficients = torch.cat([rate, correction, clip, (1.0 - BETA_1) * update, (1.0 - BETA_2) * update], dim=1)
    implementation.of("adam", Reference, flat).update(flat, gradient, first, second, coefficients)


class Reference:
    """Adam in torch, for any device."""

    @staticmethod
    def update(weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, coefficients: Tensor) -> None:
        """Update weights, mean and square of the gradient (K, P) in place.

        coefficients (K, 5): learning rate with the correction of the first moment, correction of the second moment,
        clipping, and the weights of the new gradient in the first and in the second moment.
        """
        rate, correction, clip, mean_weight, square_weight = coefficients.split(1, dim=1)
        size = CPU_CHUNK if weights.device.type == "cpu" else weights.shape[1]
        chunks = (tensor.split(size, dim=1) for tensor in (weights, gradient, mean, square))
        for w, g, m, v in zip(*chunks, strict=True):
            g = torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0).mul_(clip)
            m.lerp_(g, mean_weight)
            v.lerp_(g.square_(), square_weight)
            root = torch.sqrt(v).mul_(correction).add_(ADAM_EPSILON)
            w.sub_((m * rate).div_(root))
