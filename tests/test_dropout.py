"""Dropout from random bits: its rate, its scale, its gradient, and where its draws come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import vmap

from tft.dropout import LEVELS, dropout, factor, random_bits, threshold_and_scale


def test_every_one_of_the_16_bits_is_fair_and_independent_of_its_neighbour() -> None:
    bits = random_bits((250, 400), torch.Generator().manual_seed(1)).numpy()
    assert bits.dtype == np.int16
    for lane in range(4):  # four values come from one 64-bit draw, whose sign bit must be random too
        values = bits.reshape(-1)[lane::4].astype(np.int64) + LEVELS // 2
        assert stats.kstest(values / LEVELS, "uniform").pvalue > 1e-3
        share = [(values >> bit & 1).mean() for bit in range(16)]
        assert np.allclose(share, 0.5, atol=5 * 0.5 / np.sqrt(len(values)))
    assert abs(np.corrcoef(bits.reshape(-1)[:-1], bits.reshape(-1)[1:])[0, 1]) < 5 / np.sqrt(bits.size)


@pytest.mark.parametrize("rate", [0.01, 0.23, 0.5, 0.9])
def test_the_rate_is_kept_and_the_mean_preserved(rate: float) -> None:
    x = torch.ones(400, 500, dtype=torch.float64)
    dropped = dropout(x, rate, torch.Generator().manual_seed(2))
    error = np.sqrt(rate * (1 - rate) / x.numel())
    assert float((dropped == 0).double().mean()) == pytest.approx(rate, abs=5 * error + 1 / LEVELS)
    kept = dropped[dropped != 0]
    assert (kept == kept[0]).all()
    assert float(kept[0]) == pytest.approx(1 / (1 - rate), rel=2 / LEVELS / (1 - rate))
    assert float(dropped.mean()) == pytest.approx(1.0, abs=5 * error / (1 - rate))


@pytest.mark.parametrize("rate", [0.0, 1 / LEVELS, 0.23, 1 - 1 / LEVELS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_factor_is_a_comparison_with_the_threshold(rate: float, dtype: torch.dtype) -> None:
    every = torch.arange(-LEVELS // 2, LEVELS // 2, dtype=torch.int32).to(torch.int16)
    threshold, scale = threshold_and_scale(rate)
    expected = (every.int() >= threshold).to(dtype) * scale
    assert torch.equal(factor(every, rate, dtype), expected)
    assert float(expected.double().mean()) == pytest.approx(1.0, rel=1e-6)


def test_without_a_generator_or_a_rate_nothing_is_changed() -> None:
    x = torch.randn(5, 6)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, torch.Generator()) is x


def test_the_gradient_is_dropped_where_the_value_is() -> None:
    x = torch.randn(30, 40, dtype=torch.float64, requires_grad=True)
    dropped = dropout(x, 0.3, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.allclose(gradient * x, dropped)
    assert 0.2 < float((gradient == 0).double().mean()) < 0.4


def test_the_global_generator_is_not_touched_and_folds_draw_their_own() -> None:
    before = torch.get_rng_state()
    noise = torch.Generator().manual_seed(3)
    ones = torch.ones(3, 50, 60)
    folds = vmap(lambda x: dropout(x, 0.5, noise), randomness="different")(ones)
    assert not torch.equal(folds[0], folds[1])
    assert not torch.equal(folds[1], folds[2])
    assert torch.equal(torch.get_rng_state(), before)
