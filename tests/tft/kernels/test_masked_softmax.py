"""The softmax over what is usable: that of the usable alone, and exactly nothing elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torch.func import vmap

from tft.kernels.masked_softmax import masked_softmax

NAN = float("nan")
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1, 1), (1, 1)),
    ((50, 5), (50, 5)),
    ((131, 73), (131, 73)),
    ((3, 4, 7, 16), (3, 1, 1, 16)),
    ((3, 4, 7, 32), (3, 4, 1, 32)),
    ((3, 4, 2, 5), (1, 4, 1, 5)),
    ((2, 700), (1, 700)),
]
"""Shapes of logits, and of what is usable, which broadcasts to them."""


def inputs(logits: tuple[int, ...], usable: tuple[int, ...], n_folds: int = 3) -> list[Tensor]:
    """logits and usable (K, ...), and a gradient of the weights; a row without anything usable"""
    draws = Generator().manual_seed(logits[-1])
    given = torch.rand(n_folds, *usable, generator=draws, dtype=torch.float64) > 0.3
    given[0].view(-1, usable[-1])[0] = False
    return [
        4.0 * torch.randn(n_folds, *logits, generator=draws, dtype=torch.float64),
        given,
        torch.randn(n_folds, *logits, generator=draws, dtype=torch.float64),
    ]


def plain(logits: Tensor, usable: Tensor) -> Tensor:
    """The masked softmax by its formula, as shares of a sum."""
    shares = torch.exp(logits - logits.amax(dim=-1, keepdim=True).detach()) * usable
    return shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-300)


def values_and_gradients(given: list[Tensor], operation: object) -> list[Tensor]:
    assert callable(operation)
    logits, usable, d = given
    leaf = logits.detach().clone().requires_grad_()
    weights = vmap(operation)(leaf, usable)
    return [weights.detach(), *torch.autograd.grad(weights, leaf, d)]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_it_is_the_softmax_over_what_is_usable_and_exactly_nothing_elsewhere(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    given = inputs(*shapes)
    for usable in (given[1], given[1].double()):
        ours, theirs = (values_and_gradients([given[0], usable, given[2]], one) for one in (masked_softmax, plain))
        for found, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
            assert (found[~given[1].expand(found.shape)] == 0.0).all()


def test_on_a_gpu_rows_do_not_see_each_other_nor_what_is_not_usable(gpu: torch.device) -> None:
    """To the last bit; a NaN that is usable stays in its row."""
    logits, usable, d = (tensor.to(gpu) for tensor in inputs((131, 73), (131, 73)))
    logits, d = logits.float(), d.float()
    whole = values_and_gradients([logits, usable, d], masked_softmax)
    some = values_and_gradients([logits[:, 3:20], usable[:, 3:20], d[:, 3:20]], masked_softmax)
    assert all(torch.equal(one[:, 3:20], other) for one, other in zip(whole, some, strict=True))
    hidden = logits.masked_fill(~usable, NAN)
    for one, other in zip(whole, values_and_gradients([hidden, usable, d], masked_softmax), strict=True):
        assert torch.equal(one, other)
    usable[1, 5, 2], logits[1, 5, 2] = True, NAN
    for one, other in zip(whole, values_and_gradients([logits, usable, d], masked_softmax), strict=True):
        assert other[1, 5, 2].isnan()
        one[1, 5], other[1, 5] = 0.0, 0.0
        assert torch.equal(one, other)
    alone = torch.tensor([[0.3, 900.0, -0.2], [1.0, 2.0, 3.0], [-5.0, 0.0, 1e30]], device=gpu)
    found = masked_softmax(alone, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], device=gpu))
    torch.testing.assert_close(found[0, [0, 2]], torch.softmax(alone[0, [0, 2]], dim=0))
    assert found[0, 1] == 0.0 and (found[1] == 0.0).all() and found[2].tolist() == [0.0, 0.0, 1.0]
