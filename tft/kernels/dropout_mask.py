"""Dropout masks: an element is dropped if its 16 random bits are below a threshold.

The bits are a hash of a seed per fold, drawn from a generator of the caller's. torch's global generator would be shared
by folds that are trained in parallel threads, and its Bernoulli draws take longer than the matrix products around them.

Shapes: K stacked folds, R rows, H elements of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

LEVELS = 2**16
"""A dropout rate is rounded to a multiple of 1 / LEVELS; the scale of the other elements matches the rounded rate"""


class Dropout(NamedTuple):
    """Dropout of a network in training. The rate is held in tensors, so that it may differ between stacked folds."""

    generator: Generator
    """Source of the seeds"""
    threshold: Tensor
    """() float64; an element is dropped if its bits, as int16, are below it"""
    scale: Tensor
    """() float64 factor of the elements that are not dropped"""

    @classmethod
    def with_rate(cls, generator: Generator, rate: float | Sequence[float]) -> Dropout:
        """Dropout at one rate in [0, 1), or at K rates, with threshold and scale (K,), for a stack of K folds."""
        n_dropped = torch.tensor(rate, dtype=torch.float64, device=generator.device).mul(LEVELS).round()
        return cls(generator, n_dropped - LEVELS // 2, LEVELS / (LEVELS - n_dropped))


class Mask(NamedTuple):
    """Which elements of rows of width H are dropped, for K folds; the fields are (K,). See `seeded_bits`."""

    seeds: Tensor
    """(K,) int64"""
    threshold: Tensor
    """(K,) as in Dropout"""
    scale: Tensor
    """(K,) as in Dropout"""

    def factor(self, rows: range, width: int, dtype: torch.dtype) -> Tensor:
        """Factors (K, R, H) of dropout, 0 or the scale, for the elements of these R rows."""
        return factor(seeded_bits(self.seeds, rows, width), self.threshold, self.scale, dtype)


def random_seeds(n: int, generator: Generator) -> Tensor:
    """Draw seeds (n,) int64 for `seeded_bits`."""
    return torch.empty(n, dtype=torch.int64, device=generator.device).random_(-(2**63), None, generator=generator)


def seeded_bits(seeds: Tensor, rows: range, width: int) -> Tensor:
    """Random bits (K, R, H) int16 of the elements of R rows, a function of the seeds (K,) int64 and the element only.

    cpu/dropout.h, cuda/select.cu and cuda/dropout.cu compute the same bits where they are used, without storing them.
    An element's row-major index plus the lower half of the seed is hashed by "lowbias32" (Wellons 2018, Prospecting for
    hash functions), with the upper half of the seed mixed in between its two rounds.
    """
    low, high = (half[:, None, None] for half in (seeds & 0xFFFFFFFF, seeds >> 32 & 0xFFFFFFFF))
    first = torch.arange(rows.start, rows.stop, device=seeds.device)[:, None] * width
    x = low + (first + torch.arange(width, device=seeds.device)) & 0xFFFFFFFF  # 32 bits unsigned, in 64 signed
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15 ^ high) * 0x846CA68B & 0xFFFFFFFF
    x = (x ^ x >> 16) >> 16
    return ((x ^ 0x8000) - 0x8000).to(torch.int16)


def factor(bits: Tensor, threshold: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Factor of dropout for each element of bits: 0 or the scale. For bits (K, ...), threshold and scale may be (K,).

    Computed by arithmetic, which is several times faster on a CPU than a comparison.
    """
    lowest, largest = (t.to(dtype).view(*t.shape, *[1] * (bits.dim() - t.dim())) for t in (threshold - 0.5, scale))
    return bits.to(dtype).sub_(lowest).mul_(4.0).clamp_(0.0, 1.0).mul_(largest)
