"""The CUDA kernels of variable selection on a GPU against the selection in torch, with float64 as the truth."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from tft.kernels import selection
from tft.kernels.cuda import select as select_gpu
from tft.kernels.noise import Mask, Noise, random_seeds
from tft.kernels.selection import VariableGRNs

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_gpu = pytest.mark.skipif(not select_gpu.available(DEVICE), reason="no GPU that the kernels run on")

# n_folds, n_variables, n_cells, width: one block of cells and several, whole or not; widths padded to 16, 32 and 64.
SHAPES = [(1, 1, 1, 5), (2, 3, 70, 8), (1, 5, 64, 16), (3, 2, 130, 20), (2, 7, 150, 48), (1, 2, 65, 64)]
RATES = [0.0, 0.3]


def inputs(n_folds: int, n_variables: int, n_cells: int, width: int, rate: float) -> tuple[list[Tensor], Mask | None]:
    """d_selected (K, N, H), x and weights (K, V, N), the parameters of VariableGRNs, float32; and what is dropped."""
    draws = Generator().manual_seed(width + n_cells)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=draws) * scale

    k, v, n, h = n_folds, n_variables, n_cells, width
    weights = torch.softmax(normal(k, v, n), dim=1) * (torch.rand(k, v, n, generator=draws) > 0.2)
    matrices = [normal(k, v, h, h, scale=h**-0.5), normal(k, v, h), normal(k, v, h, 2 * h, scale=h**-0.5)]
    grns = [normal(k, v, h), normal(k, v, h), *matrices, normal(k, v, 2 * h), *(normal(k, v, h) for _ in range(4))]
    levels = Noise.of(draws, [rate / (1 + fold) for fold in range(k)])[1:]
    mask = Mask(random_seeds(k, draws), *levels) if rate else None
    return [normal(k, n, h), normal(k, v, n), weights, *grns], mask


def by_torch(given: list[Tensor], mask: Mask | None) -> list[Tensor]:
    """What is selected, and the gradients of weights and parameters, on the CPU without native kernels."""
    d_selected, x, weights, *parameters = given
    grns = VariableGRNs(*parameters)
    selected = selection._select_forward(x, weights, grns, mask)
    d_weights, d_grns = selection._select_backward(d_selected, x, weights, grns, mask)
    return [selected, d_weights, *d_grns]


def by_kernels(given: list[Tensor], mask: Mask | None) -> list[Tensor]:
    """The same from the kernels."""
    d_selected, x, weights, *grns = (tensor.to(DEVICE) for tensor in given)
    dropped = on_device(mask)
    selected = select_gpu.select_forward(x, weights, grns, dropped)
    d_weights, d_grns = select_gpu.select_backward(d_selected, x, weights, grns, dropped)
    return [tensor.cpu() for tensor in (selected, d_weights, *d_grns)]


def on_device(mask: Mask | None) -> Mask | None:
    return None if mask is None else Mask(*(tensor.to(DEVICE) for tensor in mask))


def error(found: Tensor, truth: Tensor) -> float:
    """Largest deviation, as a share of the largest value."""
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


@needs_gpu
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_as_close_to_the_truth_as_those_of_torch(
    shape: tuple[int, int, int, int], rate: float
) -> None:
    given, mask = inputs(*shape, rate)
    truth = by_torch([tensor.double() for tensor in given], mask)
    for ours, theirs, true in zip(by_kernels(given, mask), by_torch(given, mask), truth, strict=True):
        assert ours.shape == true.shape
        assert error(ours, true) <= max(8.0 * error(theirs, true), 2e-6)


@needs_gpu
@pytest.mark.parametrize("rate", RATES)
def test_two_calls_agree_to_the_last_bit_and_folds_do_not_see_each_other(rate: float) -> None:
    given, mask = inputs(3, 4, 90, 20, rate)
    first, again = by_kernels(given, mask), by_kernels(given, mask)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    changed = [tensor.clone() for tensor in given]
    for tensor in changed:
        tensor[0] += 1.0
    for one, other in zip(first, by_kernels(changed, mask), strict=True):
        assert torch.equal(one[1:], other[1:])


@needs_gpu
def test_a_sum_that_is_cut_into_parts_is_the_same_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many programs there are, which is chosen from the shapes alone."""
    given, mask = inputs(1, 5, 200, 16, 0.3)
    truth = by_torch([tensor.double() for tensor in given], mask)
    for n_programs in (1, 7, 10_000):
        monkeypatch.setattr(select_gpu, "N_PROGRAMS", n_programs)
        for ours, true in zip(by_kernels(given, mask), truth, strict=True):
            assert error(ours, true) <= 3e-6


@needs_gpu
def test_both_launches_are_captured_in_a_graph() -> None:
    (d_selected, x, weights, *grns), mask = inputs(2, 5, 150, 48, 0.3)
    d_selected, x, weights = (tensor.to(DEVICE) for tensor in (d_selected, x, weights))
    grns, mask = [tensor.to(DEVICE) for tensor in grns], on_device(mask)

    def step() -> list[Tensor]:
        selected = select_gpu.select_forward(x, weights, grns, mask)
        d_weights, d_grns = select_gpu.select_backward(d_selected, x, weights, grns, mask)
        return [selected, d_weights, *d_grns]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.mul_(0.5)
    graph.replay()
    for replayed, called in zip(captured, step(), strict=True):
        assert torch.equal(replayed, called)


def test_only_float32_up_to_a_width_is_taken() -> None:
    assert not select_gpu.takes(torch.zeros(1), 8)
    assert not select_gpu.takes(torch.zeros(1, dtype=torch.float64, device=DEVICE), 8)
    assert not select_gpu.takes(torch.zeros(1, device=DEVICE), select_gpu.MAX_WIDTH + 1)
    (_, x, weights, *grns), _ = inputs(1, 1, 1, 5, 0.0)
    with pytest.raises(ValueError, match=r"^the kernels are float32, got torch.float64: use the selection of tft/sel"):
        select_gpu.select_forward(x.double(), weights.double(), [g.double() for g in grns], None)
    (_, x, weights, *grns), _ = inputs(1, 1, 1, select_gpu.MAX_WIDTH + 1, 0.0)
    with pytest.raises(ValueError, match=r"^the kernels take widths up to 64, got 65"):
        select_gpu.select_forward(x, weights, grns, None)


@pytest.mark.parametrize(("n_terms", "n_sums"), [(1, 1), (73, 40), (5, 10_000), (276, 17), (1024, 1)])
def test_shares_cover_every_term_once_and_none_is_empty(n_terms: int, n_sums: int) -> None:
    for multiple in (1, 64):
        n_each, n_parts = select_gpu.shares(n_terms, n_sums, multiple=multiple)
        assert n_each % multiple == 0
        assert (n_parts - 1) * n_each < n_terms <= n_parts * n_each
