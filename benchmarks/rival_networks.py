"""Two networks of others, fitted anew in every fold: an LSTM trained on the Sharpe, and neuralforecast's TFT.

Both see one instrument at a time, and train on all of them.

Shapes: T bars, A instruments, n bars of a block.
"""

from __future__ import annotations

import logging
import sys
import warnings
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from scipy.special import ndtr

from benchmarks.skill_task import TIMING, WARM_UP_BARS, FoldForecast, Task
from pipeline.statistics.position_lstm import fit_position_lstm
from tft.cross_section import error_correlation
from tft.folds import Fold

# ---- an LSTM that outputs positions


def lstm(task: Task) -> list[FoldForecast]:
    """That of pipeline/statistics/position_lstm.py."""
    return [_fit_lstm(task, fold) for fold in task.folds]


def _fit_lstm(task: Task, fold: Fold) -> FoldForecast:
    features, y = task.truth.panel.features, task.market.y
    raw, kept = fit_position_lstm(features, y, fold, fold.test, seed=task.seed, device=task.market.device)
    return FoldForecast(raw, error_correlation(y[fold.train.start : fold.train.stop]), kept_epochs=(kept,))


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
    if "ray" not in sys.modules and find_spec("ray") is None:
        modules = ("", ".air", ".tune", ".tune.integration.pytorch_lightning", ".tune.search.basic_variant")
        stand_in: dict[str, Any] = {f"ray{name}": MagicMock() for name in modules}
        sys.modules.update(stand_in)
