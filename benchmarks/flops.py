"""Floating point operations of one optimiser step of one fold, counted from the shapes of its matrix products.

    TFT_NATIVE=0 python -m benchmarks.flops    # the reference run's step, beside what torch counts in one forward pass

Without native kernels, which torch cannot see into.

A product of (m, k) and (k, n) counts 2*m*k*n; elementwise work, softmax, norms, optimiser and loss count nothing. The
backward counts twice the forward. The formulas say what the model of `tft/model.py` has to compute, each distinct cell
once, whatever an implementation does in fact: dividing them by a measured time compares implementations.

Shapes: N distinct cells, V variables, H hidden width, B targets, C contexts per target, W = B*(1+C) windows, L
look-back bars, M attention heads of width D.
"""

from __future__ import annotations

import click

from tft.direct_term import PAIR_RANK, scales
from tft.model import ModelConfig


def step_flops(model: ModelConfig, *, n_variables: int, n_cells: int, batch_size: int) -> float:
    """Operations of one step, forward and backward; the batch's windows have `n_cells` distinct cells."""
    return 3.0 * forward_flops(model, n_variables=n_variables, n_cells=n_cells, batch_size=batch_size)


def forward_flops(model: ModelConfig, *, n_variables: int, n_cells: int, batch_size: int) -> float:
    """Operations of one forward pass, without static encoder (one row per instrument) and head (a few columns)."""
    n, v, h, b = float(n_cells), n_variables, model.d_hidden, batch_size
    cells = n * _cell(v, h, len(scales(model.seq_len)))
    return cells + _folding(v, h) + _recurrence(model, b) + _reader(model, b)


def _cell(v: int, h: int, n_scales: int) -> float:
    """Operations per cell: a GRN for every variable, the selection GRN over all, the LSTM's input projection."""
    per_variable = 2 * h * h + 2 * h * 2 * h  # second layer and gate; the first layer is a rank-1 map of one number
    selection = 2 * (2 * v) * h + 2 * h * h + 2 * h * h + 2 * h * 2 * v + 2 * (2 * v) * v  # eq 6, and its skip
    summed = 2 * v * h + 2 * v * (n_scales + 2 * PAIR_RANK)  # eq 8's weighted sum, and the direct term
    return v * per_variable + selection + summed + 2 * h * 4 * h


def _folding(v: int, h: int) -> float:
    """Operations, once per step, that compose maps of the embeddings to maps of the variables' values and presences."""
    return 2 * (2 * v * h * h) + 2 * (2 * v * h * v) + 2 * (2 * v * h * h)  # selection, its skip, the first layers


def _recurrence(model: ModelConfig, b: int) -> float:
    h, n_rows = model.d_hidden, b * (1 + model.n_context) * model.seq_len  # rows of W windows
    return n_rows * 2.0 * h * 4 * h * (2 * model.lstm_layers - 1)  # and the projections between layers


def _reader(model: ModelConfig, b: int) -> float:
    h, c, bars = model.d_hidden, model.n_context, b * model.seq_len
    m = model.n_heads
    d = max(1, h // m)
    gate = 2 * h * 2 * h
    grn = 2 * h * h + 2 * h * h + gate
    flops = bars * (gate + grn) + b * 2.0 * h * h  # after the LSTM, enrichment and its static context
    if c:
        flops += b * c * (gate + 2 * h * m * d + 2 * h * d)  # memory, keys, values
        flops += bars * (2 * h * m * d + 2 * m * d * c + 2 * c * d + 2 * d * h + gate)  # every bar asks
    flops += bars * (2 * h * m * d + 2 * h * d + 2 * m * d + 2 * d)  # keys, values, scores, read
    flops += b * (2 * h * m * d + 2 * d * h)  # the target bar asks
    return flops + b * (gate + grn + gate)  # after attention, feed-forward, after it


def torch_forward_flops(model: ModelConfig, *, n_variables: int, n_cells: int, batch_size: int) -> float:
    """Operations that torch counts in one forward pass, with the head and the static encoder of one instrument."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tft.model import TemporalFusionTransformer

    network = TemporalFusionTransformer(model, n_variables=n_variables, n_assets=1, loss_mode="joint_mle")
    windows = torch.randint(n_cells, (batch_size * (1 + model.n_context), model.seq_len))
    inputs = torch.randn(n_cells, n_variables), torch.ones(n_cells, n_variables), torch.zeros(n_cells, dtype=torch.long)
    filled = torch.ones(batch_size, model.n_context, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs, windows, filled)
    return float(counter.get_total_flops())


@click.command()
@click.option("--features", default=73, show_default=True)
@click.option("--cells", default=2500, show_default=True, help="Distinct cells of a batch.")
@click.option("--d-hidden", default=48, show_default=True)
@click.option("--seq-len", default=63, show_default=True)
@click.option("--n-context", default=16, show_default=True)
@click.option("--lstm-layers", default=1, show_default=True)
def main(features: int, cells: int, d_hidden: int, seq_len: int, n_context: int, lstm_layers: int) -> None:
    model = ModelConfig(d_hidden=d_hidden, seq_len=seq_len, n_context=n_context, lstm_layers=lstm_layers)
    size = {"n_variables": features, "n_cells": cells, "batch_size": 16}
    forward, counted = forward_flops(model, **size), torch_forward_flops(model, **size)
    print(
        f"forward {forward / 1e9:.4f} GFLOP, torch counts {counted / 1e9:.4f} ({forward / counted - 1.0:+.3%}); "
        f"a step {step_flops(model, **size) / 1e9:.3f} GFLOP"
    )


if __name__ == "__main__":
    main()
