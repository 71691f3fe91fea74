"""The per-variable GRNs of variable selection and their weighted sum as one operation (Lim et al. 2021, eqs 2-5, 7, 8).

A chunk of variables is taken through the whole chain while its intermediate values are in the cache. The backward
recomputes them, so that no tensor of (variables, cells, width) has to be saved.

Shapes: K stacked folds (1 for a single fold), V variables, G variables of a chunk, N cells, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from tft.kernels import implementation
from tft.kernels.constants import NORM_EPSILON
from tft.kernels.dropout_mask import Dropout, Mask, random_seeds
from tft.kernels.vmap_rule import replace_fold_dimension

CHUNK_BYTES = {"cpu": 2**19, "cuda": 2**28}
"""Largest size of a (K, G, N, H) tensor: about ten exist at once, and should fit a CPU's L2 cache or a GPU's memory"""


class VariableGRNs(NamedTuple):
    """One GRN per variable. Its input, the embedding, is affine in one number x, and so is its first layer."""

    constant: Tensor  # (V, H) the first layer: constant + x * slope
    slope: Tensor  # (V, H)
    second_weight: Tensor  # (V, H, H)
    second_bias: Tensor  # (V, H)
    gate_weight: Tensor  # (V, H, 2H) value | gate
    gate_bias: Tensor  # (V, 2H)
    norm_weight: Tensor  # (V, H)
    norm_bias: Tensor  # (V, H)
    embed_weight: Tensor  # (V, H) the embedding, which the skip connection adds: embed_bias + x * embed_weight
    embed_bias: Tensor  # (V, H)


def select(x: Tensor, weights: Tensor, grns: VariableGRNs, dropout: Dropout | None) -> Tensor:
    """Transform the variables and combine them, (N, H): sum over v of weights[:, v] * GRN_v(x[:, v]).

    x (N, V), which gets no gradient · weights (N, V) selection weights · dropout before the gate, None in forecasts.
    """
    generator, *levels = dropout or (None, None, None)
    columns = (x.T.contiguous(), weights.T.contiguous(), *grns, *levels)
    arguments = (None if column is None else column.unsqueeze(0) for column in columns)
    selected: Tensor = _Select.apply(*arguments, generator, torch.is_grad_enabled())[0]  # type: ignore[no-untyped-call]
    return selected.squeeze(0)


class Reference:
    """Variable selection in torch, for any device, a chunk of variables at a time."""

    @staticmethod
    def forward(
        x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None, *, for_backward: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the weighted sum of the transformed variables (K, N, H), and a tensor saved for the backward or None.

        x, weights (K, V, N) · grns, the fields of VariableGRNs (K, V, ...) · mask of V * N rows, or None.
        """
        selected = torch.matmul(weights.transpose(1, 2), VariableGRNs(*grns).norm_bias)  # (K, N, H)
        for chunk in _chunks(x, selected.shape[-1]):
            part = VariableGRNs(*(p[:, chunk] for p in grns))
            normed = _transform(x[:, chunk], part, _factor(mask, x, chunk, selected.shape[-1])).normed
            normed.mul_(weights[:, chunk].unsqueeze(-1))
            for variable in range(normed.shape[1]):
                selected.addcmul_(normed[:, variable], part.norm_weight[:, variable].unsqueeze(1))
        return selected, None

    @staticmethod
    def backward(
        d: Tensor, x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None, kept: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Gradients of weights (K, V, N) and grns, from d (K, N, H), arguments and saved tensor of the forward."""
        grns = VariableGRNs(*grns)
        d_weights = torch.matmul(grns.norm_bias, d.transpose(1, 2))  # (K, V, N)
        d_norm_bias = torch.matmul(weights, d)
        d_grns = VariableGRNs(*(torch.empty_like(p) for p in grns))._replace(norm_bias=d_norm_bias)
        h = d.shape[-1]
        for chunk in _chunks(x, h):
            part = VariableGRNs(*(p[:, chunk] for p in grns))
            out = VariableGRNs(*(p[:, chunk] for p in d_grns))
            chunk_x, chunk_weights = x[:, chunk], weights[:, chunk].unsqueeze(-1)  # (K, G, N), (K, G, N, 1)
            factor = _factor(mask, x, chunk, h)
            slope, hidden, second, value, gate, normed, inverse_std = _transform(chunk_x, part, factor)
            one_and_x = torch.stack([torch.ones_like(chunk_x), chunk_x], dim=2)  # (K, G, 2, N)

            # The weighted sum and the layer norm
            d_normed = d.unsqueeze(1) * part.norm_weight.unsqueeze(2)  # (K, G, N, H), without its selection weight
            along = (d_normed * normed).sum(dim=-1, keepdim=True)  # (K, G, N, 1)
            d_weights[:, chunk] += along.squeeze(-1)
            out.norm_weight.copy_(torch.matmul(chunk_weights.transpose(2, 3), normed * d.unsqueeze(1)).squeeze(2))
            across = d_normed.mean(dim=-1, keepdim=True)
            d_skip = d_normed.sub_(across).addcmul_(normed, along, value=-1.0 / h).mul_(inverse_std * chunk_weights)
            d_embed = torch.matmul(one_and_x, d_skip)  # (K, G, 2, H)
            out.embed_bias.copy_(d_embed[:, :, 0])
            out.embed_weight.copy_(d_embed[:, :, 1])
            # The gate
            d_gated = torch.empty(*d_skip.shape[:-1], 2 * h, dtype=d.dtype, device=d.device)
            d_value, d_gate = d_gated[..., :h], d_gated[..., h:]
            torch.mul(d_skip, gate, out=d_value)
            torch.mul(d_value, value, out=d_gate)
            d_gate.addcmul_(d_gate, gate, value=-1.0)
            out.gate_weight.copy_(torch.matmul(second.transpose(2, 3), d_gated))
            out.gate_bias.copy_(torch.matmul(one_and_x[:, :, :1], d_gated).squeeze(2))
            # The second layer
            d_second = torch.matmul(d_gated, part.gate_weight.transpose(2, 3))
            if factor is not None:
                d_second.mul_(factor)
            out.second_weight.copy_(torch.matmul(hidden.transpose(2, 3), d_second))
            out.second_bias.copy_(torch.matmul(one_and_x[:, :, :1], d_second).squeeze(2))
            # The first layer
            d_first = torch.matmul(d_second, part.second_weight.transpose(2, 3)).mul_(slope)
            d_affine = torch.matmul(one_and_x, d_first)
            out.constant.copy_(d_affine[:, :, 0])
            out.slope.copy_(d_affine[:, :, 1])
        return d_weights, d_grns


class _Transformed(NamedTuple):
    """Intermediate values for the backward, (K, G, N, H) each except the last."""

    slope: Tensor  # derivative of the ELU
    hidden: Tensor  # after the ELU
    second: Tensor  # after the second layer and dropout
    value: Tensor
    gate: Tensor  # after the sigmoid
    normed: Tensor
    inverse_std: Tensor  # (K, G, N, 1)


def _transform(x: Tensor, grns: VariableGRNs, factor: Tensor | None) -> _Transformed:
    """GRNs of x (K, G, N) up to the layer norm, before its weight and bias; `factor` (K, G, N, H) is dropout's."""
    column = x.unsqueeze(-1)  # (K, G, N, 1)
    hidden = torch.addcmul(grns.constant.unsqueeze(2), column, grns.slope.unsqueeze(2))
    slope = hidden.clamp_max(0.0).exp_()  # ELU = max(a, 0) + exp(min(a, 0)) - 1
    hidden.clamp_min_(0.0).add_(slope).sub_(1.0)
    second = torch.matmul(hidden, grns.second_weight).add_(grns.second_bias.unsqueeze(2))
    if factor is not None:
        second.mul_(factor)
    gated = torch.matmul(second, grns.gate_weight).add_(grns.gate_bias.unsqueeze(2))
    h = hidden.shape[-1]
    value, gate = gated[..., :h], gated[..., h:].contiguous().sigmoid_()
    skip = torch.addcmul(grns.embed_bias.unsqueeze(2), column, grns.embed_weight.unsqueeze(2)).addcmul_(value, gate)
    normed = skip.sub_(skip.mean(dim=-1, keepdim=True))
    inverse_std = (torch.linalg.vecdot(normed, normed).div_(h).add_(NORM_EPSILON)).rsqrt_().unsqueeze(-1)
    normed.mul_(inverse_std)
    return _Transformed(slope, hidden, second, value, gate, normed, inverse_std)


def _factor(mask: Mask | None, x: Tensor, chunk: slice, h: int) -> Tensor | None:
    """Dropout factors (K, G, N, H) of the variables `chunk`; the mask has a row for each cell of each variable."""
    if mask is None:
        return None
    n_cells = x.shape[2]
    rows = range(chunk.start * n_cells, chunk.stop * n_cells)
    return mask.factor(rows, h, x.dtype).view(len(x), -1, n_cells, h)


def _chunks(x: Tensor, h: int) -> Iterator[slice]:
    """Slices of the variables of x (K, V, N), at width h."""
    k, v, n = x.shape
    limit = CHUNK_BYTES.get(x.device.type, CHUNK_BYTES["cpu"])
    size = max(1, limit // (k * n * h * x.element_size()))
    return (slice(start, min(start + size, v)) for start in range(0, v, size))


class _Select(Function):
    """Variable selection of a stack: every tensor has a leading K. `for_backward` is False in forecasts."""

    @staticmethod
    def forward(x: Tensor, weights: Tensor, *rest: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        *parameters, threshold, scale, generator, for_backward = rest
        mask = None if generator is None else Mask(random_seeds(len(x), generator), threshold, scale)
        chosen = implementation.of("select", Reference, x, parameters[0].shape[-1])
        selected, kept = chosen.forward(x, weights, parameters, mask, for_backward=for_backward)
        return selected, None if mask is None else mask.seeds, kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor | None, Tensor | None]) -> None:
        *tensors, _, for_backward = inputs
        if for_backward:
            ctx.mark_non_differentiable(*(each for each in output[1:] if each is not None))
            ctx.set_materialize_grads(False)  # no zeros as the gradient of the saved tensor
            ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, *parameters, threshold, scale, seeds, kept = ctx.saved_tensors
        mask = None if seeds is None else Mask(seeds, threshold, scale)
        chosen = implementation.of("select", Reference, x, parameters[0].shape[-1])
        d_weights, d_grns = chosen.backward(gradients[0], x, weights, parameters, mask, kept)
        return None, d_weights, *d_grns, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        selected, *others = _Select.apply(*replace_fold_dimension(info, in_dims, arguments))  # type: ignore[no-untyped-call]
        return (selected.unsqueeze(1), *others), (0, *(None if each is None else 0 for each in others))
