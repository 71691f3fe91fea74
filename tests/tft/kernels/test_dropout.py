"""Dropout from random bits: its rate, its scale, its gradient, and where its draws come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import vmap

from tft.kernels.dropout import apply_dropout, drop
from tft.kernels.dropout_mask import LEVELS, Dropout, Mask, factor, random_seeds, seeded_bits


def test_every_one_of_the_16_bits_is_fair_and_independent_of_its_neighbour() -> None:
    bits = seeded_bits(torch.tensor([0x1234_5678_9ABC_DEF]), range(7, 257), 400)[0].numpy()
    assert bits.dtype == np.int16
    for lane in range(4):
        values = bits.reshape(-1)[lane::4].astype(np.int64) + LEVELS // 2
        assert stats.kstest(values / LEVELS, "uniform").pvalue > 1e-3
        share = [(values >> bit & 1).mean() for bit in range(16)]
        assert np.allclose(share, 0.5, atol=5 * 0.5 / np.sqrt(len(values)))
    assert abs(np.corrcoef(bits.reshape(-1)[:-1], bits.reshape(-1)[1:])[0, 1]) < 5 / np.sqrt(bits.size)


@pytest.mark.parametrize("rate", [0.01, 0.23, 0.5, 0.9])
def test_the_rate_is_kept_and_the_mean_preserved(rate: float) -> None:
    x = torch.ones(400, 500, dtype=torch.float64)
    dropped = apply_dropout(x, Dropout.with_rate(torch.Generator().manual_seed(2), rate))
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
    _, threshold, scale = Dropout.with_rate(torch.Generator(), rate)
    expected = (every.int() >= threshold).to(dtype) * scale.to(dtype)
    assert torch.equal(factor(every, threshold, scale, dtype), expected)
    assert float(expected.double().mean()) == pytest.approx(1.0, rel=1e-6)


def test_without_dropout_nothing_is_changed() -> None:
    x = torch.randn(5, 6)
    assert apply_dropout(x, None) is x
    assert torch.equal(apply_dropout(x, Dropout.with_rate(torch.Generator(), 0.0)), x)


def plain_bits(seed: int, element: int) -> int:
    """The hash, in whole numbers of Python."""
    x = ((seed & 0xFFFFFFFF) + element) % 2**32
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15 ^ seed >> 32 & 0xFFFFFFFF) * 0x846CA68B % 2**32
    x = (x ^ x >> 16) >> 16
    return x - 2**16 if x >= 2**15 else x


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF])
@pytest.mark.parametrize("rows", [range(3), range(5, 6), range(2**30, 2**30 + 2)])
def test_bits_of_a_seed_are_the_hash_of_their_place(seed: int, rows: range) -> None:
    """Whichever rows are asked for, and beyond 2^32 elements from the start again."""
    width = 5
    expected = [[plain_bits(seed, row * width + i) for i in range(width)] for row in rows]
    both = seeded_bits(torch.tensor([seed, 99]), rows, width)
    assert both.dtype == torch.int16
    assert both[0].tolist() == expected
    assert not torch.equal(both[0], both[1])


def test_masks_of_different_seeds_have_nothing_in_common() -> None:
    """Drawn seeds, and such whose lower halves agree: correlations of 10,000 places are those of chance."""
    drawn = random_seeds(8, torch.Generator().manual_seed(5))
    drawn[4:] = drawn[4:] & -(2**32) | drawn[:4] & 0xFFFFFFFF
    kept = Mask(drawn, *Dropout.with_rate(torch.Generator(), [0.5] * 8)[1:]).factor(range(100), 100, torch.float64)
    correlation = np.corrcoef(kept.flatten(1).numpy())
    assert np.abs(correlation[np.triu_indices(8, 1)]).max() < 5 / 100


def test_folds_of_a_stack_have_rates_of_their_own() -> None:
    own = Dropout.with_rate(torch.Generator().manual_seed(0), [0.0, 0.2, 0.7])
    folds = vmap(lambda x, *levels: apply_dropout(x, Dropout(own.generator, *levels)), randomness="different")
    dropped = folds(torch.ones(3, 100, 100), own.threshold, own.scale)
    shares = (dropped == 0.0).double().mean(dim=(1, 2))
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.2, 0.7], dtype=torch.float64), rtol=0.0, atol=0.025)
    torch.testing.assert_close(dropped.amax(dim=(1, 2)), torch.tensor([1.0, 1 / 0.8, 1 / 0.3]), rtol=1e-4, atol=0.0)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_whatever_computes_drops_the_same_elements(dtype: torch.dtype) -> None:
    """Elements are dropped by the hash of their seed and index, whatever the strides; a NaN always shows."""
    draws = torch.Generator().manual_seed(6)
    mask = Mask(random_seeds(3, draws), *Dropout.with_rate(draws, [0.0, 0.3, 0.9])[1:])
    for shape in ((3, 1), (3, 7), (3, 5, 2000), (3, 40, 33, 2)):
        x = torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype)
        kept = mask.factor(range(1), x[0].numel(), dtype).view(shape)
        assert torch.equal(drop(x, mask), x * kept)
        assert torch.equal(drop(x.transpose(1, -1), mask), x.transpose(1, -1) * kept.view(x.transpose(1, -1).shape))
    assert drop(torch.full((3, 50), float("nan"), dtype=dtype), mask).isnan().all()
    assert drop(torch.ones(3, 0, dtype=dtype), mask).shape == (3, 0)


@pytest.mark.parametrize("stacked", [False, True])
def test_the_gradient_is_that_of_the_same_elements_of_a_stack_or_of_one_fold(stacked: bool) -> None:
    x = torch.randn(2, 30, 40, dtype=torch.float64, requires_grad=True)
    own = Dropout.with_rate(torch.Generator().manual_seed(0), [0.3, 0.6] if stacked else 0.3)
    if stacked:
        of_folds = vmap(lambda x, *levels: apply_dropout(x, Dropout(own.generator, *levels)), randomness="different")
        dropped = of_folds(x, own.threshold, own.scale)
    else:
        dropped = apply_dropout(x, own)
    upstream = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(dropped, x, upstream)
    torch.testing.assert_close(gradient, upstream * (dropped / x).detach(), rtol=1e-12, atol=1e-12)


def test_the_gradient_is_dropped_where_the_value_is() -> None:
    x = torch.randn(30, 40, dtype=torch.float64, requires_grad=True)
    dropped = apply_dropout(x, Dropout.with_rate(torch.Generator().manual_seed(0), 0.3))
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.allclose(gradient * x, dropped)
    assert 0.2 < float((gradient == 0).double().mean()) < 0.4


def test_the_global_generator_is_not_touched_and_folds_draw_their_own() -> None:
    before = torch.get_rng_state()
    own = Dropout.with_rate(torch.Generator().manual_seed(3), 0.5)
    ones = torch.ones(3, 50, 60)
    folds = vmap(lambda x: apply_dropout(x, own), randomness="different")(ones)
    assert not torch.equal(folds[0], folds[1])
    assert not torch.equal(folds[1], folds[2])
    assert torch.equal(torch.get_rng_state(), before)
