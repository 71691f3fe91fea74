"""The direct term: what is linear in a window's selected variables, and in their pairs, beside LSTM and attention.

It is added to the first output. Its linear part is a sum over scales of coefficients times the mean of a variable over
the last bars of the window, so that a signal in many bars of a noisy variable is found by a few numbers; its pairs are
a factorisation machine of the target bar (Rendle 2010, eq 1). Variables enter by their selection weight relative to a
uniform one, so that the weights say what matters here too.

Shapes: N cells, V variables, L look-back bars, S scales.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

from tft.kernels.affine import affine

RATIO = 4
"""Ratio of neighbouring scales"""
PAIR_RANK = 4
"""Numbers that describe a variable in products of pairs"""
INITIAL_PAIR = 0.1
"""Initial size of these numbers, times the root of the number of variables: small beside what a pair can say"""


class DirectTerm(nn.Module):
    """A cell's part of the direct term."""

    def __init__(self, n_variables: int, seq_len: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(n_variables, len(scales(seq_len))))
        self.pairs = nn.Parameter(torch.randn(n_variables, PAIR_RANK) * INITIAL_PAIR / math.sqrt(n_variables))

    def forward(self, chosen: Tensor) -> Tensor:
        """Part of cells (N, S + 1): linear in chosen (N, V) for each scale, and <p_u, p_v> chosen_u chosen_v over all
        pairs u < v, summed by the identity of Rendle's lemma 3.1.
        """
        linear = affine(chosen, self.linear, None)  # (N, S)
        all_pairs = affine(chosen, self.pairs, None) ** 2 - affine(chosen**2, self.pairs**2, None)  # (N, PAIR_RANK)
        return torch.cat([linear, 0.5 * all_pairs.sum(dim=-1, keepdim=True)], dim=-1)


def scales(seq_len: int) -> tuple[int, ...]:
    """Bars over which variables are averaged: powers of RATIO below the look-back, and the look-back."""
    found = [1]
    while found[-1] * RATIO < seq_len:
        found.append(found[-1] * RATIO)
    return (*found, seq_len)


def averages(seq_len: int, like: Tensor) -> Tensor:
    """Weights (L, S + 1) of a window's bars, oldest first: in the mean over each scale; 1 for the target bar alone."""
    return _averages(seq_len, like.dtype, like.device)


@cache
def _averages(seq_len: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    age = torch.arange(seq_len - 1, -1, -1)[:, None]
    bars = torch.tensor([*scales(seq_len), 1], dtype=torch.float64)
    return ((age < bars) / bars).to(dtype).to(device)
