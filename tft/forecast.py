"""From a model and a panel to predictive distributions, in blocks of a fixed shape.

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
from tft.windows import EMPTY, DevicePanel, WindowSpace, distinct, seed_from, window_cells, window_ends

CELL_BLOCK = 512
"""Cells encoded at once."""
TARGET_BLOCK = 32
"""Targets forecast at once."""
GROUP_BLOCKS = 256
"""Blocks of targets that share one table of cells: a bound on memory where there are many targets."""


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts of M targets; the distribution is that of the label, in units of sigma_t * sqrt(horizon)."""

    position: NDArray[np.float64]
    """(M,) raw, in [-1, 1]"""
    distribution: NDArray[np.float64]
    """(M, D): mu and sigma, or the quantiles, or nothing (D = 0), by loss mode"""


@dataclass(frozen=True, eq=False)
class _Group:
    """Up to GROUP_BLOCKS blocks of targets of each fold, and the cells their windows touch."""

    cells: Tensor  # (K, N) flat, on the device, N a multiple of CELL_BLOCK
    windows: Tensor  # (K, blocks, W of a block, L) rows of `cells`
    asset: Tensor  # (K, blocks, W of a block) instrument of each window
    has_context: Tensor  # (K, blocks, TARGET_BLOCK, C)


@dataclass(frozen=True, eq=False)
class Plan:
    """The targets to forecast and the cells and windows that takes: made once, used with any weights."""

    n_targets: tuple[int, ...]
    """Targets of each fold; what its blocks hold beyond them is padding."""
    groups: tuple[_Group, ...]

    @property
    def n_blocks(self) -> int:
        """Blocks of TARGET_BLOCK targets, the same number for every fold."""
        return sum(group.windows.shape[1] for group in self.groups)


