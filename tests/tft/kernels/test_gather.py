"""The gather against indexing, under vmap against a loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from tests.tft.kernels.operations import windows_of
from tft.kernels.gather import add_rows, gather

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
WINDOWS = torch.tensor([[0, 1, 2], [1, 2, 5], [0, 3, 5], [2, 4, 5]])


def weighted_sum(rows: Tensor, seed: int = 9) -> Tensor:
    """A scalar in which every row counts differently."""
    draws = torch.Generator().manual_seed(seed)
    return (rows * torch.randn(rows.shape, generator=draws, dtype=rows.dtype)).sum()


def test_gather_of_windows_is_indexing() -> None:
    values = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    found, expected = gather(values, WINDOWS), values[WINDOWS]
    assert torch.equal(found, expected)
    ours, theirs = (torch.autograd.grad(weighted_sum(rows), values)[0] for rows in (found, expected))
    torch.testing.assert_close(ours, theirs, **TIGHT)


INDEX = torch.tensor([4, 0, 0, 2, 4, 4, 1])


def test_gather_equals_indexing_gradient_included() -> None:
    """Rows used several times add up, a row never used (3) has gradient zero."""
    values = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    found, expected = gather(values, INDEX), values[INDEX]
    assert torch.equal(found, expected)
    (ours,) = torch.autograd.grad(weighted_sum(found), values)
    (theirs,) = torch.autograd.grad(weighted_sum(expected), values)
    torch.testing.assert_close(ours, theirs, **TIGHT)
    assert (ours[3] == 0.0).all()


def test_the_gradient_of_gather_by_finite_differences() -> None:
    values = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    assert torch.autograd.gradcheck(gather, (values, INDEX))


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)])
def test_gather_under_vmap_equals_a_loop(in_dims: tuple[int | None, int | None]) -> None:
    draws = torch.Generator().manual_seed(0)
    many = torch.randn(3, 5, 2, dtype=torch.float64, generator=draws)
    values = (many if in_dims[0] == 0 else many[0]).clone().requires_grad_(True)
    index = torch.randint(5, (3, 6), generator=draws) if in_dims[1] == 0 else INDEX
    together = vmap(gather, in_dims=in_dims)(values, index)
    looped = torch.stack(
        [(values if in_dims[0] is None else values[k])[index if in_dims[1] is None else index[k]] for k in range(3)]
    )
    assert torch.equal(together, looped)
    (ours,) = torch.autograd.grad(weighted_sum(together), values)
    (theirs,) = torch.autograd.grad(weighted_sum(looped), values)
    torch.testing.assert_close(ours, theirs, **TIGHT)


def test_the_backward_of_gather_gives_the_same_bits_every_time() -> None:
    """Thousands of rows that add into a few: the order of the additions is fixed."""
    draws = torch.Generator().manual_seed(0)
    values = torch.randn(6, 16, generator=draws).requires_grad_(True)
    index = torch.randint(6, (20_000,), generator=draws)
    weights = torch.randn(20_000, 16, generator=draws)
    gradients = [torch.autograd.grad((gather(values, index) * weights).sum(), values)[0] for _ in range(3)]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 40, 7, 50, 20), (3, 272, 63, 2288, 192), (2, 2288, 1, 4, 48)])
def test_on_a_gpu_rows_add_up_to_the_same_bits_every_time(gpu: torch.device, shape: tuple[int, ...]) -> None:
    """K folds, W windows of L bars, N cells of width D: against additions in float64, windows first and bars first.

    Torch's own backward of an embedding fails the last shape, in which thousands of rows add into four cells.
    """
    n_folds, n_windows, n_bars, n_cells, width = shape
    d = torch.randn(n_folds, n_windows, n_bars, width, generator=torch.Generator().manual_seed(width))
    windows = windows_of(n_folds, n_windows, n_bars, n_cells)

    def summed(rows: Tensor) -> Tensor:
        of_folds = zip(rows.double(), windows, strict=True)
        empty = torch.zeros(n_cells, width, dtype=torch.float64)
        return torch.stack([empty.index_add(0, own.flatten(), each.flatten(0, 1)) for each, own in of_folds])

    truth, bound = summed(d), 1e-6 * summed(d.abs()) + 1e-7
    on_gpu, index = d.to(gpu), windows.to(gpu)
    found = [add_rows(on_gpu, index, n_cells) for _ in range(3)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    found.append(add_rows(on_gpu.transpose(1, 2), index, n_cells, bar_major=True))
    for one in found:
        assert ((one.cpu().double() - truth).abs() <= bound).all()
