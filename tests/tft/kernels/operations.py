"""Each operation with inputs to try its implementations on, and how they are called.

Shapes: K folds, L bars, W windows, N cells, V variables, R rows, H, D or S width, P parameters; K leads every tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from tft.kernels import adam, dropout, gated_norm, gather, scan, select
from tft.kernels.dropout_mask import Dropout, Mask, random_seeds

Shape = tuple[Any, ...]


class Operation(NamedTuple):
    reference: Any
    shapes: list[Shape]
    inputs: Callable[..., list[Tensor]]
    """Shape -> tensors on the CPU, float32 but for whole numbers and dropout's rates."""
    run: Callable[..., list[Tensor]]
    """Implementation and inputs -> values and gradients."""
    functions: tuple[str, ...] = ("forward", "backward")


def normal(draws: Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=draws)


# ---------------------------------------------------------------- scan

# K, L, W, H: one tile of columns, several, padded or not, the weight kept on the chip or not, more windows than a block
SCAN_SHAPES: list[Shape] = [(1, 1, 1, 5), (1, 9, 3, 8), (3, 9, 1, 8), (3, 9, 1, 50), (2, 3, 17, 20), (3, 9, 17, 48)]
SCAN_SHAPES += [(1, 9, 130, 48), (3, 1, 3, 48), (1, 2, 40, 48), (1, 3, 17, 64), (2, 3, 17, 100), (1, 2, 40, 160)]
SCAN_SHAPES += [(1, 3, 5, 160), (1, 2, 3, 256), (1, 3, 2, 2)]


def scan_inputs(k: int, n_steps: int, w: int, h: int, spread: float = 2.0) -> list[Tensor]:
    """d_states (K, L, W, H), gates (K, L, W, 4H), weight (K, H, 4H), hidden and cell (K, W, H)"""
    draws = Generator().manual_seed(h)
    d_states, gates = normal(draws, k, n_steps, w, h), normal(draws, k, n_steps, w, 4 * h, scale=spread)
    weight = normal(draws, k, h, 4 * h, scale=h**-0.5)
    return [d_states, gates, weight, normal(draws, k, w, h), normal(draws, k, w, h)]


def run_scan(
    own: Any,
    d_states: Tensor,
    gates: Tensor,
    weight: Tensor,
    hidden: Tensor,
    cell: Tensor,
    windows: Tensor | None = None,
) -> list[Tensor]:
    states, *kept = own.forward(gates, windows, weight, hidden, cell, for_backward=True)
    n_rows = gates.shape[-2]
    d_gates, *others = own.backward(d_states, windows, weight, hidden, cell, states, *kept, n_rows)
    if windows is not None and d_gates.dim() == states.dim():
        d_gates = gather.Reference.add_rows(d_gates, windows, n_rows, bar_major=True)
    return [states, d_gates, *others]


def windows_of(n_folds: int, n_windows: int, n_bars: int, n_cells: int) -> Tensor:
    """(K, W, L) cells, ascending along L."""
    draws = Generator().manual_seed(n_cells)
    drawn = [torch.randperm(n_cells, generator=draws)[:n_bars].sort().values for _ in range(n_folds * n_windows)]
    return torch.stack(drawn).view(n_folds, n_windows, n_bars)


# ---------------------------------------------------------------- variable selection

# K, V, N, H, dropout: one block of cells and several, whole or not; widths padded or not
SELECT_SHAPES: list[Shape] = [
    (*shape, rate)
    for shape in [
        (1, 1, 1, 5),
        (1, 3, 1, 5),
        (3, 2, 7, 8),
        (2, 3, 70, 8),
        (1, 5, 64, 16),
        (3, 2, 130, 20),
        (1, 3, 130, 48),
        (2, 7, 150, 48),
        (3, 2, 130, 50),
        (1, 1, 65, 64),
        (1, 2, 65, 64),
        (1, 2, 7, 160),
        (1, 2, 3, 2),
    ]
    for rate in (0.0, 0.3)
]


def select_inputs(k: int, v: int, n: int, h: int, rate: float) -> list[Tensor]:
    """d_selected (K, N, H), x and weights (K, V, N), the parameters of VariableGRNs, and the mask's (K,) at a rate."""
    draws = Generator().manual_seed(h + n)
    weights = torch.softmax(normal(draws, k, v, n), dim=1) * (torch.rand(k, v, n, generator=draws) > 0.2)
    matrices = [
        normal(draws, k, v, h, h, scale=h**-0.5),
        normal(draws, k, v, h),
        normal(draws, k, v, h, 2 * h, scale=h**-0.5),
    ]
    vectors = [normal(draws, k, v, h) for _ in range(6)]
    grns = [*vectors[:2], *matrices, normal(draws, k, v, 2 * h), *vectors[2:]]
    d, x = normal(draws, k, n, h), normal(draws, k, v, n)
    mask = mask_of([rate / (1 + fold) for fold in range(k)], draws) if rate else ()
    return [d, x, weights, *grns, *mask]


def mask_of(rates: list[float], draws: Generator) -> Mask:
    return Mask(random_seeds(len(rates), draws), *Dropout.with_rate(draws, rates)[1:])


def run_select(own: Any, d: Tensor, x: Tensor, weights: Tensor, *rest: Tensor) -> list[Tensor]:
    grns, mask = rest[:10], Mask(*rest[10:]) if rest[10:] else None
    selected, kept = own.forward(x, weights, grns, mask, for_backward=True)
    d_weights, d_grns = own.backward(d, x, weights, grns, mask, kept)
    return [selected, d_weights, *d_grns]


# ---------------------------------------------------------------- gated norm

