"""What several test files share: a small panel that is cheap to train on."""

from __future__ import annotations

import numpy as np
import torch

from tft.model import ModelConfig
from tft.panel import Panel
from tft.train import Recipe, TrainingConfig
from tft.volatility import Timing

CPU = torch.device("cpu")


def small_panel(
    n_bars: int = 150,
    n_assets: int = 2,
    n_features: int = 3,
    *,
    seed: int = 0,
    missing: float = 0.03,
    signal: float = 0.0,
    delay_bars: int = 1,
) -> Panel:
    """Independent noise, `missing` of the feature values absent.

    With a `signal` the first feature of bar t is that much of the (standardised) return of bar t + 1 + delay_bars.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_bars + 1 + delay_bars, n_assets))
    features = rng.standard_normal((n_bars, n_assets, n_features))
    features[:, :, 0] = signal * noise[1 + delay_bars :] + np.sqrt(1.0 - signal**2) * features[:, :, 0]
    features[rng.random(features.shape) < missing] = np.nan
    return Panel(
        times=np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        feature_names=tuple(f"group_{i}" for i in range(n_features)),
        features=features.astype(np.float32),
        returns=0.01 * noise[:n_bars],
    )


def small_recipe(
    *,
    epochs: int = 3,
    seed: int = 5,
    n_context: int = 2,
    seq_len: int = 6,
    lr: float = 0.01,
    loss_mode: str = "joint_mle",
    patience: int = 0,
    dropout: float = 0.1,
    batch_size: int = 16,
) -> Recipe:
    return Recipe(
        model=ModelConfig(d_hidden=8, n_heads=2, dropout=dropout, seq_len=seq_len, n_context=n_context),
        training=TrainingConfig(lr=lr, batch_size=batch_size, loss_mode=loss_mode, patience=patience),
        timing=Timing(),
        epochs=epochs,
        seed=seed,
    )
