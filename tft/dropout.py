"""Dropout (Srivastava et al. 2014) from 16 random bits an element, drawn from a generator of the caller's.

The global generator would be shared by folds that are trained side by side in threads, and its Bernoulli draws cost
more than the matrix products they stand between.

Shapes: K stacked folds (only under vmap), R rows, H elements of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.autograd import Function

LEVELS = 2**16
"""A dropout rate is rounded to a multiple of 1 / LEVELS; what is kept is scaled by exactly the rate that is used."""


class Noise(NamedTuple):
    """What a network in training draws from. Its rate is a tensor, so that the folds of a stack may differ in it."""

    generator: Generator
    threshold: Tensor
    """() float64: bits below it are dropped."""
    scale: Tensor
    """() float64: what is left is multiplied by it."""

    @classmethod
    def of(cls, generator: Generator, rate: float | Sequence[float]) -> Noise:
        """For one network, or with threshold and scale (K,) for a stack of K, each with a rate of its own."""
        n_dropped = torch.tensor(rate, dtype=torch.float64, device=generator.device).mul(LEVELS).round()
        return cls(generator, n_dropped - LEVELS // 2, LEVELS / (LEVELS - n_dropped))


class Mask(NamedTuple):
    """Which elements of R rows of width H are dropped, for K folds: (K,) each. See `seeded_bits`."""

    seeds: Tensor
    """int64"""
    threshold: Tensor
    """As in Noise, and so is the scale."""
    scale: Tensor

    def factor(self, rows: range, width: int, dtype: torch.dtype) -> Tensor:
        """(K, R, H) of these rows."""
        return factor(seeded_bits(self.seeds, rows, width), self.threshold, self.scale, dtype)


def dropout(x: Tensor, noise: Noise | None) -> Tensor:
    """x with elements set to 0 and the rest scaled up; x itself without `noise`, which is how one forecasts.

    Under vmap every fold draws its own.
    """
    if noise is None:
        return x
    dropped: Tensor = _Dropout.apply(x, noise.threshold, noise.scale, noise.generator)[0]  # type: ignore[no-untyped-call]
    return dropped


def random_bits(shape: Sequence[int], generator: Generator) -> Tensor:
    """int16, every value equally likely."""
    n = math.prod(shape)
    words = torch.empty(-(-n // 4), dtype=torch.int64, device=generator.device)
    return words.random_(-(2**63), None, generator=generator).view(torch.int16)[:n].view(*shape)


def random_seeds(n: int, generator: Generator) -> Tensor:
    """(n,) int64 for `seeded_bits`."""
    return torch.empty(n, dtype=torch.int64, device=generator.device).random_(-(2**63), None, generator=generator)


def seeded_bits(seeds: Tensor, rows: range, width: int) -> Tensor:
    """seeds (K,) int64 -> the bits (K, R, H) int16 of these rows: of an element the same whenever they are asked for.

    native.cpp and select.cu do the same where the bits are used, so that they are never stored. An element is counted
    in row-major order, from the lower half of the seed on; its count is mixed by "lowbias32" (Wellons 2018, Prospecting
    for hash functions), with the seed's upper half thrown in between its two rounds.
    """
    low, high = (half[:, None, None] for half in (seeds & 0xFFFFFFFF, seeds >> 32 & 0xFFFFFFFF))
    first = torch.arange(rows.start, rows.stop, device=seeds.device)[:, None] * width
    x = low + (first + torch.arange(width, device=seeds.device)) & 0xFFFFFFFF  # 32 bits unsigned, in 64 signed
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15 ^ high) * 0x846CA68B & 0xFFFFFFFF
    x = (x ^ x >> 16) >> 16
    return ((x ^ 0x8000) - 0x8000).to(torch.int16)


def factor(bits: Tensor, threshold: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by: 0 or the scale; threshold and scale as in Noise, or (K,) for bits (K, ...).

    By arithmetic, several times faster on a CPU than by comparison.
    """
    lowest, largest = (t.to(dtype).view(*t.shape, *[1] * (bits.dim() - t.dim())) for t in (threshold - 0.5, scale))
    return bits.to(dtype).sub_(lowest).mul_(4.0).clamp_(0.0, 1.0).mul_(largest)


class _Dropout(Function):
    @staticmethod
    def forward(x: Tensor, threshold: Tensor, scale: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        kept = factor(random_bits(x.shape, generator), threshold, scale, x.dtype)
        return x * kept, kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # none of zeros for what has none
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (kept,) = ctx.saved_tensors
        return gradients[0] * kept, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *rest: Any) -> tuple[Any, Any]:
        if in_dims[0] is None:
            x = x.unsqueeze(0).expand(info.batch_size, *x.shape)
        else:
            x = x.movedim(in_dims[0], 0)
        return _Dropout.apply(x, *rest), (0, 0)  # type: ignore[no-untyped-call]