# K, R, D: a row alone, parts of one and of several blocks, widths below and above a warp or a vector
GATED_NORM_SHAPES: list[Shape] = [(1, 1, 3), (3, 4, 5), (2, 131, 48), (16, 70, 73), (1, 1100, 16), (2, 9, 32)]
GATED_NORM_SHAPES += [(1, 20, 160), (2, 3, 512), (16, 2288, 73), (16, 1008, 48), (16, 4, 48)]


def gated_norm_inputs(k: int, n_rows: int, width: int) -> list[Tensor]:
    """d (K, R, D), skip (K, R, D), gated (K, R, 2D), weight and bias (K, D)"""
    draws = Generator().manual_seed(width + n_rows)
    row, vector = (k, n_rows, width), (k, width)
    return [normal(draws, *shape, scale=2.0) for shape in (row, row, (k, n_rows, 2 * width), vector, vector)]


def run_gated_norm(own: Any, d: Tensor, skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [own.forward(skip, gated, weight, bias), *own.backward(d, skip, gated, weight)]


# ---------------------------------------------------------------- gather, dropout, Adam

# K, W, L, N, D
GATHER_SHAPES: list[Shape] = [(1, 1, 1, 1, 1), (2, 40, 7, 50, 20), (3, 272, 63, 2288, 192)]
GATHER_SHAPES += [(2, 2288, 1, 4, 48), (1, 33, 5, 9, 300)]


def gather_inputs(k: int, n_windows: int, n_bars: int, n_cells: int, width: int) -> list[Tensor]:
    """d (K, W, L, D), the values that were gathered (K, N, D), windows (K, W, L); a cell may be in no window"""
    draws = Generator().manual_seed(width)
    d, values = normal(draws, k, n_windows, n_bars, width), normal(draws, k, n_cells, width)
    return [d, values, windows_of(k, n_windows, n_bars, n_cells)]


def run_gather(own: Any, d: Tensor, values: Tensor, windows: Tensor) -> list[Tensor]:
    """With windows first and with bars first."""
    both = ((d, False), (d.transpose(1, 2), True))
    return [own.add_rows(rows, windows, values.shape[1], bar_major=bar_major) for rows, bar_major in both]


DROPOUT_SHAPES: list[Shape] = [(3, 1), (3, 7), (3, 1024), (3, 10_000), (3, 10_005), (3, 2640)]


def dropout_inputs(k: int, n_elements: int) -> list[Tensor]:
    """x (K, N) and the mask's (K,), at rates from nothing to nearly all"""
    draws = Generator().manual_seed(n_elements)
    return [normal(draws, k, n_elements), *mask_of([0.0, 0.3, 0.9], draws)]


def run_dropout(own: Any, x: Tensor, *mask: Tensor) -> list[Tensor]:
    return [own.drop(x, Mask(*mask))]


# K, P: less than a block, several and a part, more than torch updates at once
ADAM_SHAPES: list[Shape] = [(3, 1), (3, 77), (3, 2 * 1024 + 77), (3, 2 * adam.CPU_CHUNK + 13)]


def adam_inputs(k: int, n_parameters: int) -> list[Tensor]:
    """Weights and their average (K, P), gradients of four steps (K, 4, P), some not finite, and what `update` takes of
    folds (K, 4, 7).

    The last fold is updated every second step.
    """
    draws = Generator().manual_seed(0)
    weights, averaged = normal(draws, k, n_parameters), normal(draws, k, n_parameters)
    gradients = normal(draws, k, 4, n_parameters)
    gradients[0, 2, -1], gradients[1, 2, 0], gradients[2, 2] = float("nan"), float("inf"), -float("inf")
    updated = torch.ones(k, 4)
    updated[-1, ::2] = 0.0
    count = updated.cumsum(dim=1).clamp_min(1.0)
    lr, clip = torch.tensor([[0.01], [0.002], [0.1]]), torch.tensor([[1.0], [0.3], [0.01]])
    rate, correction = lr * updated / (1.0 - adam.BETA_1**count), (1.0 - adam.BETA_2**count) ** -0.5
    moments = (1.0 - adam.BETA_1) * updated, (1.0 - adam.BETA_2) * updated
    new = updated * torch.tensor([0.9, 0.7, 0.4, 0.01])
    of_folds = [rate, correction, clip.expand(k, 4), *moments, lr * updated, new]
    return [weights, averaged, gradients, torch.stack(of_folds, dim=-1)]


def run_adam(own: Any, weights: Tensor, averaged: Tensor, gradients: Tensor, of_folds: Tensor) -> list[Tensor]:
    """Weights, their average and the moments after four updates, with decay and without."""
    found = []
    for decay in (torch.linspace(0.0, 4.0, weights.shape[1]).to(weights), None):
        state = [t.clone(memory_format=torch.contiguous_format) for t in (weights, averaged)]
        mean, square = torch.zeros_like(state[0]), torch.zeros_like(state[0])
        for step in range(4):
            own.update(*state, gradients[:, step], mean, square, decay, of_folds[:, step])
        found += [*state, mean, square]
    return found


OPERATIONS: dict[str, Operation] = {
    "adam": Operation(adam.Reference, ADAM_SHAPES, adam_inputs, run_adam, ("update",)),
    "dropout": Operation(dropout.Reference, DROPOUT_SHAPES, dropout_inputs, run_dropout, ("drop",)),
    "gated_norm": Operation(gated_norm.Reference, GATED_NORM_SHAPES, gated_norm_inputs, run_gated_norm),
    "gather": Operation(gather.Reference, GATHER_SHAPES, gather_inputs, run_gather, ("add_rows",)),
    "scan": Operation(scan.Reference, SCAN_SHAPES, scan_inputs, run_scan),
    "select": Operation(select.Reference, SELECT_SHAPES, select_inputs, run_select),
}
