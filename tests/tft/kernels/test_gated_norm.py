"""LayerNorm(skip + GLU(gated)) in one operation, against F.glu, F.layer_norm and autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.func import vmap

from tft.kernels import gated_norm as module
from tft.kernels.cpu import native
from tft.kernels.gated_norm import gated_norm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_gpu = pytest.mark.skipif(not module.takes(torch.zeros(1, device=DEVICE)), reason="no GPU that the kernels run on")
TIGHT = {"rtol": 1e-10, "atol": 1e-10}

# n_folds, n_rows, width: a row alone, parts of one and of several blocks, widths below and above a warp or a vector
SHAPES = [(1, 1, 3), (3, 4, 5), (2, 131, 48), (16, 70, 73), (1, 1100, 16), (2, 9, 32), (1, 20, 160), (2, 3, 512)]


@pytest.fixture(params=["kernels", "torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What computes on the CPU: native.cpp, if it can be built, and torch."""
    if request.param == "torch":
        monkeypatch.setattr(native, "kernels", lambda: None)
    elif native.kernels() is None:
        pytest.skip("no native kernels: no C++ compiler, or TFT_NATIVE=0")
    return str(request.param)


def inputs(n_folds: int, n_rows: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """skip (K, R, D), gated (K, R, 2D), weight and bias (K, D), gradient of the result (K, R, D)"""
    draws = Generator().manual_seed(width + n_rows)
    row, vector = (n_folds, n_rows, width), (n_folds, width)
    shapes = (row, (n_folds, n_rows, 2 * width), vector, vector, row)
    return [(2.0 * torch.randn(shape, generator=draws, dtype=torch.float64)).to(dtype) for shape in shapes]


def plain(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What is meant, for one fold."""
    return F.layer_norm(skip + F.glu(gated, dim=-1), weight.shape, weight, bias)


def values_and_gradients(given: list[Tensor], operation: object) -> list[Tensor]:
    """Of a stack of folds, by autograd."""
    assert callable(operation)
    *operands, d = given
    leaves = [operand.detach().clone().requires_grad_() for operand in operands]
    normed = vmap(operation)(*leaves)
    return [normed.detach(), *torch.autograd.grad(normed, leaves, d)]


def error(found: Tensor, truth: Tensor) -> float:
    """Largest deviation, as a share of the largest value."""
    return float((found.double().cpu() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_plain_formula(shape: tuple[int, int, int]) -> None:
    """Of folds side by side, which is how they are trained, in float64 and float32."""
    given = inputs(*shape)
    truth = values_and_gradients(given, plain)
    for ours, true in zip(values_and_gradients(given, gated_norm), truth, strict=True):
        torch.testing.assert_close(ours, true, **TIGHT)
    single = [tensor.float() for tensor in given]
    both = (values_and_gradients(single, operation) for operation in (gated_norm, plain))
    for ours, theirs, true in zip(*both, truth, strict=True):
        assert ours.dtype == torch.float32
        assert error(ours, true) <= max(8.0 * error(theirs, true), 2e-6)


@pytest.mark.usefixtures("implementation")
def test_gradients_are_those_of_finite_differences() -> None:
    stack = [tensor.requires_grad_() for tensor in inputs(2, 3, 5)[:4]]
    for leaves in (stack, [tensor[0].detach().requires_grad_() for tensor in stack]):
        assert torch.autograd.gradcheck(module._GatedNorm.apply, leaves)


@pytest.mark.usefixtures("implementation")
def test_any_shape_and_strides_and_a_skip_that_is_broadcast() -> None:
    skip, gated, weight, bias, _ = inputs(4, 6, 5)
    skip, gated = skip.transpose(0, 1)[:, :, ::2].repeat_interleave(2, -1)[..., :5], gated.transpose(0, 1)
    weight, bias = weight[0], bias[0]
    torch.testing.assert_close(gated_norm(skip, gated, weight, bias), plain(skip, gated, weight, bias), **TIGHT)
    alone = gated_norm(skip[0, 0], gated[0, 0], weight, bias)
    torch.testing.assert_close(alone, plain(skip[0, 0], gated[0, 0], weight, bias), **TIGHT)
    shared = skip[0].clone().requires_grad_()
    (found,) = torch.autograd.grad(gated_norm(shared, gated, weight, bias).square().sum(), shared)
    (expected,) = torch.autograd.grad(plain(shared, gated, weight, bias).square().sum(), shared)
    torch.testing.assert_close(found, expected, **TIGHT)
    assert gated_norm(skip[:0], gated[:0], weight, bias).shape == (0, 4, 5)


@pytest.mark.usefixtures("implementation")
def test_what_all_folds_share_has_the_sum_of_their_gradients() -> None:
    skip, gated, weight, bias, d = inputs(3, 4, 5)
    for shared in range(4):
        own = [skip, gated, weight, bias]
        own[shared] = own[shared][0]
        leaves = [operand.clone().requires_grad_() for operand in own]
        in_dims = tuple(None if i == shared else 0 for i in range(4))
        both = [vmap(operation, in_dims=in_dims)(*leaves) for operation in (gated_norm, plain)]
        gradients = [torch.autograd.grad(normed, leaves, d) for normed in both]
        for ours, theirs in zip([both[0], *gradients[0]], [both[1], *gradients[1]], strict=True):
            torch.testing.assert_close(ours, theirs, **TIGHT)


def by_row(given: list[Tensor], device: torch.device) -> list[Tensor]:
    """Values, and gradients of skip and gated."""
    return [tensor.cpu() for tensor in values_and_gradients([tensor.to(device) for tensor in given], gated_norm)[:3]]


def assert_a_row_does_not_see_the_others(dtype: torch.dtype, device: torch.device) -> None:
    for shape in ((2, 70, 48), (1, 131, 73)):
        skip, gated, weight, bias, d = inputs(*shape, dtype)
        whole = by_row([skip, gated, weight, bias, d], device)
        for rows in (slice(0, 1), slice(3, 20), slice(65, 70)):
            some = by_row([skip[:, rows], gated[:, rows], weight, bias, d[:, rows]], device)
            assert all(torch.equal(one[:, rows], other) for one, other in zip(whole, some, strict=True))
        skip[0, 5, 2], gated[0, 7, 1], gated[0, 9, shape[-1] + 1] = (float("nan"),) * 3
        spoiled = by_row([skip, gated, weight, bias, d], device)
        for one, other in zip(whole, spoiled, strict=True):
            assert other[0, [5, 7, 9]].isnan().any(dim=-1).all()
            other[0, [5, 7, 9]] = one[0, [5, 7, 9]]
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_row_does_not_see_the_others_and_a_nan_stays_in_it(dtype: torch.dtype) -> None:
    """To the last bit, however many rows there are."""
    if native.kernels() is None:
        pytest.skip("no native kernels: no C++ compiler, or TFT_NATIVE=0")
    assert_a_row_does_not_see_the_others(dtype, torch.device("cpu"))


@pytest.mark.parametrize("n_rows", [1, 4, 8, 9, 1008, 2288, 10**6])
@pytest.mark.parametrize("n_folds", [1, 16, 5000])
def test_shares_cover_every_row_once_and_none_is_empty(n_rows: int, n_folds: int) -> None:
    n_each, n_parts = module.shares(n_rows, n_folds)
    assert n_each % module.WARPS == 0
    assert (n_parts - 1) * n_each < n_rows <= n_parts * n_each
    assert n_parts * n_folds <= max(module.N_BLOCKS, n_folds)


def test_only_float32_up_to_a_width_is_taken() -> None:
    assert not module.takes(torch.zeros(1, 1, 8))
    assert not module.takes(torch.zeros(1, 1, 8, dtype=torch.float64, device=DEVICE))
    assert not module.takes(torch.zeros(1, 1, module.MAX_WIDTH + 1, device=DEVICE))
    assert not module.takes(torch.zeros(1, 0, 8, device=DEVICE))


@needs_gpu
@pytest.mark.parametrize("shape", [*SHAPES, (16, 2288, 73), (16, 1008, 48), (16, 4, 48)], ids=str)
def test_the_gpu_is_as_close_to_the_truth_as_torch(shape: tuple[int, int, int]) -> None:
    given = inputs(*shape)
    truth = values_and_gradients(given, plain)
    single = [tensor.float().to(DEVICE) for tensor in given]
    both = (values_and_gradients(single, operation) for operation in (gated_norm, plain))
    for ours, theirs, true in zip(*both, truth, strict=True):
        assert ours.shape == true.shape and ours.dtype == torch.float32
        assert error(ours, true) <= max(8.0 * error(theirs, true), 4e-6)


@needs_gpu
def test_float64_and_no_rows_on_the_gpu_are_done_by_torch() -> None:
    given = [tensor.to(DEVICE) for tensor in inputs(2, 9, 48)]
    for ours, theirs in zip(*(values_and_gradients(given, one) for one in (gated_norm, plain)), strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)
    skip, gated, weight, bias, _ = (tensor.float() for tensor in given)
    assert gated_norm(skip[0, :0], gated[0, :0], weight[0], bias[0]).shape == (0, 48)


@needs_gpu
def test_on_the_gpu_a_row_does_not_see_the_others_and_a_nan_stays_in_it() -> None:
    assert_a_row_does_not_see_the_others(torch.float32, DEVICE)


@needs_gpu
def test_on_the_gpu_rows_may_be_strided_and_repetitions_agree_to_the_last_bit() -> None:
    """A skip that is the last bar of a sequence, a gradient that is one number for all."""
    skip, gated, weight, bias, d = (tensor.to(DEVICE) for tensor in inputs(3, 400, 48, torch.float32))
    sequence = torch.stack([skip, skip + 1.0], dim=2)
    given = [sequence[:, :, 0], gated, weight, bias, d]
    expected = values_and_gradients([skip, gated, weight, bias, d], gated_norm)
    for _ in range(2):
        for ours, theirs in zip(values_and_gradients(given, gated_norm), expected, strict=True):
            assert torch.equal(ours, theirs)
    ones = torch.ones((), device=DEVICE).expand(d.shape)
    d_ones = (values_and_gradients([*given[:4], d], gated_norm) for d in (ones, ones.contiguous()))
    assert all(torch.equal(one, other) for one, other in zip(*d_ones, strict=True))


@needs_gpu
def test_both_launches_are_captured_in_a_graph() -> None:
    *operands, d = (tensor.to(DEVICE) for tensor in inputs(3, 400, 48, torch.float32))
    leaves = [operand.requires_grad_() for operand in operands]

    def step() -> list[Tensor]:
        normed = vmap(gated_norm)(*leaves)
        return [normed, *torch.autograd.grad(normed, leaves, d)]

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
