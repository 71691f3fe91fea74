"""Gain of each kernel: the time of a whole training step with all kernels, and with one operation computed by torch.

    python benchmarks/kernels.py --device cuda    # 16 folds stacked
    python benchmarks/kernels.py --device cpu     # one fold on one thread

The size is the reference one of benchmarks/step.py: 73 features, 4 instruments, 124 bars to train on, ModelConfig as it
is by default; the objective is that of the reference run, `pooled`. A step is forward, loss, backward, clipping and
Adam, the average of the weights included, through `tft.train.fit_folds` on a generated panel; its time is that of an
epoch divided by the epoch's steps and folds. The forecast of a validation block of 4 bars at the end of an epoch is in
it, about one part in a hundred. The first epoch of a fit is the warm-up and is left out.

All settings are fitted in turn, --repetitions times, in one process, and each is compared with the fit with all kernels
of the same round: `ratio` is the median over the rounds of time without the kernel by time with it, `gain` the share of
a step without it that the kernel saves. A gain within the spread of the ratios is none.
Needs only torch, numpy and safetensors.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from tft.folds import Fold
from tft.kernels import implementation
from tft.market import Market
from tft.model import ModelConfig
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.train import EpochReport, Recipe, TrainingConfig, fit_folds
from tft.volatility import Timing

N_FEATURES, N_ASSETS, N_BARS, TRAIN_BARS, VALIDATION_BARS, PURGE_BARS = 73, 4, 288, 124, 4, 5
MISSING = 0.02
"""Share of the feature values."""
STACKED = 16
"""Folds of a stack on a GPU."""


def panel() -> Panel:
    rng = np.random.default_rng(7)
    features = rng.standard_normal((N_BARS, N_ASSETS, N_FEATURES), dtype=np.float32)
    features[rng.random(features.shape) < MISSING] = np.nan
    return Panel(
        times=np.datetime64("2020-01-01") + np.arange(N_BARS),
        symbols=tuple(f"S{i}" for i in range(N_ASSETS)),
        feature_names=tuple(f"px_{i}" for i in range(N_FEATURES)),
        features=features,
        returns=0.01 * rng.standard_normal((N_BARS, N_ASSETS)),
    )


def step_ms(market: Market, folds: list[Fold], recipe: Recipe, left_out: tuple[str, ...]) -> float:
    """Milliseconds per step and fold with these operations computed by torch."""
    epochs: list[EpochReport] = []
    with implementation.without(*left_out):
        list(fit_folds(market, folds, recipe, stack_size=len(folds), on_epoch=epochs.append))
    n_steps = TRAIN_BARS * N_ASSETS // recipe.training.batch_size
    return 1e3 * statistics.median(one.seconds for one in epochs if one.epoch) / n_steps / len(folds)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--epochs", type=int, default=3, help="of a fit, the first a warm-up")
    given = options.parse_args()
    assert given.epochs > 1 and given.repetitions > 0
    device = torch.device(given.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    training = TrainingConfig(objective="pooled", lr=0.0027, weight_decay=0.0, mle_weight=0.186, patience=0)
    recipe = Recipe(ModelConfig(), training, Timing(), given.epochs, 7, PositionsConfig())
    end = N_BARS - recipe.timing.label_bars
    stop = end - VALIDATION_BARS - PURGE_BARS
    bounds = range(stop - TRAIN_BARS, stop), range(end - VALIDATION_BARS, end), range(end, end)
    folds = [Fold(i, *bounds) for i in range(STACKED if device.type == "cuda" else 1)]
    market = Market(panel(), recipe.timing, device)

    found = implementation.in_use(device)
    kernels = [one for one in found if one.implementation != "torch"]
    if not kernels:
        raise SystemExit("no kernel is in use: " + "; ".join(sorted({one.reason for one in found})))
    settings = {"all": (), **{one.operation: (one.operation,) for one in kernels}}
    settings["every one"] = tuple(one.operation for one in kernels)
    started = time.perf_counter()
    ms: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(given.repetitions):
        for name, left_out in settings.items():
            ms[name].append(step_ms(market, folds, recipe, left_out))

    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "one thread"
    print(f"{device.type}: {where}, torch {torch.__version__}, {kernels[0].reason}, {len(folds)} folds stacked")
    print(f"{given.repetitions} rounds of {given.epochs} epochs, {time.perf_counter() - started:.0f} s\n")
    least, most = min(ms["all"]), max(ms["all"])
    print(f"all kernels: {statistics.median(ms['all']):.3f} ms a step and fold, {least:.3f} to {most:.3f}\n")
    print(f"{'without':16}{'ms':>10}{'ratio':>9}{'least':>9}{'most':>9}{'gain':>9}")
    for name in list(settings)[1:]:
        ratios = [without / own for without, own in zip(ms[name], ms["all"], strict=True)]
        ratio = statistics.median(ratios)
        numbers = f"{statistics.median(ms[name]):10.3f}{ratio:9.3f}{min(ratios):9.3f}{max(ratios):9.3f}"
        print(f"{name:16}{numbers}{1.0 - 1.0 / ratio:9.1%}")


if __name__ == "__main__":
    main()
