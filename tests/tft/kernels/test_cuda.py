"""CUDA kernels: what only they have to hold, what they refuse, and how sums are cut into parts."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torch.func import vmap

from tests.tft.kernels.operations import OPERATIONS, run_scan, scan_inputs
from tft.kernels import scan as scan_module
from tft.kernels.cuda import adam, dropout, gated_norm, gather, scan, select
from tft.kernels.dropout import apply_dropout, drop
from tft.kernels.dropout_mask import Dropout, Mask
from tft.runtime.graph import Captured


def error(found: Tensor, truth: Tensor) -> float:
    """Largest deviation, as a share of the largest value."""
    return float((found.double().cpu() - truth).abs().max() / truth.abs().max())


# ---------------------------------------------------------------- what is refused


def test_a_tensor_that_is_not_on_a_gpu_is_refused() -> None:
    x = torch.zeros(1, 1, 8)
    refused = [own.refuses(x) for own in (adam, dropout, gated_norm)] + [own.refuses(x, 8) for own in (scan, select)]
    refused.append(gather.refuses(x, torch.zeros(1, 1), 5))
    assert refused == ["the tensor is on the cpu"] * 6


def test_sizes_beyond_a_kernel_are_refused_with_the_limit() -> None:
    wide, none = torch.zeros(1, 1, 1025), torch.zeros(1, 0, 8)
    assert scan.refuses(wide, 257) == "a width of 257 is above 256"
    assert select.refuses(wide, 65) == "a width of 65 is above 64"
    assert gated_norm.refuses(wide[..., :513]) == "(1, 1, 513) rows, the kernels take at least one of 1 to 512 columns"
    assert gated_norm.refuses(none) == "(1, 0, 8) rows, the kernels take at least one of 1 to 512 columns"
    assert dropout.refuses(none) == "0 elements, the kernel takes 1 to 2^31 - 1"
    few = torch.zeros(1, 2**13, 1)
    assert (
        gather.refuses(wide, few, 2**12 + 1)
        == "4097 cells times 8192 windows are more than 33554432, sorting is faster"
    )


def test_float64_is_refused(gpu: torch.device) -> None:
    x = torch.zeros(1, 1, 8, dtype=torch.float64, device=gpu)
    refused = [own.refuses(x) for own in (adam, dropout, gated_norm)] + [own.refuses(x, 8) for own in (scan, select)]
    refused.append(gather.refuses(x, torch.zeros(1, 1), 5))
    assert refused == ["torch.float64, the kernels are float32"] * 6


def test_a_kernel_is_never_given_float64() -> None:
    """`refuses` is asked first; a kernel called in spite of it would read out of bounds, so that it asserts."""
    _, *given = (tensor.double() for tensor in scan_inputs(1, 1, 1, 5))
    with pytest.raises(AssertionError):
        scan.forward(given[0], None, *given[1:], for_backward=True)
    _, x, weights, *grns = (tensor.double() for tensor in OPERATIONS["select"].inputs(1, 1, 1, 5, 0.0))
    with pytest.raises(AssertionError):
        select.forward(x, weights, grns, None, for_backward=True)


# ---------------------------------------------------------------- parts of a sum


@pytest.mark.parametrize(("n_terms", "n_sums"), [(1, 1), (73, 40), (5, 10_000), (276, 17), (1024, 1)])
def test_shares_of_a_selection_cover_every_term_once_and_none_is_empty(n_terms: int, n_sums: int) -> None:
    for multiple in (1, 64):
        n_each, n_parts = select.shares(n_terms, n_sums, multiple=multiple)
        assert n_each % multiple == 0
        assert (n_parts - 1) * n_each < n_terms <= n_parts * n_each


@pytest.mark.parametrize("n_rows", [1, 4, 8, 9, 1008, 2288, 10**6])
@pytest.mark.parametrize("n_folds", [1, 16, 5000])
def test_shares_of_a_gated_norm_cover_every_row_once_and_none_is_empty(n_rows: int, n_folds: int) -> None:
    n_each, n_parts = gated_norm.shares(n_rows, n_folds)
    assert n_each % gated_norm.WARPS == 0
    assert (n_parts - 1) * n_each < n_rows <= n_parts * n_each
    assert n_parts * n_folds <= max(gated_norm.N_BLOCKS, n_folds)


def test_a_selection_that_is_cut_into_parts_is_the_same_sum(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on the number of blocks, which is a function of the shapes."""
    operation = OPERATIONS["select"]
    given = operation.inputs(1, 5, 200, 16, 0.3)
    double = [tensor.double() if tensor.dtype == torch.float32 else tensor for tensor in given]
    truth = operation.run(operation.reference, *double)
    for min_blocks in (1, 7, 10_000):
        monkeypatch.setattr(select, "MIN_BLOCKS", min_blocks)
        found = operation.run(select, *(tensor.to(gpu) for tensor in given))
        for ours, true in zip(found, truth, strict=True):
            assert error(ours, true) <= 3e-6


# ---------------------------------------------------------------- the scan


