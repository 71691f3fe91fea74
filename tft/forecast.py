"""A model and a panel to predictive distributions, in fixed blocks.

Every matrix product has the same shape whether one decision is asked for or a whole backtest, so that a live decision
equals the backtest's to the last bit on the same machine.

Shapes: K stacked folds (or seeds), M targets, V variables, D parameters of the distribution, N distinct cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.model import Cells, Output, TemporalFusionTransformer, stacked
from tft.windows import EMPTY, DevicePanel, WindowSpace, distinct, key, window_cells, window_ends

CELL_BLOCK = 512
"""Cells encoded at once."""
TARGET_BLOCK = 64
"""Targets forecast at once."""
MAX_THREADS = 2
"""On a CPU. torch gives each thread an equal share of the elements and computes the last few of a share, where a whole
vector does not fit, by a scalar routine that rounds differently (sigmoid, elu, softplus). A block is a multiple of 64
elements, which one or two shares cut where a vector ends and three need not: a row would depend on its place."""


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Of M targets, in units of sigma_t * sqrt(horizon)."""

    position: NDArray[np.float64]
    """(M,) raw, in [-1, 1]"""
    distribution: NDArray[np.float64]
    """(M, D) mu, sigma | quantiles | nothing"""
    vsn_weights: NDArray[np.float64]
    """(M, V) at the target bar; 0 where a variable is missing"""


@contextmanager
def threads_that_split_blocks_evenly(device: torch.device) -> Iterator[None]:
    """No more than MAX_THREADS threads while a CPU computes blocks."""
    before = torch.get_num_threads()
    limited = device.type == "cpu" and before > MAX_THREADS
    if limited:
        torch.set_num_threads(MAX_THREADS)
    try:
        yield
    finally:
        if limited:
            torch.set_num_threads(before)


@torch.no_grad()
def forecast(
    model: TemporalFusionTransformer,
    parameters: Mapping[str, Tensor],
    panel: DevicePanel,
    mean: Tensor,
    std: Tensor,
    spaces: Sequence[WindowSpace],
    targets: Sequence[NDArray[np.int64]],
    *,
    seed: int,
) -> list[Forecasts]:
    """Forecasts of each fold's targets (flat cells, (M_k,)), K folds side by side.

    parameters (K, ...) by name · mean, std (K, V) of each fold's scaler. Contexts are drawn by (seed, symbol,
    timestamp, slot).
    """
    device, n_folds = panel.rows.device, len(targets)
    was_training = model.training
    model.eval()
    space = spaces[0]
    n_blocks = max(1, -(-max(len(cells) for cells in targets) // TARGET_BLOCK))
    size = n_blocks * TARGET_BLOCK
    ends = np.full((n_folds, size), EMPTY, dtype=np.int64)
    contexts = np.full((n_folds, size, space.n_context), EMPTY, dtype=np.int64)
    for k, cells in enumerate(targets):
        ends[k, : len(cells)] = cells
        ends[k, len(cells) :] = cells[-1] if len(cells) else (space.seq_len - 1) * panel.n_assets
        contexts[k, : len(cells)] = spaces[k].contexts(cells, key(seed, "forecast"))
    last = torch.from_numpy(ends)
    drawn = torch.from_numpy(contexts)
    flat = window_cells(window_ends(last, drawn), seq_len=space.seq_len, n_assets=panel.n_assets)  # (K, W, L)
    n_cells = max(len(np.unique(one)) for one in flat.numpy())
    listed, windows = distinct(flat, -(-n_cells // CELL_BLOCK) * CELL_BLOCK)

    with threads_that_split_blocks_evenly(device):
        static = stacked(model.static, parameters, "static.")  # (K, A, 4, H)
        encoded = _encode(model, parameters, panel, listed.to(device), mean, std, static)
        width = space.n_context
        outputs: list[Output] = []
        for block in range(n_blocks):
            own = slice(block * TARGET_BLOCK, (block + 1) * TARGET_BLOCK)
            rows = torch.cat(
                [windows[:, own], windows[:, size + own.start * width : size + own.stop * width]], dim=1
            )  # (K, W of the block, L)
            asset = (torch.gather(listed, 1, rows[:, :, -1]) % panel.n_assets).to(device)
            of_window = torch.stack([static[k].index_select(0, asset[k]) for k in range(n_folds)])
            outputs.append(
                stacked(
                    model.windows,
                    parameters,
                    "windows.",
                    encoded,
                    rows.to(device),
                    of_window,
                    (drawn[:, own] >= 0).to(device),
                )
            )
    position = torch.cat([output.position for output in outputs], dim=1).double().cpu().numpy()
    distribution = torch.cat([output.distribution for output in outputs], dim=1).double().cpu().numpy()
    rows_of_targets = windows[:, :size, -1].to(device)
    weights = torch.stack([encoded.weights[k].index_select(0, rows_of_targets[k]) for k in range(n_folds)])
    model.train(was_training)
    return [
        Forecasts(position[k, :m], distribution[k, :m], weights[k, :m].double().cpu().numpy())
        for k, m in enumerate(len(cells) for cells in targets)
    ]


def _encode(
    model: TemporalFusionTransformer,
    parameters: Mapping[str, Tensor],
    panel: DevicePanel,
    cells: Tensor,
    mean: Tensor,
    std: Tensor,
    static: Tensor,
) -> Cells:
    """Each distinct cell (K, N) once, CELL_BLOCK at a time."""
    blocks: list[Cells] = []
    for start in range(0, cells.shape[1], CELL_BLOCK):
        x, present, asset = panel.cells(cells[:, start : start + CELL_BLOCK], mean, std)
        context = torch.stack([static[k, :, 0].index_select(0, asset[k]) for k in range(len(cells))])
        blocks.append(stacked(model.cells, parameters, "cells.", x, present, context))
    return Cells(*(torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)))
