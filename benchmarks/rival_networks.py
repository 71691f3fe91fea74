"""Two networks of others, fitted anew in every fold: an LSTM trained on the Sharpe, and neuralforecast's TFT.

Both see one instrument at a time, and train on all of them.

Shapes: T bars, A instruments, F features, L look-back bars, B sequences, n bars of a block.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor, nn

from benchmarks.skill_task import TIMING, WARM_UP_BARS, FoldForecast, Task
from tft.cross_section import error_correlation
from tft.folds import Fold
from tft.scaling import Scaler

Array = NDArray[np.float64]

# ---- an LSTM that outputs positions

# After Lim, Zohren & Roberts 2019 (arXiv:1904.04912): Adam on minus the Sharpe of all cells of a minibatch, sequences
# of 63 bars with a position at each, stopped after 25 epochs without a better validation Sharpe, 100 epochs at most.
# They draw hidden width, dropout, minibatch, learning rate and gradient norm at random; here these lie in the middle of
# their ranges, but for the minibatch: of our folds theirs would leave one step an epoch.
LSTM_BARS = 63
LSTM_HIDDEN = 20
LSTM_DROPOUT = 0.3
LSTM_BATCH = 32
LSTM_LEARNING_RATE = 1e-3
LSTM_GRADIENT_NORM = 1.0
LSTM_EPOCHS = 100
LSTM_PATIENCE = 25


class PositionLSTM(nn.Module):
    """x (B, L, F) -> positions (B, L) in (-1, 1)."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_features, LSTM_HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(LSTM_DROPOUT)
        self.head = nn.Linear(LSTM_HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.dropout(x))
        return torch.tanh(self.head(self.dropout(hidden))).squeeze(-1)


def lstm(task: Task) -> list[FoldForecast]:
    return [_fit_lstm(task, fold) for fold in task.folds]


def _fit_lstm(task: Task, fold: Fold) -> FoldForecast:
    device, panel = task.market.device, task.truth.panel
    torch.manual_seed(task.seed)
    draws = np.random.default_rng([task.seed, fold.index])
    scaler = Scaler.fit(panel.features[fold.train.start : fold.train.stop])
    scaled = np.nan_to_num(scaler.transform(panel.features), nan=0.0).transpose(1, 0, 2)  # (A, T, F)
    x = torch.from_numpy(np.ascontiguousarray(scaled)).to(device)
    labels = task.market.y.T.astype(np.float32)  # (A, T)
    y = torch.from_numpy(np.nan_to_num(labels, nan=0.0)).to(device)
    counted = torch.from_numpy(np.isfinite(labels).astype(np.float32)).to(device)
    windows = x.unfold(1, LSTM_BARS, 1)  # (A, T - L + 1, F, L): the window that ends at bar L - 1 is the first

    network = PositionLSTM(x.shape[2]).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=LSTM_LEARNING_RATE)
    back = torch.arange(-LSTM_BARS + 1, 1, device=device)

    @torch.no_grad()
    def positions(block: range) -> Tensor:
        """(A, n) at the last bar of the window that ends there."""
        network.eval()
        ends = windows[:, block.start - LSTM_BARS + 1 : block.stop - LSTM_BARS + 1]
        return network(ends.flatten(0, 1).transpose(1, 2))[:, -1].unflatten(0, ends.shape[:2])  # type: ignore[no-any-return]

    best, kept, kept_weights = -np.inf, 0, copy.deepcopy(network.state_dict())
    validation = slice(fold.validation.start, fold.validation.stop)
    for epoch in range(LSTM_EPOCHS):
        network.train()
        # Sequences tile the training bars from a random offset on; each belongs to one instrument.
        lasts = np.arange(fold.train.start + LSTM_BARS - 1 + draws.integers(LSTM_BARS), fold.train.stop, LSTM_BARS)
        cells = draws.permutation(np.array([(asset, last) for asset in range(len(labels)) for last in lasts]))
        for start in range(0, len(cells) - LSTM_BATCH + 1, LSTM_BATCH):
            asset, last = torch.from_numpy(cells[start : start + LSTM_BATCH]).to(device).T
            bars, rows = last[:, None] + back, asset[:, None]
            optimiser.zero_grad()
            loss = -_sharpe(network(x[rows, bars]) * y[rows, bars], counted[rows, bars])
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), LSTM_GRADIENT_NORM)
            optimiser.step()
        score = float(_sharpe(positions(fold.validation) * y[:, validation], counted[:, validation]))
        if score > best:
            best, kept, kept_weights = score, epoch, copy.deepcopy(network.state_dict())
        elif epoch - kept >= LSTM_PATIENCE:
            break
    network.load_state_dict(kept_weights)
    raw = positions(fold.test).T.double().cpu().numpy()
    rho = error_correlation(task.market.y[fold.train.start : fold.train.stop])
    return FoldForecast(raw, rho, kept_epochs=(kept,))


