"""One step of Adam (Kingma & Ba 2015) for a stack of folds, with decoupled weight decay (Loshchilov & Hutter 2019), and
the average of the weights along training.

Folds have separate learning rates, clipping and step counts.

Shapes: K stacked folds, P parameters of one model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tft.kernels import implementation
from tft.kernels.constants import ADAM_EPSILON

BETA_1, BETA_2 = 0.9, 0.999
LARGEST_AVERAGING = 0.99
"""Weight of the averaged weights at a step once many have been made: about a hundred steps are remembered"""
CPU_CHUNK = 2**15
"""Parameters that torch updates at once on a CPU, so that the dozen passes of an update stay in the cache"""


def adam(
    flat: Tensor,
    averaged: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    n_updates: Tensor,
    clip: Tensor,
    update: Tensor,
    lr: Tensor,
    decay: Tensor | None = None,
) -> None:
    """Update, in place, weights `flat` (K, P), their average along training `averaged` (K, P), moments `first` and
    `second` (K, P), and step counts `n_updates` (K, 1).

    The gradient (K, P) is multiplied by `clip` (K, 1); learning rates are `lr` (K, 1). Each weight first loses the
    share `decay` (P,) of itself, in units of the learning rate; None is no decay. The average is of steps 0 .. n, with
    the weight min((1 + n) / (10 + n), LARGEST_AVERAGING) on what it was. Folds whose `update` (K, 1) is 0 do not
    change, even if their gradient is not finite.
    """
    n_updates.add_(update)
    count = n_updates.clamp_min(1.0)
    rate = lr * update / (1.0 - BETA_1**count)
    correction = torch.rsqrt(1.0 - BETA_2**count)
    moments = (1.0 - BETA_1) * update, (1.0 - BETA_2) * update
    keep = ((1.0 + n_updates) / (10.0 + n_updates)).clamp_max(LARGEST_AVERAGING)
    coefficients = torch.cat([rate, correction, clip, *moments, lr * update, (1.0 - keep) * update], dim=1)
    chosen = implementation.of("adam", Reference, flat)
    chosen.update(flat, averaged, gradient, first, second, decay, coefficients)


class Reference:
    """The step in torch, for any device."""

    @staticmethod
    def update(
        weights: Tensor,
        averaged: Tensor,
        gradient: Tensor,
        mean: Tensor,
        square: Tensor,
        decay: Tensor | None,
        coefficients: Tensor,
    ) -> None:
        """Update weights, their average, and mean and square of the gradient (K, P) in place; decay (P,) or None.

        coefficients (K, 7): learning rate with the correction of the first moment, correction of the second moment,
        clipping, the weights of the new gradient in the first and in the second moment, learning rate alone, and the
        weight of the new weights in their average.
        """
        rate, correction, clip, mean_weight, square_weight, lr, new = coefficients.split(1, dim=1)
        size = CPU_CHUNK if weights.device.type == "cpu" else weights.shape[1]
        chunks = [tensor.split(size, dim=1) for tensor in (weights, averaged, gradient, mean, square)]
        decays = [None] * len(chunks[0]) if decay is None else decay.split(size)
        for w, a, g, m, v, share in zip(*chunks, decays, strict=True):
            g = torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0).mul_(clip)
            m.lerp_(g, mean_weight)
            v.lerp_(g.square_(), square_weight)
            root = torch.sqrt(v).mul_(correction).add_(ADAM_EPSILON)
            if share is not None:
                w.mul_(1.0 - lr * share)
            w.sub_((m * rate).div_(root))
            a.lerp_(w, new)
