"""Training blocks: neighbouring whole bars of all instruments, after burn-in bars that settle the position path.

Blocks of `block_bars` scored bars tile a fold's training bars at a random offset, in random order; where these have
gaps, each part has its own tiles. Burn-in bars are forecast and earn nothing; they may precede the training bars, but
not the data.

Shapes: K stacked folds, S steps of an epoch, n = burn-in + scored bars, A instruments of a block, B = n * A targets in
order of bars, C contexts per instrument, W = B + A * C windows, L look-back bars, N distinct cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.folds import Fold, rows_of
from tft.windows import EMPTY, LISTED_STEPS, WindowSpace, distinct, seed_from, window_cells, window_ends

MAX_BLOCK_TARGETS = 2048
"""Most targets of a block; with more instruments it takes a random subset of them"""
LEAST_STEPS = 16
"""Fewest optimiser steps of an epoch: a short fold is tiled several times, at an offset of its own each time"""
BURN_IN_LEFT = 0.05
"""Largest weight that a position before the burn-in may keep in a scored one"""
MAX_BURN_IN_BARS = 64


def burn_in_bars(position_smooth: float) -> int:
    """Bars after which smoothing has forgotten its start but for BURN_IN_LEFT, at most MAX_BURN_IN_BARS."""
    if position_smooth <= 0.0:
        return 1  # the bar before the first scored one: its position is what the first change is counted from
    needed = int(np.ceil(np.log(BURN_IN_LEFT) / np.log(position_smooth) - 1e-9))
    return min(max(needed, 1), MAX_BURN_IN_BARS)


class BlockBatch(NamedTuple):
    """Device tensors of one optimiser step of K folds."""

    cells: Tensor  # (K, N) flat cells
    windows: Tensor  # (K, W, L) rows of `cells`, the B targets' windows first, then the contexts' of each instrument
    has_context: Tensor  # (K, A, C) true where a slot is filled
    targets: Tensor  # (K, B) flat cells; any cell of the fold where there is none
    forecast: Tensor  # (K, B) whether the target has a window in the data and a feature
    scored: Tensor  # (K, B) whether the bar is one of the block's scored training bars


class _Drawn(NamedTuple):
    """Blocks of an epoch, on the host."""

    epoch: int
    n_steps: tuple[int, ...]  # (K,) blocks of each fold
    first: NDArray[np.int64]  # (K, S) first burn-in bar, which may lie before the data; 0 where there is no block
    part: NDArray[np.int64]  # (K, S, 2) first bar of the block's part of the training bars, and the bar after its last
    assets: NDArray[np.int64]  # (K, S, A)
    contexts: NDArray[np.int64]  # (K, S, A, C)


class BlockSampler:
    """Training blocks of a stack of folds, drawn for each epoch by (seed, fold, epoch)."""

    def __init__(
        self,
        spaces: Sequence[WindowSpace],
        folds: Sequence[Fold],
        labelled: NDArray[np.bool_],
        *,
        block_bars: int,
        burn_in: int,
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        """`labelled` (T, A) marks cells with a label; `seeds` has one a fold, and a fold may be there with several.

        Raises ValueError for a fold without a training target.
        """
        self.spaces, self.folds, self.seeds, self.device = spaces, folds, seeds, device
        self.block_bars, self.burn_in, self.n_bars = block_bars, burn_in, burn_in + block_bars
        self.n_assets = labelled.shape[1]
        self.n_chosen = max(1, min(self.n_assets, MAX_BLOCK_TARGETS // self.n_bars))
        self.forecast = [space.present.copy() for space in spaces]  # (T, A): whether there is a window to forecast with
        for fold, space, forecast in zip(folds, spaces, self.forecast, strict=True):
            forecast[: space.seq_len - 1] = False
            if not (rows_of(forecast, fold.trained) & rows_of(labelled, fold.trained)).any():
                raise ValueError(
                    f"fold {fold.index} has no training target: between bars {fold.train.start} and "
                    f"{fold.train.stop - 1} no instrument has both a feature and a label; start later or drop it"
                )
        # Blocks of one tiling: it depends on the offset whether there is one more. Tilings go on up to LEAST_STEPS.
        fewest = [sum(-(-len(part) // block_bars) for part in fold.trained) for fold in folds]
        most = [sum(-(-(len(part) + block_bars - 1) // block_bars) for part in fold.trained) for fold in folds]
        self.n_steps = max(
            high if low >= LEAST_STEPS else LEAST_STEPS - 1 + high for low, high in zip(fewest, most, strict=True)
        )
        self.steps_per_fold = [self.n_steps] * len(folds)  # of the current epoch
        earliest = burn_in + block_bars - 1  # bars before the training bars that a block may begin
        reach = max(len(space.reach(fold.train)) for space, fold in zip(spaces, folds, strict=True)) + earliest
        n_rows = self.n_chosen * (self.n_bars + spaces[0].seq_len - 1 + spaces[0].n_context * spaces[0].seq_len)
        # On a GPU all steps have the same number of cells; on a CPU a step has only the cells that it needs.
        self.capacity = min(reach * self.n_assets, n_rows) if device.type == "cuda" else None
        self.n_listed = LISTED_STEPS if device.type == "cuda" else 1
        self._drawn: _Drawn | None = None

    def draw(self, epoch: int) -> None:
        """Tile each fold's training bars, shuffle the blocks, and draw the instruments and contexts of each."""
        n_folds, n_context = len(self.folds), self.spaces[0].n_context
        n_steps = []
        first = np.zeros((n_folds, self.n_steps), dtype=np.int64)
        part_of = np.empty((n_folds, self.n_steps, 2), dtype=np.int64)
        assets = np.zeros((n_folds, self.n_steps, self.n_chosen), dtype=np.int64)
        contexts = np.full((*assets.shape, n_context), EMPTY, dtype=np.int64)
        for k, (space, fold, seed) in enumerate(zip(self.spaces, self.folds, self.seeds, strict=True)):
            rng = np.random.default_rng([seed, fold.index, epoch])
            tiles: list[tuple[int, int, int]] = []
            while len(tiles) < LEAST_STEPS:
                for part in fold.trained:
                    first_start = part.start - int(rng.integers(self.block_bars))
                    tiles += [
                        (start, part.start, part.stop) for start in range(first_start, part.stop, self.block_bars)
                    ]
            drawn_tiles = np.array(tiles)[rng.permutation(len(tiles))]
            starts = drawn_tiles[:, 0]
            n_steps.append(len(starts))
            first[k, : len(starts)] = starts - self.burn_in
            part_of[k] = fold.train.start, fold.train.stop  # where there is no block
            part_of[k, : len(starts)] = drawn_tiles[:, 1:]
            every = np.broadcast_to(np.arange(self.n_assets), (len(starts), self.n_assets))
            assets[k, : len(starts)] = np.sort(rng.permuted(every, axis=1)[:, : self.n_chosen], axis=1)
            if n_context:
                bar = np.maximum(starts - self.burn_in, 0)[:, None]
                cells = (bar * self.n_assets + assets[k, : len(starts)]).reshape(-1)
                drawn = space.contexts(cells, seed_from(seed, fold.index, epoch))
                contexts[k, : len(starts)] = drawn.reshape(len(starts), self.n_chosen, n_context)
        self._drawn = _Drawn(epoch, tuple(n_steps), first, part_of, assets, contexts)

    def start_epoch(self, epoch: int) -> None:
        """Copy the epoch's blocks to the device, drawing them first unless `draw` already has."""
        if self._drawn is None or self._drawn.epoch != epoch:
            self.draw(epoch)
        assert self._drawn
        _, n_steps, first, part, assets, contexts = self._drawn
        self.steps_per_fold = list(n_steps)
        bars = first[:, :, None] + np.arange(self.n_bars)  # (K, S, n)
        targets = np.empty((*bars.shape, self.n_chosen), dtype=np.int64)
        forecast = np.empty(targets.shape, dtype=np.bool_)
        scored = np.empty(targets.shape, dtype=np.bool_)
        for k, space in enumerate(self.spaces):
            inside = np.clip(bars[k], space.seq_len - 1, part[k, :, 1:] - 1)
            targets[k] = inside[:, :, None] * self.n_assets + assets[k][:, None, :]
            real = (inside == bars[k]) & (np.arange(self.n_steps) < n_steps[k])[:, None]
            forecast[k] = self.forecast[k].reshape(-1)[targets[k]] & real[:, :, None]
            counts = real & (bars[k] >= part[k, :, :1]) & (np.arange(self.n_bars) >= self.burn_in)
            scored[k] = counts[:, :, None]
        self._targets, self._forecast, self._scored = (
            torch.from_numpy(each.reshape(*bars.shape[:2], -1)).to(self.device) for each in (targets, forecast, scored)
        )
        self._contexts = torch.from_numpy(contexts).to(self.device)

    def batch(self, step: int) -> BlockBatch:
        """The block of one step. The steps of an epoch must be requested in order."""
        if step % self.n_listed == 0:
            self._listed = self._list(step, min(step + self.n_listed, self.n_steps))
        cells, windows = (tensor[:, step % self.n_listed] for tensor in self._listed)
        return BlockBatch(
            cells,
            windows,
            self._contexts[:, step] >= 0,
            self._targets[:, step],
            self._forecast[:, step],
            self._scored[:, step],
        )

    def _list(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Distinct cells (K, steps, N) of steps start .. stop - 1, and windows (K, steps, W, L) as rows of them."""
        ends = window_ends(self._targets[:, start:stop], self._contexts[:, start:stop])
        flat = window_cells(ends, seq_len=self.spaces[0].seq_len, n_assets=self.n_assets)
        cells, windows = distinct(flat.flatten(0, 1), self.capacity)
        return cells.unflatten(0, flat.shape[:2]), windows.unflatten(0, flat.shape[:2])
