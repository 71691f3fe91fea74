"""From a model and a panel to predictive distributions, in blocks of a fixed shape.

Every matrix product has the same shape whether one decision or a whole backtest is forecast, so that a live decision
equals the backtest's to the last bit on the same machine.

Shapes: K stacked folds, M targets, V variables, D parameters of the distribution, N distinct cells, A instruments,
L look-back bars, C contexts per target, H hidden width, T targets of a block (`target_block`),
W = T * (1 + C) windows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.head import probability_up
from tft.model import Cells, Output, TemporalFusionTransformer, stacked
from tft.windows import EMPTY, DevicePanel, WindowSpace, distinct, seed_from, window_cells, window_ends

CELL_BLOCK = 512
"""Cells encoded at once"""
TARGET_BLOCK = 32
"""Targets forecast at once on a CPU"""
GPU_TARGET_BLOCK = 128
"""Targets forecast at once on a GPU, where a block's time is that of launching its kernels"""
GROUP_TARGETS = 8192
"""Targets that share one list of distinct cells, which bounds memory when there are many"""


def target_block(device: torch.device) -> int:
    """Targets forecast at once on this device."""
    return TARGET_BLOCK if device.type == "cpu" else GPU_TARGET_BLOCK


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Positions and label distributions forecast for M targets, in units of sigma_t * sqrt(horizon)."""

    position: NDArray[np.float64]
    """(M,) raw position in [-1, 1]"""
    distribution: NDArray[np.float64]
    """(M, D) mu and sigma, the quantiles, or nothing (D = 0), depending on the loss mode"""


@dataclass(frozen=True, eq=False)
class _Group:
    """Up to GROUP_TARGETS targets per fold, in blocks, and the distinct cells in their windows."""

    cells: Tensor  # (K, N) flat cells on the device, N a multiple of CELL_BLOCK
    windows: Tensor  # (K, blocks, W, L) rows of `cells`
    asset: Tensor  # (K, blocks, W) instrument of each window
    has_context: Tensor  # (K, blocks, T, C) whether a slot is filled


@dataclass(frozen=True, eq=False)
class Plan:
    """Targets to forecast with the cells and windows that they need; can be reused with different weights."""

    n_targets: tuple[int, ...]
    """Number of targets of each fold; the rest of its blocks is padding"""
    groups: tuple[_Group, ...]

    @property
    def n_blocks(self) -> int:
        """Number of blocks of targets, the same for every fold."""
        return sum(group.windows.shape[1] for group in self.groups)


def plan(
    spaces: Sequence[WindowSpace], targets: Sequence[NDArray[np.int64]], *, seeds: Sequence[int], device: torch.device
) -> Plan:
    """Plan the forecast of each fold's `targets`, flat cells (M_k,), with one seed a fold.

    Contexts are drawn by (seed, symbol, timestamp, slot) and do not depend on the other targets.
    """
    n_assets, n_context = len(spaces[0].symbols), spaces[0].n_context
    block = target_block(device)
    size = max(1, -(-max(len(cells) for cells in targets) // block)) * block
    ends = np.full((len(targets), size), EMPTY, dtype=np.int64)
    contexts = np.full((len(targets), size, n_context), EMPTY, dtype=np.int64)
    for k, (cells, seed) in enumerate(zip(targets, seeds, strict=True)):
        ends[k, : len(cells)] = cells
        ends[k, len(cells) :] = cells[-1] if len(cells) else (spaces[k].seq_len - 1) * n_assets
        contexts[k, : len(cells)] = spaces[k].contexts(cells, seed_from(seed, "forecast"))
    groups = []
    for start in range(0, size, GROUP_TARGETS):
        group = slice(start, min(start + GROUP_TARGETS, size))
        last = torch.from_numpy(ends[:, group]).unflatten(1, (-1, block))  # (K, blocks, T)
        drawn = torch.from_numpy(contexts[:, group]).unflatten(1, (-1, block))
        ends_of_windows = window_ends(last, drawn)  # (K, blocks, W)
        flat = window_cells(ends_of_windows, seq_len=spaces[0].seq_len, n_assets=n_assets)  # (K, blocks, W, L)
        distinct_cells, windows = distinct(flat, multiple=CELL_BLOCK)
        groups.append(
            _Group(
                distinct_cells.to(device),
                windows.to(device),
                (ends_of_windows % n_assets).to(device),
                (drawn >= 0).to(device),
            )
        )
    return Plan(tuple(len(cells) for cells in targets), tuple(groups))


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Limit torch to one CPU thread inside the block; no effect for other devices.

    Folds run in parallel, operations do not: at these sizes threads would wait for each other longer than they work,
    and with several threads a row's last bits would depend on where it lies in its block.
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
    """Forecast each fold's targets, K folds in one stacked model.

    `parameters` are named tensors (K, ...); `mean` and `std` (K, V) belong to each fold's scaler.
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
    """Like `forecast`, but returns tensors on the device, positions (K, M) and distributions (K, M, D), with padding.

    The device never waits for the host, so that the computation can be captured as a CUDA graph.
    """
    n_folds = len(plan.n_targets)
    positions, distributions = [], []
    with one_thread(panel.rows.device):
        static = stacked(model.static, parameters, "static.")  # (K, A, 4, H)
        for group in plan.groups:
            encoded = _encode(model, parameters, panel, group.cells, mean, std, static)
            for block in range(group.windows.shape[1]):
                window_static = torch.stack([static[k].index_select(0, group.asset[k, block]) for k in range(n_folds)])
                output: Output = stacked(
                    model.windows,
                    parameters,
                    "windows.",
                    encoded,
                    group.windows[:, block],
                    window_static,
                    group.has_context[:, block],
                )
                positions.append(output.position)
                distributions.append(output.distribution)
    return torch.cat(positions, dim=1), torch.cat(distributions, dim=1)


