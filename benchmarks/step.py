"""Milliseconds of one optimiser step and fold at the size of the reference run.

    python benchmarks/step.py             # 73 features, d_hidden 48, seq_len 63, n_context 16, batch 16, 4 instruments

Forward, loss, backward, clipping and Adam, through the same code that trains: `tft.train.fit_folds` on a generated
panel, its wall time by epoch divided by the steps of an epoch. The validation forecast at the end of each epoch is
timed apart and taken out. The median over epochs after the first is reported.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click
import numpy as np
import torch

from tft import train
from tft.folds import Fold
from tft.model import ModelConfig
from tft.panel import Panel
from tft.train import Market, Recipe, TrainingConfig, fit_folds
from tft.volatility import Timing


def panel(n_bars: int, n_assets: int, n_features: int) -> Panel:
    rng = np.random.default_rng(7)
    return Panel(
        times=np.datetime64("2020-01-01") + np.arange(n_bars),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        feature_names=tuple(f"px_{i}" for i in range(n_features)),
        features=rng.standard_normal((n_bars, n_assets, n_features)).astype(np.float32),
        returns=0.01 * rng.standard_normal((n_bars, n_assets)),
    )


@click.command()
@click.option("--features", default=73, show_default=True)
@click.option("--bars", default=260, show_default=True, help="Bars a fold can reach.")
@click.option("--instruments", default=4, show_default=True)
@click.option("--stack", default=1, show_default=True, help="Folds side by side.")
@click.option("--epochs", default=4, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(features: int, bars: int, instruments: int, stack: int, epochs: int, device: str) -> None:
    where = train.choose_device(device)
    market = Market(panel(bars, instruments, features), Timing(), where)
    end = bars - 2
    folds = [Fold(i, range(end - 21 - 5 - 124, end - 26), range(end - 21, end), range(end, end)) for i in range(stack)]
    recipe = Recipe(ModelConfig(), TrainingConfig(patience=0), Timing(), epochs, 7)
    forecast_s: list[float] = []
    forecast = train.forecast

    def timed(*arguments: object, **named: object) -> object:
        started = time.perf_counter()
        result = forecast(*arguments, **named)  # type: ignore[arg-type]
        forecast_s.append(time.perf_counter() - started)
        return result

    train.forecast = timed  # type: ignore[assignment]
    epoch_s: list[float] = []
    for _ in fit_folds(market, folds, recipe, stack=stack, on_epoch=lambda report: epoch_s.append(report.seconds)):
        pass
    n_steps = 124 * instruments // recipe.training.batch_size
    steps = [1e3 * (whole - part) / n_steps / stack for whole, part in zip(epoch_s, forecast_s, strict=True)][1:]
    print(
        f"{np.median(steps):.1f} ms a step and fold (min {min(steps):.1f}, max {max(steps):.1f}); {n_steps} steps an "
        f"epoch, {1e3 * np.median(forecast_s) / stack:.0f} ms validation forecast; {features} features, stack {stack}, "
        f"{where.type}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
