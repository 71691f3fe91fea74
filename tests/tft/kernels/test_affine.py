"""The affine map with its own backward, against the plain one differentiated by torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from tft.kernels.affine import MAX_PARTS, PART_ROWS, _Affine, affine, sum_over_rows

TIGHT = {"rtol": 1e-11, "atol": 1e-12}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


# One row; a prime number of them; as many as are cut into parts; more parts than there may be
@pytest.mark.parametrize("n_rows", [1, 7, 61, 2 * PART_ROWS, 1008, 2 * MAX_PARTS * PART_ROWS])
def test_a_sum_over_rows_in_parts_is_the_sum(n_rows: int) -> None:
    left, right = draw(3, n_rows, 5), draw(3, n_rows, 4, seed=1)
    expected = torch.einsum("kri,kro->kio", left, right)
    torch.testing.assert_close(sum_over_rows(left, right), expected, **TIGHT)


@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients_are_those_of_the_plain_map(with_bias: bool) -> None:
    x, weight, bias = draw(1, 128, 5), draw(1, 5, 4, seed=1), draw(1, 4, seed=2) if with_bias else None
    leaves = [x, weight] if bias is None else [x, weight, bias]
    expected = x @ weight + (0.0 if bias is None else bias.unsqueeze(1))
    ours = _Affine.apply(x, weight, bias)
    torch.testing.assert_close(ours, expected, **TIGHT)
    upstream = draw(*expected.shape, seed=3).detach()
    theirs = torch.autograd.grad(expected, leaves, upstream)
    for own, their in zip(torch.autograd.grad(ours, leaves, upstream), theirs, strict=True):
        torch.testing.assert_close(own, their, **TIGHT)
    torch.testing.assert_close(affine(x[0], weight[0], None if bias is None else bias[0]), expected[0], **TIGHT)


def test_folds_side_by_side_are_each_fold_alone() -> None:
    """Whichever arguments are a fold's own and whichever all share."""
    x, weight, bias = draw(3, 1, 64, 5), draw(3, 1, 5, 4, seed=1), draw(3, 1, 4, seed=2)
    apart = torch.stack([_Affine.apply(*arguments) for arguments in zip(x, weight, bias, strict=True)])
    torch.testing.assert_close(vmap(_Affine.apply)(x, weight, bias), apart, **TIGHT)
    shared = vmap(_Affine.apply, in_dims=(None, 0, None))(x[0], weight, bias[0])
    torch.testing.assert_close(shared, torch.stack([_Affine.apply(x[0], one, bias[0]) for one in weight]), **TIGHT)
