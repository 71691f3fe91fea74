"""Variable selection as one operation, against the same formula written plainly and differentiated by torch.

With native code and with the reference in torch.
"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.func import vmap

from tft.kernels import select as module
from tft.kernels.cpu import select as cpu_select
from tft.kernels.dropout_mask import Dropout, Mask, random_seeds
from tft.kernels.select import VariableGRNs, select

TIGHT = {"rtol": 1e-10, "atol": 1e-11}


def inputs(n: int, v: int, h: int, seed: int = 0) -> tuple[Tensor, Tensor, VariableGRNs]:
    rng = Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    shapes = [(v, h)] * 2 + [(v, h, h), (v, h), (v, h, 2 * h), (v, 2 * h)] + [(v, h)] * 4
    weights = torch.softmax(torch.randn(n, v, generator=rng, dtype=torch.float64), dim=-1)
    weights = (weights * (torch.rand(n, v, generator=rng) > 0.2)).requires_grad_()  # some variables are missing
    return normal(n, v).detach(), weights, VariableGRNs(*(normal(*shape) for shape in shapes))


def plainly(x: Tensor, weights: Tensor, grns: VariableGRNs, mask: Mask | None) -> Tensor:
    """One variable after the other."""
    total = torch.zeros(len(x), grns.slope.shape[-1], dtype=x.dtype)
    for v in range(x.shape[1]):
        one = VariableGRNs(*(parameter[v] for parameter in grns))
        column = x[:, v : v + 1]
        hidden = F.elu(one.constant + column * one.slope) @ one.second_weight + one.second_bias
        if mask is not None:
            hidden = hidden * mask.factor(range(v * len(x), (v + 1) * len(x)), hidden.shape[-1], x.dtype)[0]
        gated = F.glu(hidden @ one.gate_weight + one.gate_bias, dim=-1)
        embedding = one.embed_bias + column * one.embed_weight
        normed = F.layer_norm(embedding + gated, gated.shape[-1:], one.norm_weight, one.norm_bias)
        total = total + weights[:, v : v + 1] * normed
    return total


def gradients(selected: Tensor, weights: Tensor, grns: VariableGRNs) -> tuple[Tensor, ...]:
    rng = Generator().manual_seed(9)
    upstream = torch.randn(selected.shape, generator=rng, dtype=selected.dtype)
    return torch.autograd.grad(selected, (weights, *grns), upstream)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("chunk_bytes", [1, 4000, 2**30])
@pytest.mark.parametrize("rate", [None, 0.0, 0.3])
@pytest.mark.parametrize(("n", "v", "h"), [(1, 1, 2), (7, 3, 5), (40, 11, 8)])
def test_values_and_gradients_equal_the_plain_formula(
    n: int, v: int, h: int, rate: float | None, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the chunks, in float64; with the same elements dropped."""
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", chunk_bytes)
    x, weights, grns = inputs(n, v, h)
    dropout = None if rate is None else Dropout.with_rate(Generator().manual_seed(4), rate)
    ours = select(x, weights, grns, dropout)
    seeds = random_seeds(1, Generator().manual_seed(4))
    mask = None if dropout is None else Mask(seeds, dropout.threshold[None], dropout.scale[None])
    expected = plainly(x, weights, grns, mask)
    torch.testing.assert_close(ours, expected, **TIGHT)
    for a, b in zip(gradients(ours, weights, grns), gradients(expected, weights, grns), strict=True):
        torch.testing.assert_close(a, b, **TIGHT)


@pytest.mark.usefixtures("on_cpu")
def test_stacked_folds_equal_each_fold_alone_and_draw_their_own_dropout() -> None:
    x, weights, grns = inputs(9, 4, 6)
    others = inputs(9, 4, 6, seed=1)[2]
    both = VariableGRNs(*(torch.stack([a, b]) for a, b in zip(grns, others, strict=True)))
    apart = [select(x, weights, one, None) for one in (grns, others)]
    # x and the weights are the same for both: vmap has to repeat what has no leading K.
    together = vmap(lambda own: select(x, weights, own, None))(both)
    torch.testing.assert_close(together, torch.stack(apart), **TIGHT)
    expected = [gradients(one, weights, own) for one, own in zip(apart, (grns, others), strict=True)]
    ours = torch.autograd.grad(together, (weights, *both), torch.stack([upstream(one) for one in apart]))
    torch.testing.assert_close(ours[0], expected[0][0] + expected[1][0], **TIGHT)
    for k in range(2):
        for a, b in zip(ours[1:], expected[k][1:], strict=True):
            torch.testing.assert_close(a[k], b, **TIGHT)
    same = VariableGRNs(*(torch.stack([a, a]) for a in grns))
    dropout = Dropout.with_rate(Generator().manual_seed(0), 0.5)
    drawn = vmap(lambda own: select(x, weights, own, dropout), randomness="different")(same)
    assert not torch.equal(drawn[0], drawn[1])


def upstream(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=Generator().manual_seed(9), dtype=like.dtype)


@pytest.mark.usefixtures("on_cpu")
def test_a_rate_of_nothing_drops_nothing() -> None:
    x, weights, grns = inputs(9, 4, 6)
    assert torch.equal(select(x, weights, grns, None), select(x, weights, grns, Dropout.with_rate(Generator(), 0.0)))


@pytest.mark.usefixtures("native")
def test_what_a_selection_keeps_is_there_for_a_backward_and_freed_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one fold and for a stack; a forecast, which has no backward, keeps nothing."""
    kept: list[weakref.ref[Tensor] | None] = []
    plain = cpu_select.forward

    def forward(*arguments: Any, for_backward: bool) -> tuple[Tensor, Tensor | None]:
        selected, own = plain(*arguments, for_backward=for_backward)
        kept.append(None if own is None else weakref.ref(own.untyped_storage()))
        return selected, own

    monkeypatch.setattr(cpu_select, "forward", forward)
    x, weights, grns = inputs(9, 4, 6)
    with torch.no_grad():
        select(x, weights, grns, None)
    assert kept.pop() is None
    stack = VariableGRNs(*(torch.stack([a, a]) for a in grns))
    for selected in (select(x, weights, grns, None), vmap(lambda own: select(x, weights, own, None))(stack)):
        own = kept.pop(0)
        assert own is not None and own() is not None
        torch.autograd.grad(selected.sum(), weights)
        assert own() is None
