"""A plain LSTM that outputs positions and is trained on their Sharpe, after Lim, Zohren & Roberts 2019
(arXiv:1904.04912).

Adam on minus the Sharpe of all cells of a minibatch, sequences of 63 bars with a position at each, stopped after 25
epochs without a better validation Sharpe, 100 epochs at most. They draw hidden width, dropout, minibatch, learning rate
and gradient norm at random; here these lie in the middle of their ranges, but for the minibatch: of a fold of a few
hundred bars theirs would leave one step an epoch. The network sees one instrument at a time and trains on all of them.

Shapes: T bars, A instruments, F features, L bars of a sequence, B sequences, n bars of a block.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tft.folds import Fold
from tft.scaling import Scaler

SEQUENCE_BARS = 63
HIDDEN = 20
DROPOUT = 0.3
BATCH = 32
LEARNING_RATE = 1e-3
GRADIENT_NORM = 1.0
EPOCHS = 100
PATIENCE = 25
FORECAST_AT_ONCE = 1024
"""Sequences in a forward pass that only forecasts, which bounds memory."""


class PositionLSTM(nn.Module):
    """x (B, L, F) -> positions (B, L) in (-1, 1)."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_features, HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.dropout(x))
        position: Tensor = torch.tanh(self.head(self.dropout(hidden))).squeeze(-1)
        return position


def fit_position_lstm(
    features: NDArray[np.float32],
    y: NDArray[np.float64],
    fold: Fold,
    bars: range,
    *,
    seed: int,
    device: torch.device,
) -> tuple[NDArray[np.float64], int]:
    """Raw positions (n, A) over `bars` of a network fitted on the fold's training block, and the epoch that its
    validation block kept, counted from 0.

    features: (T, A, F), NaN = missing, which counts as the mean · y: (T, A) scaled labels, NaN where there is none.
    Bars before the first one of the panel count as means too. The same inputs give the same positions, whatever random
    numbers torch has drawn before, and torch's generators are left as they were.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _fit(features, y, fold, bars, np.random.default_rng([seed, fold.index]), device)


def _fit(
    features: NDArray[np.float32],
    y: NDArray[np.float64],
    fold: Fold,
    bars: range,
    draws: np.random.Generator,
    device: torch.device,
) -> tuple[NDArray[np.float64], int]:
    scaler = Scaler.fit(features[fold.train.start : fold.train.stop])
    scaled = np.nan_to_num(scaler.transform(features), nan=0.0).transpose(1, 0, 2)  # (A, T, F)
    padded = np.pad(scaled, ((0, 0), (SEQUENCE_BARS - 1, 0), (0, 0)))
    x = torch.from_numpy(padded).to(device)  # bar t of the panel is bar t + L - 1
    windows = x.unfold(1, SEQUENCE_BARS, 1)  # (A, T, F, L): number t ends at bar t of the panel
    labels = y.T.astype(np.float32)  # (A, T)
    target = torch.from_numpy(np.nan_to_num(labels, nan=0.0)).to(device)
    counted = torch.from_numpy(np.isfinite(labels).astype(np.float32)).to(device)

    network = PositionLSTM(x.shape[2]).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    length = min(SEQUENCE_BARS, len(fold.train))
    back = torch.arange(-length + 1, 1, device=device)

    @torch.no_grad()
    def positions(block: range) -> Tensor:
        """(A, n) at the last bar of the window that ends there."""
        network.eval()
        ends = windows[:, block.start : block.stop].flatten(0, 1)
        parts = [network(part.transpose(1, 2))[:, -1] for part in ends.split(FORECAST_AT_ONCE)]
        return torch.cat(parts).view(len(labels), len(block))

    best, kept, kept_weights = -np.inf, 0, copy.deepcopy(network.state_dict())
    validation = slice(fold.validation.start, fold.validation.stop)
    for epoch in range(EPOCHS):
        network.train()
        # Sequences tile the training bars from a random offset on; each belongs to one instrument.
        offset = draws.integers(min(length, len(fold.train) - length + 1))
        lasts = np.arange(fold.train.start + length - 1 + offset, fold.train.stop, length)
        cells = draws.permutation(np.array([(asset, last) for asset in range(len(labels)) for last in lasts]))
        batch = min(BATCH, len(cells))
        for start in range(0, len(cells) - batch + 1, batch):
            asset, last = torch.from_numpy(cells[start : start + batch]).to(device).T
            at, rows = last[:, None] + back, asset[:, None]
            optimiser.zero_grad()
            earned = network(x[rows, at + SEQUENCE_BARS - 1]) * target[rows, at]
            loss = -_sharpe(earned, counted[rows, at])
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimiser.step()
        score = float(_sharpe(positions(fold.validation) * target[:, validation], counted[:, validation]))
        if score > best:
            best, kept, kept_weights = score, epoch, copy.deepcopy(network.state_dict())
        elif epoch - kept >= PATIENCE:
            break
    network.load_state_dict(kept_weights)
    return positions(bars).T.double().cpu().numpy(), kept


def _sharpe(earned: Tensor, counted: Tensor) -> Tensor:
    """Sharpe per cell of what cells earn (any shape), those with a label counted; 0 where none is."""
    n_cells = counted.sum().clamp_min(1.0)
    mean = (earned * counted).sum() / n_cells
    variance = (((earned - mean) * counted) ** 2).sum() / n_cells
    return mean / (variance + 1e-9).sqrt()