def plan(
    spaces: Sequence[WindowSpace], targets: Sequence[NDArray[np.int64]], *, seed: int, device: torch.device
) -> Plan:
    """The plan for forecasting each fold's targets, flat cells (M_k,).

    Contexts are drawn by (seed, symbol, timestamp, slot), whatever else is forecast.
    """
    n_assets, n_context = len(spaces[0].symbols), spaces[0].n_context
    n_blocks = max(1, -(-max(len(cells) for cells in targets) // TARGET_BLOCK))
    size = n_blocks * TARGET_BLOCK
    ends = np.full((len(targets), size), EMPTY, dtype=np.int64)
    contexts = np.full((len(targets), size, n_context), EMPTY, dtype=np.int64)
    for k, cells in enumerate(targets):
        ends[k, : len(cells)] = cells
        ends[k, len(cells) :] = cells[-1] if len(cells) else (spaces[k].seq_len - 1) * n_assets
        contexts[k, : len(cells)] = spaces[k].contexts(cells, seed_from(seed, "forecast"))
    step = GROUP_BLOCKS * TARGET_BLOCK
    groups = []
    for start in range(0, size, step):
        own = slice(start, min(start + step, size))
        last = torch.from_numpy(ends[:, own]).unflatten(1, (-1, TARGET_BLOCK))  # (K, blocks, TARGET_BLOCK)
        drawn = torch.from_numpy(contexts[:, own]).unflatten(1, (-1, TARGET_BLOCK))
        of_windows = window_ends(last, drawn)  # (K, blocks, W)
        flat = window_cells(of_windows, seq_len=spaces[0].seq_len, n_assets=n_assets)  # (K, blocks, W, L)
        listed, windows = distinct(flat, multiple=CELL_BLOCK)
        groups.append(
            _Group(listed.to(device), windows.to(device), (of_windows % n_assets).to(device), (drawn >= 0).to(device))
        )
    return Plan(tuple(len(cells) for cells in targets), tuple(groups))


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, compute what is inside with one thread.

    Work is spread over cores fold by fold, never within an operation: at these sizes threads wait for each other
    longer than they work, and with more than one a row's last bits would hang on where it lies in its block.
    """
    before = torch.get_num_threads()
    limited = device.type == "cpu" and before > 1
    if limited:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if limited:
            torch.set_num_threads(before)


def forecast(
    model: TemporalFusionTransformer,
    parameters: Mapping[str, Tensor],
    panel: DevicePanel,
    mean: Tensor,
    std: Tensor,
    plan: Plan,
) -> list[Forecasts]:
    """Forecasts of each fold's targets, K folds side by side.

    `parameters` by name, each (K, ...); `mean`, `std` (K, V) of each fold's scaler.
    """
    return by_fold(plan, *forecast_tensors(model, parameters, panel, mean, std, plan))


@torch.no_grad()
def forecast_tensors(
    model: TemporalFusionTransformer,
    parameters: Mapping[str, Tensor],
    panel: DevicePanel,
    mean: Tensor,
    std: Tensor,
    plan: Plan,
) -> tuple[Tensor, Tensor]:
    """Like `forecast`, but left on the device: positions (K, M) and distributions (K, M, D), padded to whole blocks.

    Nothing waits for the host, so that it can be recorded as a graph.
    """
    n_folds = len(plan.n_targets)
    positions, distributions = [], []
    with one_thread(panel.rows.device):
        static = stacked(model.static, parameters, "static.")  # (K, A, 4, H)
        for group in plan.groups:
            encoded = _encode(model, parameters, panel, group.cells, mean, std, static)
            for block in range(group.windows.shape[1]):
                of_window = torch.stack([static[k].index_select(0, group.asset[k, block]) for k in range(n_folds)])
                output: Output = stacked(
                    model.windows,
                    parameters,
                    "windows.",
                    encoded,
                    group.windows[:, block],
                    of_window,
                    group.has_context[:, block],
                )
                positions.append(output.position)
                distributions.append(output.distribution)
    return torch.cat(positions, dim=1), torch.cat(distributions, dim=1)


def by_fold(plan: Plan, positions: Tensor, distributions: Tensor) -> list[Forecasts]:
    """Positions (K, M) and distributions (K, M, D) of `forecast_tensors` by fold, without the padding, on the host."""
    position, distribution = (tensor.double().cpu().numpy() for tensor in (positions, distributions))
    return [Forecasts(position[k, :m], distribution[k, :m]) for k, m in enumerate(plan.n_targets)]


def _encode(
    model: TemporalFusionTransformer,
    parameters: Mapping[str, Tensor],
    panel: DevicePanel,
    cells: Tensor,
    mean: Tensor,
    std: Tensor,
    static: Tensor,
) -> Cells:
    """The cells (K, N) encoded, CELL_BLOCK at a time; without their VSN weights, which can outgrow the panel."""
    blocks: list[tuple[Tensor, Tensor]] = []
    for own in cells.split(CELL_BLOCK, dim=1):
        x, present, asset = panel.cells(own, mean, std)
        context = torch.stack([static[k, :, 0].index_select(0, asset[k]) for k in range(len(cells))])
        block: Cells = stacked(model.cells, parameters, "cells.", x, present, context)
        blocks.append((block.selected, block.gates))
    selected, gates = (torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True))
    return Cells(selected, gates, selected.new_empty(*selected.shape[:2], 0))


@torch.no_grad()
def selection_weights(
    model: TemporalFusionTransformer, panel: DevicePanel, mean: Tensor, std: Tensor, cells: NDArray[np.int64]
) -> NDArray[np.float64]:
    """VSN weights (M, V) of flat cells (M,), 0 where a variable is missing; mean, std (V,) of the scaler."""
    n_blocks = -(-len(cells) // CELL_BLOCK)
    padded = torch.from_numpy(np.resize(cells, n_blocks * CELL_BLOCK)).to(mean.device)
    weights = []
    with one_thread(mean.device):
        static = model.static()[:, 0]  # (A, H)
        for own in padded.split(CELL_BLOCK):
            x, present, asset = (part[0] for part in panel.cells(own[None], mean[None], std[None]))
            weights.append(model.cells.selection_weights(x, present, static.index_select(0, asset), None))
    return torch.cat(weights)[: len(cells)].double().cpu().numpy()
