"""The scan against torch.nn.LSTM, under vmap against a loop; with native code and with the reference in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from tft.kernels.scan import lstm

pytestmark = pytest.mark.usefixtures("on_cpu")
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
N_STEPS, N_WINDOWS, WIDTH = 7, 4, 5


def inputs(seed: int = 0, *stack: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gates (L, W, 4H), weight (H, 4H), hidden and cell (W, H), float64 leaves."""
    draws = torch.Generator().manual_seed(seed)
    shapes = ((N_STEPS, N_WINDOWS, 4 * WIDTH), (WIDTH, 4 * WIDTH), (N_WINDOWS, WIDTH), (N_WINDOWS, WIDTH))
    gates, weight, hidden, cell = (
        torch.randn(*stack, *shape, generator=draws, dtype=torch.float64).requires_grad_(True) for shape in shapes
    )
    return gates, weight, hidden, cell


def weighted_sum(states: Tensor, seed: int = 9) -> Tensor:
    """A scalar in which every state counts differently."""
    draws = torch.Generator().manual_seed(seed)
    return (states * torch.randn(states.shape, generator=draws, dtype=states.dtype)).sum()


def for_torch(rows: Tensor) -> Tensor:
    """Rows ordered input | forget | output | candidate, to torch's input | forget | candidate | output."""
    admit, forget, emit, candidate = rows.split(WIDTH)
    return torch.cat([admit, forget, candidate, emit])


def test_states_and_gradients_are_those_of_torch_nn_lstm() -> None:
    """Fed with an input whose projection is the gates; gradients of projection, weight and both initial states."""
    n_in = 3
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(N_STEPS, N_WINDOWS, n_in, generator=draws, dtype=torch.float64).requires_grad_(True)
    project = torch.randn(n_in, 4 * WIDTH, generator=draws, dtype=torch.float64).requires_grad_(True)
    bias = torch.randn(4 * WIDTH, generator=draws, dtype=torch.float64).requires_grad_(True)
    _, weight, hidden, cell = inputs()

    states = lstm(x @ project + bias, weight, hidden, cell)
    ours = torch.autograd.grad(weighted_sum(states), [x, project, bias, weight, hidden, cell])

    reference = torch.nn.LSTM(n_in, WIDTH).double()
    with torch.no_grad():
        reference.weight_ih_l0.copy_(for_torch(project.T))
        reference.weight_hh_l0.copy_(for_torch(weight.T))
        reference.bias_ih_l0.copy_(for_torch(bias))
        reference.bias_hh_l0.zero_()
    expected, _ = reference(x, (hidden[None], cell[None]))
    torch.testing.assert_close(states, expected, **TIGHT)

    parameters = [reference.weight_ih_l0, reference.bias_ih_l0, reference.weight_hh_l0]
    d_x, d_hidden, d_cell, d_project, d_bias, d_weight = torch.autograd.grad(
        weighted_sum(expected), [x, hidden, cell, *parameters]
    )
    torch.testing.assert_close(ours[0], d_x, **TIGHT)
    torch.testing.assert_close(for_torch(ours[1].T), d_project, **TIGHT)
    torch.testing.assert_close(for_torch(ours[2]), d_bias, **TIGHT)
    torch.testing.assert_close(for_torch(ours[3].T), d_weight, **TIGHT)
    torch.testing.assert_close(ours[4], d_hidden, **TIGHT)
    torch.testing.assert_close(ours[5], d_cell, **TIGHT)


def test_the_gradient_of_the_scan_by_finite_differences() -> None:
    gates, weight, hidden, cell = inputs()
    with torch.no_grad():
        short = [gates[:3, :2, :], weight, hidden[:2], cell[:2]]
    leaves = [value.clone().requires_grad_(True) for value in short]
    # What has no gradient at all is never asked for one: there is a single output that can have one.
    assert torch.autograd.gradcheck(lstm, leaves, atol=1e-7, check_undefined_grad=False)


