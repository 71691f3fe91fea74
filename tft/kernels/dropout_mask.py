"""Which elements dropout drops: 16 random bits of each are compared with a threshold.

The bits follow from a seed of each fold, which a generator of the caller's gives. The global generator would be shared
by folds that are trained side by side in threads, and its Bernoulli draws cost more than the matrix products they stand
between.

Shapes: K stacked folds, R rows, H elements of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

LEVELS = 2**16
"""A dropout rate is rounded to a multiple of 1 / LEVELS; what is kept is scaled by exactly the rate that is used."""


class Dropout(NamedTuple):
    """The dropout of a network in training. Its rate lies in tensors, so that the folds of a stack may differ in it."""

    generator: Generator
    """Seeds are drawn from it."""
    threshold: Tensor
    """() float64: an element whose bits are below it is dropped."""
    scale: Tensor
    """() float64: an element that is kept is multiplied by it."""

    @classmethod
    def with_rate(cls, generator: Generator, rate: float | Sequence[float]) -> Dropout:
        """For one network, or with threshold and scale (K,) for a stack of K, each with a rate of its own."""
        n_dropped = torch.tensor(rate, dtype=torch.float64, device=generator.device).mul(LEVELS).round()
        return cls(generator, n_dropped - LEVELS // 2, LEVELS / (LEVELS - n_dropped))


class Mask(NamedTuple):
    """Which elements of R rows of width H are dropped, for K folds: (K,) each. See `seeded_bits`."""

    seeds: Tensor
    """int64"""
    threshold: Tensor
    """As in Dropout, and so is the scale."""
    scale: Tensor

    def factor(self, rows: range, width: int, dtype: torch.dtype) -> Tensor:
        """What these rows are multiplied by, (K, R, H)."""
        return factor(seeded_bits(self.seeds, rows, width), self.threshold, self.scale, dtype)


def random_seeds(n: int, generator: Generator) -> Tensor:
    """(n,) int64 for `seeded_bits`."""
    return torch.empty(n, dtype=torch.int64, device=generator.device).random_(-(2**63), None, generator=generator)


def seeded_bits(seeds: Tensor, rows: range, width: int) -> Tensor:
    """seeds (K,) int64 -> the bits (K, R, H) int16 of these rows: of an element the same whenever they are asked for.

    cpu/dropout.h, cuda/select.cu and cuda/dropout.cu do the same where the bits are used, so that they are never
    stored. An element is counted in row-major order, from the lower half of the seed on; its count is mixed by
    "lowbias32" (Wellons 2018, Prospecting for hash functions), with the seed's upper half thrown in between its two
    rounds.
    """
    low, high = (half[:, None, None] for half in (seeds & 0xFFFFFFFF, seeds >> 32 & 0xFFFFFFFF))
    first = torch.arange(rows.start, rows.stop, device=seeds.device)[:, None] * width
    x = low + (first + torch.arange(width, device=seeds.device)) & 0xFFFFFFFF  # 32 bits unsigned, in 64 signed
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15 ^ high) * 0x846CA68B & 0xFFFFFFFF
    x = (x ^ x >> 16) >> 16
    return ((x ^ 0x8000) - 0x8000).to(torch.int16)


def factor(bits: Tensor, threshold: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by: 0 or the scale; threshold and scale as in Dropout, or (K,) for bits (K, ...).

    By arithmetic, several times faster on a CPU than by comparison.
    """
    lowest, largest = (t.to(dtype).view(*t.shape, *[1] * (bits.dim() - t.dim())) for t in (threshold - 0.5, scale))
    return bits.to(dtype).sub_(lowest).mul_(4.0).clamp_(0.0, 1.0).mul_(largest)