@pytest.mark.parametrize("spread", [1e-4, 40.0])
def test_gates_near_zero_and_saturated(gpu: torch.device, spread: float) -> None:
    given = scan_inputs(1, 4, 5, 8, spread)
    truth = run_scan(scan_module.Reference, *(tensor.double() for tensor in given))
    for ours, true in zip(run_scan(scan, *(tensor.to(gpu) for tensor in given)), truth, strict=True):
        assert error(ours, true) <= 2e-6


def test_the_gates_kept_for_the_backward_are_as_accurate_near_zero_as_elsewhere(gpu: torch.device) -> None:
    """From a state of zero the candidate is tanh of its gate: the relative error of both branches."""
    width = 16
    into = torch.cat([torch.logspace(-6, 1, 4 * width), -torch.logspace(-6, 1, 4 * width)])  # (W * H,)
    gates = torch.zeros(1, 1, 8, 4 * width)
    gates[0, 0, :, 3 * width :] = into.view(8, width)
    zero = torch.zeros(1, 8, width)
    gates, *rest = (tensor.to(gpu) for tensor in (gates, torch.zeros(1, width, 4 * width), zero, zero))
    _, _, _, active = scan.forward(gates, None, *rest, for_backward=True)
    assert active is not None
    found = active.cpu()[0, 0, :, 3 * width :].flatten().double()
    true = into.double().tanh()
    assert float(((found - true) / true).abs().max()) < 3e-7


def test_a_scan_keeps_the_states_that_a_bar_begins_with_and_folds_alone_give_the_same_bits(gpu: torch.device) -> None:
    given = [tensor.to(gpu) for tensor in scan_inputs(3, 4, 17, 20)]
    _, gates, weight, hidden, cell = given
    states, entering, _, _ = scan.forward(gates, None, weight, hidden, cell, for_backward=True)
    assert entering is not None
    assert torch.equal(entering[:, 0], hidden)
    assert torch.equal(entering[:, 1:], states[:, :-1])
    alone = run_scan(scan, *(tensor[1:2] for tensor in given))
    for one, single in zip(run_scan(scan, *given), alone, strict=True):
        if one.dim() != weight.dim() or one.shape[1:] != weight.shape[1:]:  # its sum may be cut otherwise
            assert torch.equal(one[1:2], single)


# ---------------------------------------------------------------- dropout


def test_a_gpu_drops_what_a_cpu_drops_whatever_shape_and_strides(gpu: torch.device) -> None:
    draws = Generator().manual_seed(6)
    _, *mask = OPERATIONS["dropout"].inputs(3, 1)
    own = Mask(*mask)
    there = Mask(*(tensor.to(gpu) for tensor in mask))
    for dtype in (torch.float32, torch.float64):
        for shape in ((3, 1), (3, 1024), (3, 5, 2001), (3, 40, 33, 2)):
            x = torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype)
            on_gpu = x.to(gpu)
            assert torch.equal(drop(on_gpu, there).cpu(), drop(x, own))
            assert torch.equal(drop(on_gpu.transpose(1, -1), there).cpu(), drop(x.transpose(1, -1), own))
            assert torch.equal(drop(torch.cat([on_gpu, on_gpu], dim=1)[:, : shape[1]], there).cpu(), drop(x, own))
        assert drop(torch.full((3, 50), float("nan"), dtype=dtype, device=gpu), there).isnan().all()


def test_folds_draw_their_own_and_gradients_follow_in_a_graph_too(gpu: torch.device) -> None:
    generator = Generator(gpu)
    rates = Dropout.with_rate(generator, [0.0, 0.2, 0.7])
    x = torch.randn(3, 100, 101, device=gpu, requires_grad=True)
    upstream = torch.randn(3, 100, 101, device=gpu)

    def step() -> tuple[Tensor, Tensor]:
        of_folds = vmap(lambda x, *levels: apply_dropout(x, Dropout(generator, *levels)), randomness="different")
        dropped = of_folds(x, rates.threshold, rates.scale)
        return dropped.detach(), torch.autograd.grad(dropped, x, upstream)[0]

    def check(dropped: Tensor, gradient: Tensor) -> None:
        factor = dropped / x.detach()
        torch.testing.assert_close(gradient, upstream * factor)
        share = (factor == 0.0).double().mean(dim=(1, 2)).cpu()
        torch.testing.assert_close(share, torch.tensor([0.0, 0.2, 0.7], dtype=torch.float64), rtol=0.0, atol=0.025)
        torch.testing.assert_close(
            factor.amax(dim=(1, 2)).cpu(), torch.tensor([1.0, 1 / 0.8, 1 / 0.3]), rtol=1e-4, atol=0.0
        )

    check(*step())
    captured = Captured(step, generator=generator)
    seen = []
    for seed in (1, 2, 1):
        generator.manual_seed(seed)
        found = captured()
        check(*found)
        seen.append(found[0].clone())
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
    generator.manual_seed(1)
    assert torch.equal(step()[0], seen[0])
