"""The LSTM over many windows at once, and the gather that feeds it: each with its own backward and vmap rule.

Both are written here for any device, and done by native.cpp on a CPU and by CUDA kernels on a GPU where they can run.

Shapes: K stacked folds (only under vmap), L look-back bars, W windows, H hidden, N cells, D width of a cell.
Gates are laid out input | forget | output | candidate along the last dimension of size 4H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tft.kernels.affine import sum_over_rows
from tft.kernels.cpu import native
from tft.kernels.cuda import gather as gather_gpu
from tft.kernels.cuda import scan as scan_gpu
from tft.kernels.stack import at_front


def lstm(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, windows: Tensor | None = None) -> Tensor:
    """Hidden states (L, W, H) of an LSTM whose input projections are already computed.

    gates (L, W, 4H) input projection with bias, or (N, 4H) one of each cell, and windows (W, L) the cells that each
    reads, ascending · weight (H, 4H) · hidden, cell (W, H) initial states
    (Hochreiter & Schmidhuber 1997 with forget gate, Gers et al. 2000). Time is a loop of fused steps; the weight
    gradient is a single matrix product over all steps.
    """
    keep = torch.is_grad_enabled()
    states: Tensor = _Scan.apply(gates, windows, weight, hidden, cell, keep)[0]  # type: ignore[no-untyped-call]
    return states


def gather(values: Tensor, windows: Tensor) -> Tensor:
    """Cells of values (N, D) at windows (W, L), ascending along L, or (W,) -> (W, L, D) or (W, D).

    Its backward adds in a fixed order.
    """
    of_one_bar = windows.unsqueeze(-1) if windows.dim() == 1 else windows
    rows: Tensor = _Gather.apply(values, of_one_bar)  # type: ignore[no-untyped-call]
    return rows.squeeze(-2) if windows.dim() == 1 else rows


class _Scan(Function):
    """Works on (L, W, 4H) or (N, 4H), and on stacks (K, L, W, 4H) or (K, N, 4H) alike.

    Without `keep` there will be no backward, and what only that needs may be left out.
    """

    @staticmethod
    def forward(
        gates: Tensor, windows: Tensor | None, weight: Tensor, hidden: Tensor, cell: Tensor, keep: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        if scan_gpu.takes(gates, hidden.shape[-1]):
            found = scan_gpu.scan_forward(
                *_stack(gates, windows, weight, hidden, cell, like=hidden, single=2), keep=keep
            )
            states, entering, cells, active = (None if one is None else _as(hidden, one, single=2) for one in found)
            assert states is not None
            return states, entering, cells, active
        if gates.device.type == "cpu" and (kernels := native.kernels()):
            states, cells, active = kernels.scan_forward(gates, windows, weight, hidden, cell, keep=keep)
            return states, None, cells, active
        if windows is not None:
            gates = _rows(gates, windows.transpose(-1, -2))  # bar-major: the recurrence reads contiguous steps
        states, cells, active = _scan_forward(gates, weight, hidden, cell)
        return states, None, cells, active

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        gates, windows, weight, hidden, cell, keep = inputs
        if keep:
            ctx.mark_non_differentiable(*(tensor for tensor in output[1:] if tensor is not None))
            ctx.set_materialize_grads(False)  # zeros as large as the gates, for nothing
            ctx.save_for_backward(windows, weight, hidden, cell, *output)
            ctx.n_rows = gates.shape[-2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight, first_hidden, first_cell, states, entering, cells, active = ctx.saved_tensors
        d_states, n_steps = gradients[0], states.shape[-3]
        if active.device.type == "cpu" and (kernels := native.kernels()):
            saved = (windows, weight, first_hidden, first_cell, states, cells, active)
            d_gates, d_weight, d_hidden, d_cell = kernels.scan_backward(d_states, *saved, ctx.n_rows)
            return d_gates, None, d_weight, d_hidden, d_cell, None
        if scan_gpu.takes(active, states.shape[-1]):
            on_gpu = _stack(d_states, weight, first_cell, cells, active, like=active, single=3)
            d_gates, d_hidden, d_cell = (_as(active, d, single=3) for d in scan_gpu.scan_backward(*on_gpu))
        else:
            d_gates, d_hidden, d_cell = _scan_backward(d_states, weight, first_hidden, first_cell, cells, active)
            entering = torch.cat([first_hidden.unsqueeze(-3), states.narrow(-3, 0, n_steps - 1)], dim=-3)
        flat = (tensor.reshape(-1, n_steps * tensor.shape[-2], tensor.shape[-1]) for tensor in (entering, d_gates))
        d_weight = sum_over_rows(*flat).view(weight.shape)
        if windows is not None:
            d_gates = _add_rows(d_gates, windows, ctx.n_rows, bar_major=True)
        return d_gates, None, d_weight, d_hidden, d_cell, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, tuple[int | None, ...]]:
        output = _Scan.apply(*at_front(info, in_dims, arguments))  # type: ignore[no-untyped-call]
        return output, tuple(None if each is None else 0 for each in output)


def _stack(*tensors: Tensor | None, like: Tensor, single: int) -> tuple[Any, ...]:
    """With a leading K, which is 1 where `like` has no more dimensions than that of a single fold."""
    if like.dim() > single:
        return tensors
    return tuple(None if tensor is None else tensor.unsqueeze(0) for tensor in tensors)


def _as(like: Tensor, tensor: Tensor, single: int) -> Tensor:
    return tensor if like.dim() > single else tensor.squeeze(0)


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
    d_states: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, cells: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gates and of the initial states."""
    n_steps, width = cells.shape[-3], cells.shape[-1]
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
    """Works on values (N, D) and windows (W, L), and on stacks of both."""

    @staticmethod
    def forward(values: Tensor, windows: Tensor) -> Tensor:
        return _rows(values, windows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values, windows = inputs
        ctx.save_for_backward(windows)
        ctx.n_rows = values.shape[-2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (windows,) = ctx.saved_tensors
        return _add_rows(gradients[0], windows, ctx.n_rows), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        return _Gather.apply(*at_front(info, in_dims, tensors)), 0  # type: ignore[no-untyped-call]


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values (N, D) or (K, N, D) at index (I, J) or (K, I, J) -> (I, J, D) or (K, I, J, D)."""
    flat = values.reshape(-1, values.shape[-1]).index_select(0, _flat(index, values.shape[-2]))
    return flat.view(*index.shape, values.shape[-1])


def _flat(index: Tensor, n_rows: int) -> Tensor:
    """Of a stack, counted through all its folds."""
    if index.dim() == 3:
        index = index + (torch.arange(len(index), device=index.device) * n_rows)[:, None, None]
    return index.reshape(-1)


def _add_rows(d: Tensor, windows: Tensor, n_rows: int, *, bar_major: bool = False) -> Tensor:
    """The sum (N, D) of the rows of d (W, L, D), bar-major (L, W, D), that were read from each cell; or of stacks.

    On a CPU `y[index]` adds atomically in its backward and is not reproducible, where index_add is. On a GPU index_add
    is atomic in turn, and the backward of an embedding, which sorts, is reproducible: 32 bits of an index take half the
    passes of 64.
    """
    if gather_gpu.takes(d, n_rows, windows.shape[-2]):
        rows, of_windows = _stack(d, windows, like=d, single=3)
        return _as(d, gather_gpu.add_rows(rows, of_windows, n_rows, bar_major=bar_major), single=3)
    index = _flat(windows.transpose(-1, -2) if bar_major else windows, n_rows)
    n_folds, width = d.shape[:-3].numel(), d.shape[-1]
    flat = d.reshape(-1, width)
    if d.is_cuda:
        added: Tensor = torch.ops.aten.embedding_dense_backward(flat, index.int(), n_folds * n_rows, -1, False)
    else:
        added = d.new_zeros(n_folds * n_rows, width).index_add_(0, index, flat)
    return added.view(*d.shape[:-3], n_rows, width)
