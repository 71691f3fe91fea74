"""LayerNorm(skip + GLU(gated)) in one operation, against F.glu, F.layer_norm and autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.func import vmap

from tft.kernels import gated_norm as module
from tft.kernels.gated_norm import gated_norm

TIGHT = {"rtol": 1e-10, "atol": 1e-10}

# n_folds, n_rows, width: a row alone, parts of one and of several blocks, widths below and above a warp or a vector
SHAPES = [(1, 1, 3), (3, 4, 5), (2, 131, 48), (16, 70, 73), (1, 1100, 16), (2, 9, 32), (1, 20, 160), (2, 3, 512)]


def inputs(n_folds: int, n_rows: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """skip (K, R, D), gated (K, R, 2D), weight and bias (K, D), gradient of the result (K, R, D)"""
    draws = Generator().manual_seed(width + n_rows)
    row, vector = (n_folds, n_rows, width), (n_folds, width)
    shapes = (row, (n_folds, n_rows, 2 * width), vector, vector, row)
    return [(2.0 * torch.randn(shape, generator=draws, dtype=torch.float64)).to(dtype) for shape in shapes]


def plain(skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The gated norm of one fold by its formula."""
    return F.layer_norm(skip + F.glu(gated, dim=-1), weight.shape, weight, bias)


def values_and_gradients(given: list[Tensor], operation: object) -> list[Tensor]:
    """Gradients of a stack of folds, by autograd."""
    assert callable(operation)
    *operands, d = given
    leaves = [operand.detach().clone().requires_grad_() for operand in operands]
    normed = vmap(operation)(*leaves)
    return [normed.detach(), *torch.autograd.grad(normed, leaves, d)]


def error(found: Tensor, truth: Tensor) -> float:
    """Largest deviation, as a share of the largest value."""
    return float((found.double().cpu() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_plain_formula(shape: tuple[int, int, int]) -> None:
    """For folds side by side, which is how they are trained, in float64 and float32."""
    given = inputs(*shape)
    truth = values_and_gradients(given, plain)
    for ours, true in zip(values_and_gradients(given, gated_norm), truth, strict=True):
        torch.testing.assert_close(ours, true, **TIGHT)
    single = [tensor.float() for tensor in given]
    both = (values_and_gradients(single, operation) for operation in (gated_norm, plain))
    for ours, theirs, true in zip(*both, truth, strict=True):
        assert ours.dtype == torch.float32
        assert error(ours, true) <= max(8.0 * error(theirs, true), 2e-6)


@pytest.mark.usefixtures("on_cpu")
def test_gradients_are_those_of_finite_differences() -> None:
    stack = [tensor.requires_grad_() for tensor in inputs(2, 3, 5)[:4]]
    for leaves in (stack, [tensor[0].detach().requires_grad_() for tensor in stack]):
        assert torch.autograd.gradcheck(module._GatedNorm.apply, leaves)


@pytest.mark.usefixtures("on_cpu")
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


@pytest.mark.usefixtures("on_cpu")
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


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_row_does_not_see_the_others_and_a_nan_stays_in_it(dtype: torch.dtype) -> None:
    """To the last bit, however many rows there are."""
    assert_a_row_does_not_see_the_others(dtype, torch.device("cpu"))


def test_on_a_gpu_a_row_does_not_see_the_others_and_a_nan_stays_in_it(gpu: torch.device) -> None:
    assert_a_row_does_not_see_the_others(torch.float32, gpu)


def test_float64_and_no_rows_on_a_gpu_are_done_by_torch(gpu: torch.device) -> None:
    given = [tensor.to(gpu) for tensor in inputs(2, 9, 48)]
    for ours, theirs in zip(*(values_and_gradients(given, one) for one in (gated_norm, plain)), strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)
    skip, gated, weight, bias, _ = (tensor.float() for tensor in given)
    assert gated_norm(skip[0, :0], gated[0, :0], weight[0], bias[0]).shape == (0, 48)


def test_on_a_gpu_a_skip_may_be_the_last_bar_of_a_sequence(gpu: torch.device) -> None:
    skip, gated, weight, bias, d = (tensor.to(gpu) for tensor in inputs(3, 400, 48, torch.float32))
    sequence = torch.stack([skip, skip + 1.0], dim=2)
    expected = values_and_gradients([skip, gated, weight, bias, d], gated_norm)
    found = values_and_gradients([sequence[:, :, 0], gated, weight, bias, d], gated_norm)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
