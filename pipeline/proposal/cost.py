"""What a job would cost on this machine: a few optimiser steps of each kind, timed, times the steps of all phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from pipeline.config.schema import Config
from pipeline.phases.exploration import with_probes
from pipeline.phases.folds import deployment_fold, exploration_folds, production_folds, tuning_folds
from tft.fold_stack import FoldStack
from tft.folds import Fold
from tft.market import Market
from tft.panel import Panel
from tft.recipe import Recipe
from tft.train import evenly, largest_stack

MOST_S = 2.0
"""A kind of step is timed for so long, and for one step at least."""
MOST_STEPS = 12
LEAST_SHARE = 0.25
"""Of the columns that pruning may keep, what it keeps in the cheapest case."""
BESIDE_TRAINING_S = (20.0, 90.0)
"""Reading, checks, simple rules, permutations, figures, registration: for jobs of small tables."""
FORECASTS = 1.3
"""Of the forecasts that follow a training, in the costliest case: their share beside its own time."""

LONG_S = 3600.0


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step, and of scoring the validation block at the end of an epoch, for one stack."""

    fastest_s: float
    usual_s: float
    validation_s: float
    steps_per_bar: float
    """Steps of an epoch per bar of the training block."""
    n_stacked: int
    """Folds that are fitted in the stack."""


@dataclass(frozen=True)
class Cost:
    """The wall time of a whole job on this machine, with nothing else running on it."""

    least_s: float
    most_s: float

    def __str__(self) -> str:
        """In words: `3 to 8 minutes`, `2 to 5 hours`."""
        unit, name = (3600.0, "hours") if self.most_s >= 3 * 3600.0 else (60.0, "minutes")
        least, most = max(1, int(self.least_s / unit)), -int(-self.most_s // unit)
        return f"{least} to {most} {name}" if most > least else f"about {most} {name[: -1 if most == 1 else None]}"

    @property
    def remedy(self) -> str:
        """How to make a long job cheaper; empty for a job that may be done within an hour."""
        if self.most_s <= LONG_S:
            return ""
        return "To make it cheaper, lower tuning.n_trials, production.seeds or production.epochs (--set)."


def cost_of(config: Config, panel: Panel, n_development: int, device: torch.device) -> Cost:
    """Time a few steps of this configuration on the panel, and count those of its phases.

    Least: pruning keeps a quarter of what it may, and the search ends at the smallest network. Most: it keeps all, the
    largest network is used throughout, and the untuned recipe is fitted beside the tuned one.
    """
    exploring = exploration_folds(config, n_development)
    tuning = tuning_folds(config, n_development)
    producing = [*production_folds(config, len(panel.times))]
    producing.append(deployment_fold(config, len(panel.times), len(producing)))
    probed, _ = with_probes(panel, config.exploration.n_probes, config.seed)
    n_kept = min(config.pruning.max_features, len(panel.feature_names))
    kept = panel.select(panel.feature_names[:n_kept])
    few = panel.select(panel.feature_names[: max(1, int(LEAST_SHARE * n_kept))])
    widths = config.tuning.space.get("d_hidden")
    sizes = [int(size) for size in widths.extremes()] if widths else [config.model.d_hidden]
    smallest, largest = (
        replace(config.recipe(1), model=replace(config.model, d_hidden=d)) for d in (min(sizes), max(sizes))
    )

    all_columns = _timed(probed, config.recipe(1), exploring, device)
    cheap = _timed(few, smallest, producing, device)
    dear = _timed(kept, largest, producing, device)

    epochs, seeds = config.production.epochs, config.production.seeds
    n_trials = config.tuning.n_trials
    least, most = BESIDE_TRAINING_S
    least += _seconds(all_columns, exploring, config.exploration.epochs, device, slow=False)
    most += FORECASTS * _seconds(all_columns, exploring, config.exploration.epochs, device, slow=True)
    least += n_trials * _seconds(cheap, tuning, config.tuning.epochs, device, slow=False) / 2  # some are pruned
    most += FORECASTS * n_trials * _seconds(dear, tuning, config.tuning.epochs, device, slow=True)
    least += _seconds(cheap, producing * seeds, epochs, device, slow=False)
    most += FORECASTS * _seconds(dear, [*producing, *producing[:-1]] * seeds, epochs, device, slow=True)
    return Cost(least, most)


def _timed(panel: Panel, recipe: Recipe, folds: Sequence[Fold], device: torch.device) -> StepTime:
    """Steps of the stack that the longest of these folds is fitted in, on one core or on the GPU."""
    market = Market(panel, recipe.timing, device)
    longest = max(folds, key=lambda fold: len(fold.train))
    n_stacked = evenly(len(folds), largest_stack(market, folds, recipe))
    recipes = [replace(recipe, seed=recipe.seed + number) for number in range(n_stacked)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each fold is trained on a CPU
    try:
        stack = FoldStack(market, [longest] * n_stacked, recipes)
        stack.start_epoch(0)
        stack.step(0)  # compiles, captures, fills caches
        _wait(device)
        seconds: list[float] = []
        for number in range(min(MOST_STEPS, stack.n_steps)):
            seconds.append(_seconds_of(partial(stack.step, number), device))
            if sum(seconds) > MOST_S:
                break
        stack.draw_ahead()
        validation = _seconds_of(stack.validate, device)
    finally:
        torch.set_num_threads(threads)
    return StepTime(min(seconds), float(np.median(seconds)), validation, stack.n_steps / len(longest.train), n_stacked)


def _seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Time of this process on one core, which does not grow while others use the machine; on a GPU, wall time."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    work()
    _wait(device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(step: StepTime, folds: Sequence[Fold], epochs: int, device: torch.device, *, slow: bool) -> float:
    """Wall time of fitting these folds: side by side on all cores at best, at worst as on one, since threads that train
    small networks mostly wait for Python's lock."""
    each, cores = (step.usual_s, 1) if slow else (step.fastest_s, torch.get_num_threads())
    work = sum(epochs * (len(fold.train) * step.steps_per_bar * each + step.validation_s) for fold in folds)
    return work / (min(cores, len(folds)) if device.type == "cpu" else step.n_stacked)