def _sharpe(earned: Tensor, counted: Tensor) -> Tensor:
    """Sharpe per cell of what cells earn (any shape), those with a label counted."""
    mean = (earned * counted).sum() / counted.sum()
    variance = (((earned - mean) * counted) ** 2).sum() / counted.sum()
    return mean / (variance + 1e-9).sqrt()


# ---- neuralforecast's TFT

NEURALFORECAST_STEPS = 300
NEURALFORECAST_WINDOWS = 1024
"""In a step; its default"""


def neuralforecast_installed() -> bool:
    return find_spec("neuralforecast") is not None


def neuralforecast_tft(task: Task) -> list[FoldForecast]:
    """As its documentation trains it: StudentT head, robust scaler, 300 steps at 0.005, early stopping every 10 steps.

    A series is the scaled return y by the bar that it is realised in, so that a decision of bar t is the forecast
    1 + delay bars ahead; its history is everything known at bar t. The position is 2 Phi(mu / sd of y) - 1. Made for a
    GPU: on a CPU a fold takes many minutes.
    """
    return [_fit_neuralforecast(task, fold) for fold in task.folds]


def _fit_neuralforecast(task: Task, fold: Fold) -> FoldForecast:
    import pandas as pd

    _stand_in_for_ray()
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import DistributionLoss
    from neuralforecast.models import TFT

    panel, lead = task.truth.panel, 1 + TIMING.delay_bars
    n_bars, n_assets, n_features = panel.features.shape
    realised = np.zeros((n_bars, n_assets))
    realised[lead:] = np.nan_to_num(task.market.y[:-lead], nan=0.0)
    first, stop = WARM_UP_BARS - 1, fold.test.stop - 1 + lead + 1  # the last label of the test block ends at stop - 1
    names = [f"x{number:02d}" for number in range(n_features)]
    tables = []
    for asset, symbol in enumerate(panel.symbols):
        own = pd.DataFrame(panel.features[first:stop, asset], columns=names)
        own.insert(0, "y", realised[first:stop, asset])
        own.insert(0, "ds", np.arange(first, stop))
        own.insert(0, "unique_id", symbol)
        tables.append(own)
    network = TFT(
        h=lead,
        input_size=task.config.model.seq_len,
        hidden_size=20,
        hist_exog_list=names,
        loss=DistributionLoss(distribution="StudentT", level=[80, 90]),
        learning_rate=0.005,
        max_steps=NEURALFORECAST_STEPS,
        val_check_steps=10,
        early_stop_patience_steps=10,
        scaler_type="robust",
        windows_batch_size=NEURALFORECAST_WINDOWS,
        random_seed=task.seed,
        accelerator="gpu" if task.market.device.type == "cuda" else "cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
    )
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about the number of workers and the like
        found = NeuralForecast(models=[network], freq=1).cross_validation(
            df=pd.concat(tables),
            val_size=len(fold.validation) + (fold.test.start - fold.validation.stop),
            test_size=len(fold.test) - 1 + lead,
            n_windows=None,
            step_size=1,
            refit=False,
            verbose=False,
        )
    found = found[found["ds"] == found["cutoff"] + lead]
    column = next(name for name in ("TFT-median", "TFT") if name in found.columns)
    mu = found.pivot_table(index="cutoff", columns="unique_id", values=column)
    mu = mu.reindex(index=list(fold.test), columns=list(panel.symbols)).to_numpy(dtype=np.float64)
    training_labels = task.market.y[fold.train.start : fold.train.stop]
    raw = 2.0 * ndtr(mu / np.nanstd(training_labels)) - 1.0
    return FoldForecast(raw, error_correlation(training_labels), mu)


def _stand_in_for_ray() -> None:
    """neuralforecast imports ray with everything and needs it to search for parameters alone."""
    if find_spec("ray") is None:
        modules = ("", ".air", ".tune", ".tune.integration.pytorch_lightning", ".tune.search.basic_variant")
        stand_in: dict[str, Any] = {f"ray{name}": MagicMock() for name in modules}
        sys.modules.update(stand_in)