def test_a_single_step_is_enough() -> None:
    gates, weight, hidden, cell = inputs()
    torch.testing.assert_close(lstm(gates[:1], weight, hidden, cell), lstm(gates, weight, hidden, cell)[:1], **TIGHT)


@pytest.mark.parametrize("in_dims", [(0, 0, 0, 0), (0, None, 0, 0), (None, 0, None, None), (0, 0, None, 0)])
def test_the_scan_under_vmap_equals_a_loop(in_dims: tuple[int | None, ...]) -> None:
    """States and gradients of three stacked folds, with any of the arguments shared."""
    stacked, single = inputs(0, 3), inputs(5)
    arguments = [one if dim is None else many for many, one, dim in zip(stacked, single, in_dims, strict=True)]

    def one_fold(k: int) -> Tensor:
        return lstm(*(value if dim is None else value[k] for value, dim in zip(arguments, in_dims, strict=True)))

    together = vmap(lstm, in_dims=in_dims)(*arguments)
    looped = torch.stack([one_fold(k) for k in range(3)])
    torch.testing.assert_close(together, looped, **TIGHT)
    found = torch.autograd.grad(weighted_sum(together), arguments)
    expected = torch.autograd.grad(weighted_sum(looped), arguments)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


def test_the_scan_under_vmap_over_another_dimension() -> None:
    gates, weight, hidden, cell = inputs(0, 3)
    moved = vmap(lstm, in_dims=(1, 0, 0, 1))(gates.movedim(0, 1), weight, hidden, cell.movedim(0, 1))
    torch.testing.assert_close(moved, vmap(lstm)(gates, weight, hidden, cell), **TIGHT)


def test_the_scan_without_a_gradient_gives_the_same_states() -> None:
    """For a single fold and a stack, with an argument that its folds share."""
    single, stacked = inputs(), inputs(0, 3)
    of_stack = vmap(lstm, in_dims=(0, None, 0, 0))
    arguments = stacked[0], single[1], *stacked[2:]
    with torch.no_grad():
        alone, together = lstm(*single), of_stack(*arguments)
    assert not alone.requires_grad and not together.requires_grad
    assert torch.equal(alone, lstm(*single))
    assert torch.equal(together, of_stack(*arguments))


WINDOWS = torch.tensor([[0, 1, 2], [1, 2, 5], [0, 3, 5], [2, 4, 5]])


def of_cells(seed: int, *stack: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gates (N, 4H) and the rest for windows of 3 bars."""
    _, *rest = inputs(seed, *stack)
    draws = torch.Generator().manual_seed(seed + 1)
    cells = torch.randn(*stack, 6, 4 * WIDTH, generator=draws, dtype=torch.float64).requires_grad_(True)
    return cells, rest[0], rest[1], rest[2]


def test_gates_read_through_windows_are_those_laid_out_beforehand() -> None:
    """States and all gradients, where a cell is in several windows, or in none."""
    leaves = of_cells(3)
    through = lstm(*leaves, WINDOWS)
    laid_out = lstm(leaves[0][WINDOWS.T], *leaves[1:])
    torch.testing.assert_close(through, laid_out, **TIGHT)
    found, expected = (torch.autograd.grad(weighted_sum(states), leaves) for states in (through, laid_out))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


def test_windows_under_vmap_equal_a_loop() -> None:
    """For three folds with windows of their own."""
    leaves = of_cells(4, 3)
    windows = torch.stack([WINDOWS, WINDOWS.flip(0), WINDOWS])
    together = vmap(lstm)(*leaves, windows)
    looped = torch.stack([lstm(*(leaf[k] for leaf in leaves), windows[k]) for k in range(3)])
    torch.testing.assert_close(together, looped, **TIGHT)
    found, expected = (torch.autograd.grad(weighted_sum(states), leaves) for states in (together, looped))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)
