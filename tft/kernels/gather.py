"""The gather of cells into windows, with a backward that adds in a fixed order and is reproducible.

Shapes: K stacked folds (only under vmap), W windows, L look-back bars, N cells, D width of a cell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tft.kernels import implementation
from tft.kernels.vmap_rule import prepend_fold_dimension


def gather(values: Tensor, windows: Tensor) -> Tensor:
    """Rows of values (N, D) at windows (W, L), ascending along L, or at windows (W,) -> (W, L, D) or (W, D).

    The backward adds the gradients of a row in a fixed order.
    """
    two_dimensional = windows.unsqueeze(-1) if windows.dim() == 1 else windows
    rows: Tensor = _Gather.apply(values, two_dimensional)  # type: ignore[no-untyped-call]
    return rows.squeeze(-2) if windows.dim() == 1 else rows


def read_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values (N, D) at index (I, J), or of a stack (K, N, D) at (K, I, J) -> (I, J, D) or (K, I, J, D)."""
    flat = values.reshape(-1, values.shape[-1]).index_select(0, _flat(index, values.shape[-2]))
    return flat.view(*index.shape, values.shape[-1])


def add_rows(d: Tensor, windows: Tensor, n_cells: int, *, bar_major: bool = False) -> Tensor:
    """Sum over all windows of the gradients of each cell: see `Reference.add_rows`."""
    chosen = implementation.of("gather", Reference, d, windows, n_cells)
    return chosen.add_rows(d, windows, n_cells, bar_major=bar_major)


class Reference:
    """The backward of the gather in torch, for any device."""

    @staticmethod
    def add_rows(d: Tensor, windows: Tensor, n_cells: int, *, bar_major: bool = False) -> Tensor:
        """Sum of the rows of d that were read from each cell: (N, D), or (K, N, D) for stacks.

        d (W, L, D), or (L, W, D) if bar-major · windows (W, L) cells that were read, ascending along L; or all with a
        leading K.

        On a CPU index_add is reproducible, unlike the backward of `y[index]`, which adds atomically. On a GPU index_add
        is atomic too. The backward of an embedding sorts first, over 32-bit indices in half as many passes as over
        64-bit ones; still its last bits can differ from run to run where thousands of rows add into a few cells. The
        kernel of cuda/gather.py is what makes a step reproducible there.
        """
        index = _flat(windows.transpose(-1, -2) if bar_major else windows, n_cells)
        n_folds, width = d.shape[:-3].numel(), d.shape[-1]
        flat = d.reshape(-1, width)
        if d.is_cuda:
            added: Tensor = torch.ops.aten.embedding_dense_backward(flat, index.int(), n_folds * n_cells, -1, False)
        else:
            added = d.new_zeros(n_folds * n_cells, width).index_add_(0, index, flat)
        return added.view(*d.shape[:-3], n_cells, width)


def _flat(index: Tensor, n_rows: int) -> Tensor:
    """Flatten an index (I, J) of N rows, or an index (K, I, J) of a stack to one of its K * N rows."""
    if index.dim() == 3:
        index = index + (torch.arange(len(index), device=index.device) * n_rows)[:, None, None]
    return index.reshape(-1)


class _Gather(Function):
    """Gather of values (N, D) at windows (W, L), or of stacks of both."""

    @staticmethod
    def forward(values: Tensor, windows: Tensor) -> Tensor:
        return read_rows(values, windows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values, windows = inputs
        ctx.save_for_backward(windows)
        ctx.n_cells = values.shape[-2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (windows,) = ctx.saved_tensors
        return add_rows(gradients[0], windows, ctx.n_cells), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        return _Gather.apply(*prepend_fold_dimension(info, in_dims, tensors)), 0  # type: ignore[no-untyped-call]
