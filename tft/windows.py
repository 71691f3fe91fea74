"""Target windows, their context windows, and the batches of an epoch.

A cell is one (bar, instrument) pair of the panel, given by its flat index bar * A + instrument. A window is given by
its last cell: its cells are `last - A * (L-1 .. 0)`.

Shapes: T bars, A instruments, V variables, L look-back bars, B targets, C contexts per target, W = B * (1 + C) windows,
N distinct cells, K stacked folds, S steps of an epoch, M targets of any number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.folds import Fold
from tft.scaling import CLIP, Scaler

CONTEXT_POOL_BARS = 504
"""Contexts lie within this many bars up to and including the target"""
EMPTY = -1
"""Marks a context slot without a context, or a batch slot without a target"""
LISTED_STEPS = 32
"""Steps whose distinct cells are listed at once for a GPU; for a CPU they are listed step by step"""
_ATTEMPTS = 8
"""Draws after which a context slot stays empty; a draw fails if the instrument has no data at that bar"""

Keys = NDArray[np.uint64]


def seed_from(*parts: int | str) -> int:
    """A 63-bit seed hashed from `parts`, the same in every process and version."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def symbol_keys(symbols: Sequence[str]) -> Keys:
    """Hash keys (A,) of instruments by name."""
    return np.array([seed_from("symbol", symbol) for symbol in symbols], dtype=np.uint64)


def time_keys(times: NDArray[np.datetime64]) -> Keys:
    """Hash keys (T,) of times: microseconds since 1970, so that a date equals its midnight timestamp."""
    return times.astype("datetime64[us]").astype(np.int64).astype(np.uint64)


