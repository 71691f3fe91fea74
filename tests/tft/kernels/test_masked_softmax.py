"""The softmax over what is usable: that of the usable alone, and exactly nothing elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torch.func import vmap

from tft.kernels import masked_softmax as module
from tft.kernels.masked_softmax import masked_softmax, repeated

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ONE = torch.zeros(1, 1, device=DEVICE)
needs_gpu = pytest.mark.skipif(not module.takes(ONE, ONE), reason="no GPU that the kernels run on")
NAN = float("nan")

# shapes of logits and of what is usable, without the folds
SHAPES = [
    ((1, 1), (1, 1)),
    ((50, 5), (50, 5)),
    ((131, 73), (131, 73)),
    ((3, 4, 7, 16), (3, 1, 1, 16)),
    ((3, 4, 7, 32), (3, 4, 1, 32)),
    ((3, 4, 2, 5), (1, 4, 1, 5)),
    ((2, 700), (1, 700)),
]


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
    """What is meant, as shares of a sum."""
    shares = torch.exp(logits - logits.amax(dim=-1, keepdim=True).detach()) * usable
    return shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-300)


def values_and_gradients(given: list[Tensor], operation: object) -> list[Tensor]:
    assert callable(operation)
    logits, usable, d = given
    leaf = logits.detach().clone().requires_grad_()
    weights = vmap(operation)(leaf, usable)
    return [weights.detach(), *torch.autograd.grad(weights, leaf, d)]


def error(found: Tensor, truth: Tensor) -> float:
    """Largest deviation, as a share of the largest value."""
    return float((found.double().cpu() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


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


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_each_usable_row_is_meant_for_several_in_turn(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    logits, usable, _ = inputs(*shapes)
    rows = repeated(usable, logits.shape).reshape(-1, usable.shape[-1])
    in_turn = rows.repeat_interleave(logits.shape[:-1].numel() // len(rows), dim=0)
    assert torch.equal(in_turn.view(logits.shape), usable.expand(logits.shape))


def test_only_float32_up_to_a_width_is_taken() -> None:
    assert not module.takes(torch.zeros(1, 8), torch.zeros(1, 8))
    double, wide, none = ONE.double(), ONE.expand(1, module.MAX_WIDTH + 1), ONE[:0]
    assert not any(module.takes(one, one) for one in (double, wide, none))


@needs_gpu
@pytest.mark.parametrize("shapes", [*SHAPES, ((2288, 73), (2288, 73)), ((16, 4, 63, 16), (16, 1, 1, 16))], ids=str)
def test_the_gpu_is_as_close_to_the_truth_as_torch(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    given = inputs(*shapes)
    truth = values_and_gradients(given, plain)
    logits, usable, d = (tensor.to(DEVICE) for tensor in given)
    theirs = values_and_gradients([given[0].float(), given[1], given[2].float()], masked_softmax)
    for of_type in (usable, usable.float()):
        ours = values_and_gradients([logits.float(), of_type, d.float()], masked_softmax)
        for found, other, true in zip(ours, theirs, truth, strict=True):
            assert found.shape == true.shape and found.dtype == torch.float32
            assert error(found, true) <= max(8.0 * error(other, true), 2e-6)
            assert (found[~usable.expand(found.shape)] == 0.0).all()


@needs_gpu
def test_on_the_gpu_rows_do_not_see_each_other_nor_what_is_not_usable() -> None:
    """To the last bit; a NaN that is usable stays in its row."""
    logits, usable, d = (tensor.to(DEVICE) for tensor in inputs((131, 73), (131, 73)))
    logits, d = logits.float(), d.float()
    whole = values_and_gradients([logits, usable, d], masked_softmax)
    some = values_and_gradients([logits[:, 3:20], usable[:, 3:20], d[:, 3:20]], masked_softmax)
    assert all(torch.equal(one[:, 3:20], other) for one, other in zip(whole, some, strict=True))
    hidden = logits.masked_fill(~usable, NAN)
    for one, other in zip(whole, values_and_gradients([hidden, usable, d], masked_softmax), strict=True):
        assert torch.equal(one, other)
    usable[1, 5, 2], logits[1, 5, 2] = True, NAN
    for one, other in zip(whole, values_and_gradients([logits, usable, d], masked_softmax), strict=True):
        assert other[1, 5, 2].isnan() and (other[1, 5][~usable[1, 5]] == 0.0).all()
        one[1, 5], other[1, 5] = 0.0, 0.0
        assert torch.equal(one, other)
    alone = torch.tensor([[0.3, 900.0, -0.2], [1.0, 2.0, 3.0], [-5.0, 0.0, 1e30]], device=DEVICE)
    found = masked_softmax(alone, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], device=DEVICE))
    torch.testing.assert_close(found[0, [0, 2]], torch.softmax(alone[0, [0, 2]], dim=0))
    assert found[0, 1] == 0.0 and (found[1] == 0.0).all() and found[2].tolist() == [0.0, 0.0, 1.0]


@needs_gpu
def test_both_launches_are_captured_in_a_graph() -> None:
    logits, usable, d = (tensor.to(DEVICE) for tensor in inputs((3, 4, 7, 16), (3, 1, 1, 16)))
    leaf, d = logits.float().requires_grad_(), d.float()

    def step() -> list[Tensor]:
        weights = vmap(masked_softmax)(leaf, usable)
        return [weights.detach(), *torch.autograd.grad(weights, leaf, d)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    d.mul_(0.5)
    graph.replay()
    for replayed, called in zip(captured, step(), strict=True):
        assert torch.equal(replayed, called)
