"""The LSTM over many windows at once, and the gather that feeds it: each with its own backward and vmap rule.

The LSTM is written here for any device, and done by native.cpp on a CPU and scan_gpu.py on a GPU where they can run.

Shapes: K stacked folds (only under vmap), L look-back bars, W windows, H hidden, N cells, D width of a cell.
Gates are laid out input | forget | output | candidate along the last dimension of size 4H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tft import native, scan_gpu
from tft.affine import sum_over_rows
from tft.stack import at_front


def lstm(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    """Hidden states (L, W, H) of an LSTM whose input projections are already computed.

    gates (L, W, 4H) input projection with bias · weight (H, 4H) · hidden, cell (W, H) initial states
    (Hochreiter & Schmidhuber 1997 with forget gate, Gers et al. 2000). Time is a loop of fused steps; the weight
    gradient is a single matrix product over all steps.
    """
    states: Tensor = _Scan.apply(gates, weight, hidden, cell, torch.is_grad_enabled())[0]  # type: ignore[no-untyped-call]
    return states


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values (N, D) at index (M,) -> (M, D), with a backward that adds in a fixed order."""
    rows: Tensor = _Gather.apply(values, index)  # type: ignore[no-untyped-call]
    return rows


class _Scan(Function):
    """Works on (L, W, 4H) and on stacks (K, L, W, 4H) alike.

    Without `keep` there will be no backward, and what only that needs may be left out.
    """

    @staticmethod
    def forward(
        gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, keep: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if gates.device.type == "cpu" and (kernels := native.kernels()):
            return kernels.scan_forward(gates, weight, hidden, cell, keep=keep)
        if scan_gpu.takes(gates):
            states, cells, active = scan_gpu.scan_forward(*_stack(gates, weight, hidden, cell, like=gates))
            return _as(gates, states), _as(gates, cells), _as(gates, active)
        return _scan_forward(gates, weight, hidden, cell)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor | None, Tensor | None]) -> None:
        _, weight, hidden, cell, keep = inputs
        states, cells, active = output
        if keep:
            ctx.mark_non_differentiable(cells, active)
            ctx.set_materialize_grads(False)  # zeros as large as the gates, for nothing
            ctx.save_for_backward(weight, hidden, cell, states, cells, active)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        weight, first_hidden, first_cell, states, cells, active = ctx.saved_tensors
        saved = (gradients[0], weight, first_hidden, first_cell, states, cells, active)
        if active.device.type == "cpu" and (kernels := native.kernels()):
            return *kernels.scan_backward(*saved), None
        if scan_gpu.takes(active):
            d_gates, d_hidden, d_cell = scan_gpu.scan_backward(*_stack(*saved, like=active))
            d_gates, d_hidden, d_cell = _as(active, d_gates), _as(active, d_hidden), _as(active, d_cell)
        else:
            d_gates, d_hidden, d_cell = _scan_backward(*saved)
        n_steps = states.shape[-3]
        entering = torch.cat([first_hidden.unsqueeze(-3), states.narrow(-3, 0, n_steps - 1)], dim=-3)
        d_weight = sum_over_rows(
            *(tensor.reshape(-1, n_steps * tensor.shape[-2], tensor.shape[-1]) for tensor in (entering, d_gates))
        )
        return d_gates, d_weight.view(weight.shape), d_hidden, d_cell, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, tuple[int | None, ...]]:
        output = _Scan.apply(*at_front(info, in_dims, arguments))  # type: ignore[no-untyped-call]
        return output, tuple(None if each is None else 0 for each in output)


def _stack(*tensors: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """With a leading K, which is 1 where `like` is that of a single fold."""
    return tensors if like.dim() == 4 else tuple(tensor.unsqueeze(0) for tensor in tensors)


def _as(like: Tensor, tensor: Tensor) -> Tensor:
    return tensor if like.dim() == 4 else tensor.squeeze(0)


def _scan_forward(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States and cells (L, W, H), and the gates after their nonlinearities (L, W, 4H)."""
    n_steps, width = gates.shape[-3], hidden.shape[-1]
    states = gates.new_empty(*gates.shape[:-1], width)
    cells = torch.empty_like(states)
    active = torch.empty_like(gates)
    for step in range(n_steps):
        now = active.select(-3, step)
        torch.add(gates.select(-3, step), torch.matmul(hidden, weight), out=now)
        now[..., : 3 * width].sigmoid_()
        now[..., 3 * width :].tanh_()
        keep, forget, emit, candidate = torch.split(now, width, dim=-1)
        cell = torch.addcmul(forget * cell, keep, candidate)
        hidden = emit * torch.tanh(cell)
        cells.select(-3, step).copy_(cell)
        states.select(-3, step).copy_(hidden)
    return states, cells, active


def _scan_backward(
    d_states: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, states: Tensor, cells: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gates and of the initial states."""
    n_steps, width = states.shape[-3], states.shape[-1]
    d_gates = torch.empty_like(active)
    d_hidden = torch.zeros_like(hidden)
    d_cell = torch.zeros_like(cell)
    transposed = weight.transpose(-1, -2)
    for step in reversed(range(n_steps)):
        keep, forget, emit, candidate = torch.split(active.select(-3, step), width, dim=-1)
        squashed = torch.tanh(cells.select(-3, step))
        before = cells.select(-3, step - 1) if step else cell
        d_hidden = d_hidden + d_states.select(-3, step)
        d_emitted = d_hidden * emit
        d_cell = d_cell + d_emitted - d_emitted * squashed * squashed
        out = d_gates.select(-3, step)
        torch.mul(d_cell * candidate, keep - keep * keep, out=out[..., :width])
        torch.mul(d_cell * before, forget - forget * forget, out=out[..., width : 2 * width])
        torch.mul(d_emitted * squashed, 1.0 - emit, out=out[..., 2 * width : 3 * width])
        torch.mul(d_cell * keep, 1.0 - candidate * candidate, out=out[..., 3 * width :])
        d_hidden = torch.matmul(out, transposed)
        d_cell = d_cell * forget
    return d_gates, d_hidden, d_cell


class _Gather(Function):
    """`y[index]` adds atomically in its backward and is not reproducible on a CPU; index_add there is.

    On a GPU index_add is atomic in turn, and the backward of an embedding, which sorts, is reproducible: 32 bits of an
    index take half the passes of 64.
    """

    @staticmethod
    def forward(values: Tensor, index: Tensor) -> Tensor:
        return values.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values, index = inputs
        ctx.save_for_backward(index)
        ctx.n_rows = values.shape[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        (gradient,) = gradients
        if gradient.is_cuda:
            return torch.ops.aten.embedding_dense_backward(gradient, index.int(), ctx.n_rows, -1, False), None
        return gradient.new_zeros(ctx.n_rows, gradient.shape[-1]).index_add_(0, index, gradient), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        values, index = at_front(info, in_dims, tensors)  # (K, N, D), (K, M)
        first_row = torch.arange(info.batch_size, device=index.device) * values.shape[1]
        rows = gather(values.flatten(0, 1), (index + first_row[:, None]).flatten())
        return rows.view(info.batch_size, index.shape[1], values.shape[2]), 0
