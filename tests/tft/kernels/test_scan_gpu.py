"""The CUDA kernels of the scan against the scan in torch, with float64 as the truth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tft.kernels.cuda import gather as gather_gpu
from tft.kernels.cuda import scan as scan_gpu
from tft.kernels.recurrent import lstm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_gpu = pytest.mark.skipif(not scan_gpu.available(DEVICE), reason="no GPU that the kernels run on")

# n_folds, n_steps, n_windows, width: one tile of columns, several, padded or not, the weight kept on the chip or not.
SHAPES = [(1, 1, 1, 5), (3, 9, 1, 8), (2, 3, 17, 20), (3, 9, 17, 48), (1, 2, 40, 48), (1, 3, 17, 64), (2, 3, 17, 100)]
SHAPES += [(1, 3, 5, 160), (1, 2, 3, 256)]


def inputs(n_folds: int, n_steps: int, n_windows: int, width: int, spread: float = 1.0) -> list[Tensor]:
    """gates (K, L, W, 4H), weight (K, H, 4H), hidden and cell (K, W, H), d_states (K, L, W, H), float32."""
    draws = torch.Generator().manual_seed(width)
    gates = torch.randn(n_folds, n_steps, n_windows, 4 * width, generator=draws) * spread
    weight = torch.randn(n_folds, width, 4 * width, generator=draws) / width**0.5
    hidden = torch.randn(n_folds, n_windows, width, generator=draws)
    cell = torch.randn(n_folds, n_windows, width, generator=draws)
    d_states = torch.randn(n_folds, n_steps, n_windows, width, generator=draws)
    return [gates, weight, hidden, cell, d_states]


def by_torch(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, d_states: Tensor) -> list[Tensor]:
    """States and the gradients of gates, hidden and cell, on the CPU."""
    leaves = [tensor.clone().requires_grad_(True) for tensor in (gates, hidden, cell)]
    states = lstm(leaves[0], weight, leaves[1], leaves[2])
    return [states.detach(), *torch.autograd.grad(states, leaves, d_states)]


def by_kernels(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, d_states: Tensor) -> list[Tensor]:
    """The same from the kernels."""
    gates, weight, hidden, cell, d_states = (t.to(DEVICE) for t in (gates, weight, hidden, cell, d_states))
    states, entering, cells, active = scan_gpu.scan_forward(gates, None, weight, hidden, cell, keep=True)
    assert entering is not None
    assert torch.equal(entering[:, 0], hidden)
    assert torch.equal(entering[:, 1:], states[:, :-1])
    gradients = scan_gpu.scan_backward(d_states, weight, cell, cells, active)
    return [tensor.cpu() for tensor in (states, *gradients)]


def error(found: Tensor, truth: Tensor) -> float:
    """Largest deviation, as a share of the largest value."""
    return float((found.double() - truth).abs().max() / truth.abs().max())


@needs_gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_states_and_gradients_are_as_close_to_the_truth_as_those_of_torch(shape: tuple[int, int, int, int]) -> None:
    given = inputs(*shape)
    truth = by_torch(*(tensor.double() for tensor in given))
    for ours, theirs, true in zip(by_kernels(*given), by_torch(*given), truth, strict=True):
        assert ours.shape == true.shape
        # Tensor cores cut the sums that torch rounds: an error that grows with the terms.
        assert error(ours, true) <= max(4.0 * error(theirs, true), 5e-7, 1e-8 * shape[-1])


@needs_gpu
@pytest.mark.parametrize("spread", [1e-4, 40.0])
def test_gates_near_zero_and_saturated(spread: float) -> None:
    given = inputs(1, 4, 5, 8, spread)
    truth = by_torch(*(tensor.double() for tensor in given))
    for ours, true in zip(by_kernels(*given), truth, strict=True):
        assert error(ours, true) <= 2e-6


@needs_gpu
def test_the_gates_kept_for_the_backward_are_as_accurate_near_zero_as_elsewhere() -> None:
    """From a state of zero the candidate is tanh of its gate: the relative error of both branches."""
    width = 16
    into = torch.cat([torch.logspace(-6, 1, 4 * width), -torch.logspace(-6, 1, 4 * width)])  # (W * H,)
    gates = torch.zeros(1, 1, 8, 4 * width)
    gates[0, 0, :, 3 * width :] = into.view(8, width)
    zero = torch.zeros(1, 8, width)
    arguments = (gates, torch.zeros(1, width, 4 * width), zero, zero)
    gates, *rest = (tensor.to(DEVICE) for tensor in arguments)
    _, _, _, active = scan_gpu.scan_forward(gates, None, *rest, keep=True)
    assert active is not None
    found = active.cpu()[0, 0, :, 3 * width :].flatten().double()
    true = into.double().tanh()
    assert float(((found - true) / true).abs().max()) < 3e-7


@needs_gpu
def test_a_gradient_that_is_a_view_is_read_as_what_it_shows() -> None:
    """A sum over the states hands back one number, expanded."""
    gates, weight, hidden, cell, d_states = inputs(2, 3, 5, 8)
    expanded = torch.tensor(0.5).expand(d_states.shape)
    for ours, same in zip(
        by_kernels(gates, weight, hidden, cell, expanded),
        by_kernels(gates, weight, hidden, cell, expanded.contiguous()),
        strict=True,
    ):
        assert torch.equal(ours, same)


@needs_gpu
def test_two_calls_agree_to_the_last_bit_and_folds_do_not_see_each_other() -> None:
    given = inputs(3, 4, 17, 20)
    first, again = by_kernels(*given), by_kernels(*given)
    alone = by_kernels(*(tensor[1:2] for tensor in given))
    for one, other, single in zip(first, again, alone, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[1:2], single)


def windows_of(n_folds: int, n_windows: int, n_bars: int, n_cells: int) -> Tensor:
    """(K, W, L) cells, ascending along L."""
    draws = torch.Generator().manual_seed(n_cells)
    drawn = [torch.randperm(n_cells, generator=draws)[:n_bars].sort().values for _ in range(n_folds * n_windows)]
    return torch.stack(drawn).view(n_folds, n_windows, n_bars)


@needs_gpu
@pytest.mark.parametrize("keep", [True, False])
def test_gates_are_read_through_windows(keep: bool) -> None:
    """The states are those of the gates laid out beforehand, kept for a backward or not."""
    windows = windows_of(2, 19, 7, 40).to(DEVICE)
    gates = torch.randn(2, 40, 4 * 20, device=DEVICE)
    _, weight, hidden, cell, _ = (tensor.to(DEVICE) for tensor in inputs(2, 7, 19, 20))
    laid_out = torch.stack([own[index.T] for own, index in zip(gates, windows, strict=True)])
    found = scan_gpu.scan_forward(gates, windows, weight, hidden, cell, keep=keep)
    expected = scan_gpu.scan_forward(laid_out, None, weight, hidden, cell, keep=True)
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(ours, theirs) if keep else ours is None


@needs_gpu
@pytest.mark.parametrize(
    ("n_folds", "n_windows", "n_bars", "n_cells", "width"),
    [(1, 1, 1, 1, 1), (2, 40, 7, 50, 20), (3, 272, 63, 2288, 192), (2, 2288, 1, 4, 48), (1, 33, 5, 9, 300)],
)
@pytest.mark.parametrize("bar_major", [False, True])
def test_rows_add_up_to_the_cells_that_they_were_read_from(
    n_folds: int, n_windows: int, n_bars: int, n_cells: int, width: int, bar_major: bool
) -> None:
    """As index_add does in float64; a cell that no window reads gets zero; the same bits every time."""
    windows = windows_of(n_folds, n_windows, n_bars, n_cells)
    d = torch.randn(n_folds, n_windows, n_bars, width)
    expected = torch.zeros(n_folds, n_cells, width, dtype=torch.float64)
    for fold in range(n_folds):
        expected[fold].index_add_(0, windows[fold].flatten(), d[fold].double().flatten(0, 1))
    rows = (d.transpose(1, 2) if bar_major else d).to(DEVICE)
    found, again = (gather_gpu.add_rows(rows, windows.to(DEVICE), n_cells, bar_major=bar_major) for _ in range(2))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(found, again)


@needs_gpu
def test_both_launches_are_captured_in_a_graph() -> None:
    gates, weight, hidden, cell, d_states = (tensor.to(DEVICE) for tensor in inputs(2, 5, 17, 48))

    def step() -> list[Tensor]:
        states, _, cells, active = scan_gpu.scan_forward(gates, None, weight, hidden, cell, keep=True)
        return [states, *scan_gpu.scan_backward(d_states, weight, cell, cells, active)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    gates.mul_(0.5)
    graph.replay()
    for replayed, called in zip(captured, step(), strict=True):
        assert torch.equal(replayed, called)


def test_only_float32_on_a_gpu_is_taken() -> None:
    assert not scan_gpu.available(torch.device("cpu"))
    assert not scan_gpu.takes(torch.zeros(1), 8)
    assert not scan_gpu.takes(torch.zeros(1, dtype=torch.float64, device=DEVICE), 8)
    assert not scan_gpu.takes(torch.zeros(1, device=DEVICE), 257)
    gates, weight, hidden, cell, _ = (tensor.double() for tensor in inputs(1, 1, 1, 5))
    with pytest.raises(ValueError, match=r"^the kernels are float32, got torch.float64: use the scan of tft/recurr"):
        scan_gpu.scan_forward(gates, None, weight, hidden, cell, keep=True)
