"""The time of a training target: objective portfolio beside pooled, one fold on one thread.

    python -m benchmarks.objectives          # half a minute

At the size of the reference run and at that of benchmarks/skill.yaml. A block of whole bars reads nearly the same cells
for all of its targets, and its contexts once for each instrument; sixteen targets drawn at random share little. The
time is that of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import click
import numpy as np
import torch

from tft.blocks import BlockBatch, burn_in_bars
from tft.fold_stack import FoldStack
from tft.folds import Fold
from tft.market import Market
from tft.model import ModelConfig
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.recipe import OBJECTIVES, Recipe, TrainingConfig
from tft.volatility import Timing

SIZES = {
    "reference": (4, 73, ModelConfig(), 124, PositionsConfig().position_smooth, 24),
    "skill": (8, 40, ModelConfig(16, 2, 1, 0.3, 32, 0), 1000, 0.0, 120),
}
"""Instruments, columns, network, training bars, smoothing, steps to time"""
N_BARS, FIRST_BAR = 1500, 400


def noise(n_assets: int, n_features: int) -> Panel:
    rng = np.random.default_rng(0)
    return Panel(
        times=np.datetime64("2000-01-01") + np.arange(N_BARS),
        symbols=tuple(f"S{number}" for number in range(n_assets)),
        feature_names=tuple(f"x_{number}" for number in range(n_features)),
        features=rng.standard_normal((N_BARS, n_assets, n_features), dtype=np.float32),
        returns=0.01 * rng.standard_normal((N_BARS, n_assets)),
    )


def timed(stack: FoldStack, n_steps: int) -> tuple[float, float]:
    """Milliseconds of a step, and its scored targets."""
    done, targets, seconds, epoch = 0, 0, 0.0, 0
    while done < n_steps:
        stack.start_epoch(epoch)
        for number in range(min(stack.n_steps, n_steps - done)):
            batch = stack.sampler.batch(number)
            started = time.process_time()
            stack.step(number)
            seconds += time.process_time() - started
            scored = batch.scored & batch.forecast if isinstance(batch, BlockBatch) else batch.counted
            targets += int(scored.sum())
            done += 1
        epoch += 1
    return 1000.0 * seconds / done, targets / done


@click.command()
def main() -> None:
    torch.set_num_threads(1)
    print("size        objective   ms a step   targets a step   ms a target")
    for name, (n_assets, n_features, model, n_training, smooth, n_steps) in SIZES.items():
        market = Market(noise(n_assets, n_features), Timing(), torch.device("cpu"))
        train = range(FIRST_BAR, FIRST_BAR + n_training)
        fold = Fold(0, train, range(train.stop + 5, train.stop + 26), range(0))
        each = []
        for objective in OBJECTIVES:
            training = TrainingConfig(objective, batch_size=16, patience=0)
            positions = PositionsConfig(position_smooth=smooth)
            recipe = Recipe(model, training, market.timing, 100, 7, positions, burn_in_bars(smooth))
            step_ms, targets = timed(FoldStack(market, [fold], [recipe]), n_steps)
            each.append(step_ms / targets)
            print(f"{name:<11} {objective:<11} {step_ms:9.1f} {targets:16.1f} {each[-1]:13.3f}")
        print(f"{name:<11} a target of a block takes {each[0] / each[1]:.2f} of one of a pooled batch")


if __name__ == "__main__":
    main()
