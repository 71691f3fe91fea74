"""The LSTM over many windows at once, as one operation with its own backward.

Shapes: K stacked folds (only under vmap), L look-back bars, W windows, H hidden, N cells.
Gates are laid out input | forget | output | candidate along the last dimension of size 4H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tft.kernels import implementation
from tft.kernels.affine import sum_over_rows
from tft.kernels.gather import add_rows, read_rows
from tft.kernels.vmap_rule import prepend_fold_dimension


def lstm(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, windows: Tensor | None = None) -> Tensor:
    """Hidden states (L, W, H) of an LSTM (Hochreiter & Schmidhuber 1997, with forget gate, Gers et al. 2000).

    gates: input projections with bias (L, W, 4H), or (N, 4H) for distinct cells, of which windows (W, L), ascending
    along L, are rows · weight (H, 4H) · hidden, cell (W, H) initial states.
    """
    for_backward = torch.is_grad_enabled()
    states: Tensor = _Scan.apply(gates, windows, weight, hidden, cell, for_backward)[0]  # type: ignore[no-untyped-call]
    return states


class Reference:
    """The LSTM in torch, for any device, as a loop of fused steps. Every tensor may have a leading K."""

    @staticmethod
    def forward(
        gates: Tensor, windows: Tensor | None, weight: Tensor, hidden: Tensor, cell: Tensor, *, for_backward: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Returns hidden states (L, W, H), and three tensors for the backward, which may be None if not `for_backward`.

        Those are the hidden states before each bar (L, W, H), which an implementation may leave out, cell states
        (L, W, H), and gates after their nonlinearities (L, W, 4H).

        gates (L, W, 4H), or (N, 4H) of which windows (W, L) are rows · weight (H, 4H) · hidden, cell (W, H) initial
        states.
        """
        if windows is not None:
            gates = read_rows(gates, windows.transpose(-1, -2))  # bar-major: the recurrence reads contiguous steps
        n_steps, width = gates.shape[-3], hidden.shape[-1]
        states = gates.new_empty(*gates.shape[:-1], width)
        cells = torch.empty_like(states)
        active = torch.empty_like(gates)
        for step in range(n_steps):
            now = active.select(-3, step)
            torch.add(gates.select(-3, step), torch.matmul(hidden, weight), out=now)
            now[..., : 3 * width].sigmoid_()
            now[..., 3 * width :].tanh_()
            admit, forget, emit, candidate = torch.split(now, width, dim=-1)
            cell = torch.addcmul(forget * cell, admit, candidate)
            hidden = emit * torch.tanh(cell)
            cells.select(-3, step).copy_(cell)
            states.select(-3, step).copy_(hidden)
        return states, None, cells, active

    @staticmethod
    def backward(
        d_states: Tensor,
        windows: Tensor | None,
        weight: Tensor,
        hidden: Tensor,
        cell: Tensor,
        states: Tensor,
        entering: Tensor | None,
        cells: Tensor,
        active: Tensor,
        n_rows: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of gates, weight, hidden and cell, from d_states (L, W, H), arguments and results of the forward.

        The gradient of the gates is (L, W, 4H), one for each bar of each window. With windows, an implementation may
        also return their sum over the windows, (N, 4H) for the n_rows = N distinct cells.
        """
        d_gates, d_hidden, d_cell = _backward_through_time(d_states, weight, hidden, cell, cells, active)
        n_steps = states.shape[-3]
        before = torch.cat([hidden.unsqueeze(-3), states.narrow(-3, 0, n_steps - 1)], dim=-3)
        flat = (tensor.reshape(-1, n_steps * tensor.shape[-2], tensor.shape[-1]) for tensor in (before, d_gates))
        return d_gates, sum_over_rows(*flat).view(weight.shape), d_hidden, d_cell


def _backward_through_time(
    d_states: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, cells: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gates (L, W, 4H) and of the initial states (W, H), computed from the last bar to the first."""
    n_steps, width = cells.shape[-3], cells.shape[-1]
    d_gates = torch.empty_like(active)
    d_hidden = torch.zeros_like(hidden)
    d_cell = torch.zeros_like(cell)
    transposed = weight.transpose(-1, -2)
    for step in reversed(range(n_steps)):
        admit, forget, emit, candidate = torch.split(active.select(-3, step), width, dim=-1)
        squashed = torch.tanh(cells.select(-3, step))
        before = cells.select(-3, step - 1) if step else cell
        d_hidden = d_hidden + d_states.select(-3, step)
        d_emitted = d_hidden * emit
        d_cell = d_cell + d_emitted - d_emitted * squashed * squashed
        out = d_gates.select(-3, step)
        torch.mul(d_cell * candidate, admit - admit * admit, out=out[..., :width])
        torch.mul(d_cell * before, forget - forget * forget, out=out[..., width : 2 * width])
        torch.mul(d_emitted * squashed, 1.0 - emit, out=out[..., 2 * width : 3 * width])
        torch.mul(d_cell * admit, 1.0 - candidate * candidate, out=out[..., 3 * width :])
        d_hidden = torch.matmul(out, transposed)
        d_cell = d_cell * forget
    return d_gates, d_hidden, d_cell


class _Scan(Function):
    """LSTM of gates (L, W, 4H) or (N, 4H), or of stacks (K, L, W, 4H) or (K, N, 4H).

    `for_backward` is False in forecasts, where nothing has to be saved.
    """

    @staticmethod
    def forward(
        gates: Tensor, windows: Tensor | None, weight: Tensor, hidden: Tensor, cell: Tensor, for_backward: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        chosen = implementation.of("scan", Reference, gates, hidden.shape[-1])
        return chosen.forward(gates, windows, weight, hidden, cell, for_backward=for_backward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        gates, windows, weight, hidden, cell, for_backward = inputs
        if for_backward:
            ctx.mark_non_differentiable(*(tensor for tensor in output[1:] if tensor is not None))
            ctx.set_materialize_grads(False)  # no zeros as gradients of the tensors saved for the backward
            ctx.save_for_backward(windows, weight, hidden, cell, *output)
            ctx.n_rows = gates.shape[-2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight, hidden, cell, states, entering, cells, active = ctx.saved_tensors
        chosen = implementation.of("scan", Reference, states, states.shape[-1])
        d_gates, d_weight, d_hidden, d_cell = chosen.backward(
            gradients[0], windows, weight, hidden, cell, states, entering, cells, active, ctx.n_rows
        )
        if windows is not None and d_gates.dim() == states.dim():
            d_gates = add_rows(d_gates, windows, ctx.n_rows, bar_major=True)
        return d_gates, None, d_weight, d_hidden, d_cell, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, tuple[int | None, ...]]:
        output = _Scan.apply(*prepend_fold_dimension(info, in_dims, arguments))  # type: ignore[no-untyped-call]
        return output, tuple(None if each is None else 0 for each in output)