def _mixed(x: Keys) -> Keys:
    """Hash 64-bit keys by the finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class WindowSpace:
    """The windows that a fold can form from the panel, given the columns that it can use."""

    present: NDArray[np.bool_]
    """(T, A) whether any variable that the fold can use is known"""
    times: Keys
    """(T,) from `time_keys`"""
    symbols: Keys
    """(A,) from `symbol_keys`"""
    seq_len: int
    n_context: int
    """Context slots per target"""
    pool_bars: int = CONTEXT_POOL_BARS

    @classmethod
    def from_features(
        cls,
        features: NDArray[np.float32],
        times: NDArray[np.datetime64],
        symbols: Sequence[str],
        scaler: Scaler,
        *,
        seq_len: int,
        n_context: int,
    ) -> WindowSpace:
        """The window space of features (T, A, V) for a fold with this scaler."""
        usable = np.isfinite(scaler.std)
        present = np.stack([(np.isfinite(bar) & usable).any(axis=-1) for bar in features])
        return cls(present, time_keys(times), symbol_keys(symbols), seq_len, n_context)

    def targets(self, bars: range) -> NDArray[np.int64]:
        """Flat cells (M,) in `bars` with `seq_len` bars of history and a variable present, in order of time."""
        first = max(bars.start, self.seq_len - 1)
        if first >= bars.stop:
            return np.empty(0, dtype=np.int64)
        bar, asset = np.nonzero(self.present[first : bars.stop])
        cells: NDArray[np.int64] = (bar + first) * self.present.shape[1] + asset
        return cells

    def contexts(self, targets: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """Draw contexts for targets (M,): the last cell (M, C) of each context window, EMPTY for an empty slot.

        Draws are a hash of (seed, symbol, timestamp, slot), so that they do not depend on the other targets.
        """
        n_assets = self.present.shape[1]
        bar, asset = np.divmod(targets, n_assets)
        latest = bar - self.seq_len  # the bar before the target window begins
        earliest = np.maximum(self.seq_len - 1, bar - self.pool_bars + self.seq_len)
        room = np.maximum(latest - earliest + 1, 0)
        drawn = np.full((len(targets), self.n_context), EMPTY, dtype=np.int64)
        target_keys = _mixed(_mixed(self.symbols[asset] ^ np.uint64(seed)) ^ self.times[bar])
        for slot in range(self.n_context):
            for attempt in range(_ATTEMPTS):
                open_ = (drawn[:, slot] == EMPTY) & (room > 0)
                if not open_.any():
                    break
                bits = _mixed(target_keys + np.uint64(1 + slot * _ATTEMPTS + attempt))
                back = ((bits >> np.uint64(40)) * room.astype(np.uint64)) >> np.uint64(24)
                other = ((bits & np.uint64(0xFFFFFF)) * np.uint64(n_assets)) >> np.uint64(24)
                last_bar = np.maximum(latest - back.astype(np.int64), 0)
                found = open_ & self.present[last_bar, other.astype(np.int64)]
                drawn[found, slot] = (last_bar * n_assets + other.astype(np.int64))[found]
        return drawn

    def reach(self, bars: range) -> range:
        """Bars that windows of targets in `bars` can contain, contexts included."""
        back = max(self.pool_bars, self.seq_len) if self.n_context else self.seq_len
        return range(max(bars.start - back + 1, 0), bars.stop)


class Batch(NamedTuple):
    """Device tensors of one optimiser step of K folds."""

    cells: Tensor  # (K, N) flat cells
    windows: Tensor  # (K, W, L) rows of `cells`, the B targets' windows first
    has_context: Tensor  # (K, B, C) true where a slot is filled
    targets: Tensor  # (K, B) flat cells; any cell of the fold where padded
    counted: Tensor  # (K, B) 1 for a target, 0 for padding


def window_ends(targets: Tensor, contexts: Tensor) -> Tensor:
    """Last cells (..., W) of windows: targets (..., B), then contexts (..., G, C), where G is B, or the number of
    instruments whose targets at all bars share their contexts; empty slots repeat the target, or the first one's.
    """
    filled = torch.where(contexts >= 0, contexts, targets[..., : contexts.shape[-2], None])
    return torch.cat([targets, filled.flatten(-2)], dim=-1)


def window_cells(ends: Tensor, *, seq_len: int, n_assets: int) -> Tensor:
    """All cells (..., W, L), oldest first, of the windows that end at cells (..., W)."""
    back = torch.arange(seq_len - 1, -1, -1, device=ends.device) * n_assets
    return ends.unsqueeze(-1) - back


class DevicePanel:
    """The panel's features on the device, shared by all folds, which standardise the cells that they read."""

    def __init__(self, features: NDArray[np.float32], device: torch.device) -> None:
        self.n_assets = features.shape[1]
        self.rows = torch.from_numpy(features.reshape(-1, features.shape[-1])).to(device)  # (T*A, V)

    def cells(self, index: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read flat cells (K, N) -> x (K, N, V) standardised, 0 where missing; present (K, N, V); instrument (K, N).

        `mean` and `std` (K, V) belong to each fold's scaler.
        """
        raw = self.rows.index_select(0, index.flatten()).view(*index.shape, self.rows.shape[1])
        x = ((raw - mean.unsqueeze(1)) / std.unsqueeze(1)).clamp(-CLIP, CLIP)
        present = torch.isfinite(x)
        return torch.where(present, x, 0.0), present.to(x.dtype), index % self.n_assets


class _Drawn(NamedTuple):
    """Targets and contexts of an epoch, on the host."""

    epoch: int
    targets: NDArray[np.int64]  # (K, S, B)
    contexts: NDArray[np.int64]  # (K, S, B, C)


class TrainingSampler:
    """Training batches of a stack of folds, drawn for each epoch by (seed, fold, epoch)."""

    def __init__(
        self,
        spaces: Sequence[WindowSpace],
        folds: Sequence[Fold],
        labelled: NDArray[np.bool_],
        *,
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        """`labelled` (T, A) marks cells with a label; `seeds` has one a fold, and a fold may be there with several.

        Raises ValueError for a fold without a training target.
        """
        self.spaces, self.folds = spaces, folds
        self.batch_size, self.seeds, self.device = batch_size, seeds, device
        self.n_assets = labelled.shape[1]
        self.targets = []
        for space, fold in zip(spaces, folds, strict=True):
            cells = np.concatenate([space.targets(part) for part in fold.trained])
            cells = cells[labelled.reshape(-1)[cells]]
            if not len(cells):
                raise ValueError(
                    f"fold {fold.index} has no training target: between bars {fold.train.start} and "
                    f"{fold.train.stop - 1} no instrument has both a feature and a label; start later or drop it"
                )
            self.targets.append(cells)
        self.steps_per_fold = [max(1, len(cells) // batch_size) for cells in self.targets]
        self.n_steps = max(self.steps_per_fold)
        # If a fold has no more cells than a batch has window rows, all cells are used and none have to be listed.
        reaches = [space.reach(fold.train) for space, fold in zip(spaces, folds, strict=True)]
        n_all = max(len(reach) for reach in reaches) * self.n_assets
        n_rows = batch_size * (1 + spaces[0].n_context) * spaces[0].seq_len
        # On a GPU all steps have the same number of cells; on a CPU a step has only the cells that it needs.
        self.capacity = min(n_all, n_rows) if device.type == "cuda" else None
        self.n_listed = LISTED_STEPS if device.type == "cuda" else 1
        self._drawn: _Drawn | None = None
        self.all_cells: Tensor | None = None
        if n_all <= n_rows:
            first = torch.tensor([reach.start * self.n_assets for reach in reaches], device=device)
            # A fold with fewer cells than the largest repeats its last cell.
            stop = torch.tensor([reach.stop * self.n_assets for reach in reaches], device=device)
            reached = first[:, None] + torch.arange(n_all, device=device)
            self.all_cells = torch.minimum(reached, stop[:, None] - 1)
            self.first_cell = first

    def draw(self, epoch: int) -> None:
        """Shuffle the epoch's targets and draw their contexts. Steps beyond a fold's last batch hold no targets."""
        n_folds, size = len(self.folds), self.batch_size
        targets = np.full((n_folds, self.n_steps, size), EMPTY, dtype=np.int64)
        contexts = np.full((*targets.shape, self.spaces[0].n_context), EMPTY, dtype=np.int64)
        for k, (space, fold, seed) in enumerate(zip(self.spaces, self.folds, self.seeds, strict=True)):
            order = np.random.default_rng([seed, fold.index, epoch]).permutation(self.targets[k])
            chosen = order[
                : self.steps_per_fold[k] * size
            ]  # targets that do not fill a batch are left out of this epoch
            targets[k].reshape(-1)[: len(chosen)] = chosen
            drawn = space.contexts(chosen, seed_from(seed, fold.index, epoch))
            contexts[k].reshape(self.n_steps * size, contexts.shape[-1])[: len(chosen)] = drawn
        self._drawn = _Drawn(epoch, targets, contexts)

    def start_epoch(self, epoch: int) -> None:
        """Copy the epoch's targets and contexts to the device, drawing them first unless `draw` already has."""
        if self._drawn is None or self._drawn.epoch != epoch:
            self.draw(epoch)
        assert self._drawn
        _, targets, contexts = self._drawn
        counted = targets != EMPTY
        fallback = np.array([cells[0] for cells in self.targets])[:, None, None]
        self._targets = torch.from_numpy(np.where(counted, targets, fallback)).to(self.device)
        self._contexts = torch.from_numpy(contexts).to(self.device)
        self._counted = torch.from_numpy(counted.astype(np.float32)).to(self.device)

    def batch(self, step: int) -> Batch:
        """The batch of one step. The steps of an epoch must be requested in order."""
        targets, contexts = self._targets[:, step], self._contexts[:, step]
        if self.all_cells is not None:
            cells, windows = self.all_cells, self._flat(step, step + 1)[:, 0] - self.first_cell[:, None, None]
        else:
            if step % self.n_listed == 0:
                self._listed = self._list(step, min(step + self.n_listed, self.n_steps))
            cells, windows = (tensor[:, step % self.n_listed] for tensor in self._listed)
        return Batch(cells, windows, contexts >= 0, targets, self._counted[:, step])

    def _flat(self, start: int, stop: int) -> Tensor:
        """Flat cells (K, steps, W, L) of every window of steps start .. stop - 1."""
        ends = window_ends(self._targets[:, start:stop], self._contexts[:, start:stop])
        return window_cells(ends, seq_len=self.spaces[0].seq_len, n_assets=self.n_assets)

    def _list(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Distinct cells (K, steps, N) of steps start .. stop - 1, and windows (K, steps, W, L) as rows of them."""
        flat = self._flat(start, stop)
        cells, windows = distinct(flat.flatten(0, 1), self.capacity)
        return cells.unflatten(0, flat.shape[:2]), windows.unflatten(0, flat.shape[:2])


def distinct(flat: Tensor, capacity: int | None = None, *, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Distinct cells (K, N) of windows (K, ..., L) of flat cells, padded by the last, and the windows as rows of them.

    N is `capacity`, or by default the largest number of distinct cells of any of the K, rounded up to a multiple of
    `multiple`.
    """
    listed = [_distinct_cells(cells) for cells in flat.cpu().numpy()]
    most = max(len(found) for found, _ in listed)
    size = capacity or -(-most // multiple) * multiple
    assert most <= size
    cells = np.stack([np.pad(found, (0, size - len(found)), mode="edge") for found, _ in listed])
    windows = np.stack([rows for _, rows in listed])
    return torch.from_numpy(cells).to(flat.device), torch.from_numpy(windows).to(flat.device)


def _distinct_cells(cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct cells in ascending order, and the index of each given cell among them.

    Cells lie close together, so that marking them in an array is faster than sorting.
    """
    first = cells.min()
    back = cells - first
    marked = np.zeros(back.max() + 1, dtype=np.bool_)
    marked[back] = True
    return np.flatnonzero(marked) + first, (np.cumsum(marked) - 1)[back]