def by_fold(plan: Plan, positions: Tensor, distributions: Tensor) -> list[Forecasts]:
    """Split positions (K, M) and distributions (K, M, D) of `forecast_tensors` by fold, on the host, unpadded."""
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
    """Encode cells (K, N), CELL_BLOCK at a time; without VSN weights, which could take more memory than the panel."""
    blocks: list[tuple[Tensor, Tensor, Tensor]] = []
    for chunk in cells.split(CELL_BLOCK, dim=1):
        x, present, asset = panel.cells(chunk, mean, std)
        context = torch.stack([static[k, :, 0].index_select(0, asset[k]) for k in range(len(cells))])
        block: Cells = stacked(model.cells, parameters, "cells.", x, present, context)
        blocks.append((block.selected, block.gates, block.direct))
    selected, gates, direct = (torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True))
    return Cells(selected, gates, selected.new_empty(*selected.shape[:2], 0), direct)


@torch.no_grad()
def selection_weights(
    model: TemporalFusionTransformer, panel: DevicePanel, mean: Tensor, std: Tensor, cells: NDArray[np.int64]
) -> NDArray[np.float64]:
    """VSN weights (M, V) at flat cells (M,), 0 where a variable is missing; `mean` and `std` (V,) of the scaler."""
    n_blocks = -(-len(cells) // CELL_BLOCK)
    padded = torch.from_numpy(np.resize(cells, n_blocks * CELL_BLOCK)).to(mean.device)
    weights = []
    with one_thread(mean.device):
        static = model.static()[:, 0]  # (A, H)
        for chunk in padded.split(CELL_BLOCK):
            x, present, asset = (part[0] for part in panel.cells(chunk[None], mean[None], std[None]))
            weights.append(model.cells.selection_weights(x, present, static.index_select(0, asset), None))
    return torch.cat(weights)[: len(cells)].double().cpu().numpy()


def on_grid(values: NDArray[np.float64], cells: NDArray[np.int64], bars: range, n_assets: int) -> NDArray[np.float64]:
    """Values (M, ...) at flat cells (M,) of `bars` as a grid (n, A, ...) over these n bars, NaN elsewhere."""
    grid = np.full((len(bars) * n_assets, *values.shape[1:]), np.nan)
    grid[cells - bars.start * n_assets] = values
    return grid.reshape(len(bars), n_assets, *values.shape[1:])


# ---- distributions, (..., D) with D = 2 for mu and sigma, 7 for the quantiles, 0 for none


def probability_of_up(distribution: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(y > 0) (...) by distributions (..., D); NaN where there is none."""
    shape = distribution.shape[:-1]
    if distribution.shape[-1] == 0:
        return np.full(shape, np.nan)
    if distribution.shape[-1] == 2:
        ratio = np.asarray(distribution[..., 0] / distribution[..., 1])
        return np.asarray(torch.special.ndtr(torch.from_numpy(ratio)).numpy())
    flat = torch.from_numpy(distribution.reshape(-1, distribution.shape[-1]))
    return probability_up(flat).numpy().reshape(shape)


def mean_of_seeds(seeds: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over seeds, added in order: the order in which numpy's mean adds depends on the shape of the array."""
    return np.asarray(sum(seeds[1:], start=seeds[0]) / len(seeds))


def mixture(seeds: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The seeds' distributions (..., D) as one of the same family.

    Mu and sigma are the moments of the seeds' mixture; quantiles are averaged level by level. P(y > 0) of the mixture
    is not that of these parameters but the mean of the seeds' own.
    """
    if len(seeds) == 1:
        return seeds[0]
    if seeds[0].shape[-1] != 2:
        return mean_of_seeds(seeds)
    mean = mean_of_seeds([one[..., 0] for one in seeds])
    second = mean_of_seeds([one[..., 1] ** 2 + one[..., 0] ** 2 for one in seeds])
    return np.stack([mean, np.sqrt(second - mean**2)], axis=-1)
