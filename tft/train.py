"""Training: the loop over epochs and steps of one stack, and how many folds are fitted in parallel.

On a CPU each thread trains one fold at a time; on a GPU many folds are trained as one stacked model (fold_stack.py).

Shapes: M targets, V variables.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tft.blocks import MAX_BLOCK_TARGETS
from tft.fold_stack import FoldStack, network
from tft.fold_store import FoldFit, finished_stack, read_stack, read_stack_size, write_fit, write_stack_size
from tft.folds import Fold
from tft.forecast import Forecasts, forecast, plan, selection_weights, target_block
from tft.market import Market
from tft.model import TemporalFusionTransformer
from tft.panel import Panel
from tft.recipe import EpochReport, Recipe, TrainingConfig
from tft.runtime.store import Store
from tft.runtime.threads import run_in_threads
from tft.windows import CONTEXT_POOL_BARS

__all__ = ["EpochReport", "Recipe", "TrainingConfig", "fit_folds", "map_fits"]

MAX_STACK = 20
"""Most folds, or seeds of one, stacked on a GPU; with so many, launching kernels is a small part of a step"""
GPU_SHARE = 0.8
"""Share of a GPU's free memory that a stack may take according to `bytes_per_fold`"""

Value = TypeVar("Value")
Result = TypeVar("Result")


def train_stack(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    report: Callable[[EpochReport | None], None],
) -> list[FoldFit]:
    """Train folds as one stack, each with its own recipe and seed, until the last epoch or until all have stopped.

    `report` is called after every epoch, and with None before every step; it may raise to abort training.
    """
    stack = FoldStack(market, folds, recipes)
    for epoch in range(stack.recipe.epochs):
        stack.start_epoch(epoch)
        for number in range(stack.n_steps):
            report(None)
            stack.step(number)
        stack.draw_ahead()
        epoch_report = stack.end_epoch(stack.validate())
        report(epoch_report)
        if not epoch_report.n_active:
            break
    return stack.results()


def fit_folds(
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe | Sequence[Recipe],
    *,
    stack_size: int | None = None,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[FoldFit]:
    """Fit every fold, and yield the fits in the order of `folds`, each as soon as its stack is done.

    `recipe` is one for all folds or a sequence with one per fold; the recipes of a stack must have the same `common`. A
    fold may be there several times, with recipes of different seeds.
    `stack_size` is the number of folds per stack, by default as many as `largest_stack` allows, in stacks of nearly
    equal size. On a CPU as many stacks are fitted at once as torch has threads, each in one thread; on a GPU one stack
    is fitted after the other. A fit depends only on the market, the fold, its recipe and the composition of its stack.

    Finished folds are written to `store`, if one is given, and a stack whose folds are all stored is read back instead
    of fitted. The store must be used for this market and these folds and recipes only, and holds one fit per fold index
    and seed. `on_epoch` is called in the caller's thread. Raises ValueError for a fold without training or validation
    targets, FloatingPointError for one whose validation score is never finite.
    """

    def unchanged(number: int, fit: FoldFit) -> FoldFit:
        return fit

    return map_fits(unchanged, market, folds, recipe, stack_size=stack_size, store=store, on_epoch=on_epoch)


def map_fits(
    function: Callable[[int, FoldFit], Result],
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe | Sequence[Recipe],
    *,
    stack_size: int | None = None,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[Result]:
    """Fit every fold, and yield `function(number, fit)` in the order of `folds`, where `number` is the position in it.

    On a CPU the function is called in the thread that fitted the fold. All other arguments, and what is raised, are
    those of `fit_folds`.
    """
    report = on_epoch or (lambda epoch_report: None)
    recipes = per_fold(recipe, len(folds))
    assert store is None or len({*_members(folds, recipes)}) == len(folds), "fits are stored by fold and seed"
    if market.device.type != "cpu":
        for number, fit in enumerate(_fit_stacks_in_turn(market, folds, recipes, stack_size, store, report)):
            yield function(number, fit)
        return
    size = stack_size or 1

    def fit_stack(start: int, report: Callable[[EpochReport | None], None]) -> list[Result]:
        stack = slice(start, start + size)
        fits = _read_or_train(market, folds[stack], recipes[stack], store, report)
        return [function(number, fit) for number, fit in enumerate(fits, start)]

    tasks = [partial(fit_stack, start) for start in range(0, len(folds), size)]
    for results in run_in_threads(tasks, torch.get_num_threads(), report):
        yield from results


def _fit_stacks_in_turn(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    stack_size: int | None,
    store: Store | None,
    report: Callable[[EpochReport], None],
) -> Iterator[FoldFit]:
    """Fit one stack after the other, as on a GPU. A stack that does not fit into the device's memory is halved; the
    size in use is stored, so that a resumed training forms the same stacks.
    """
    stored_size = read_stack_size(store) if store is not None and not stack_size else None
    size = stack_size or stored_size or evenly(len(folds), largest_stack(market, folds, recipes[0]))
    start = 0
    while start < len(folds):
        stack = folds[start : start + size]
        if store is not None and not stack_size:
            finished = finished_stack(store, _members(folds, recipes)[start : start + MAX_STACK])
            stack = folds[start : start + (finished or size)]
            if size != stored_size:
                with warn_if_not_stored(store):
                    write_stack_size(store, size)
                stored_size = size
        try:
            stack_recipes = recipes[start : start + len(stack)]
            fits = _read_or_train(market, stack, stack_recipes, store, lambda epoch: report(epoch) if epoch else None)
        except torch.cuda.OutOfMemoryError as error:
            if size == 1:
                gpu = torch.cuda.get_device_name(market.device)
                pooled = recipes[0].training.objective == "pooled"
                size_of_a_step = "batch_size" if pooled else "block_bars"
                raise ValueError(
                    f"fold {stack[0].index} does not fit into the memory of {gpu}: "
                    f"lower training.{size_of_a_step}, model.n_context or model.d_hidden, or the number of columns"
                ) from error
            fits = []
        if not fits:  # outside the handler, because its traceback keeps the tensors alive
            torch.cuda.empty_cache()
            size = -(-size // 2)
            warnings.warn(f"out of GPU memory: going on with stacks of {size} folds", stacklevel=2)
            continue
        yield from fits
        start += len(stack)


def _read_or_train(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    store: Store | None,
    report: Callable[[EpochReport | None], None],
) -> list[FoldFit]:
    """The fits of one stack: read from the store if they are all there, otherwise trained and written to it."""
    if store is None:
        return train_stack(market, folds, recipes, report)
    fits = read_stack(store, _members(folds, recipes))
    if fits is None:
        fits = train_stack(market, folds, recipes, report)
        with warn_if_not_stored(store):
            for fit in fits:
                write_fit(store, fit)
    return fits


def _members(folds: Sequence[Fold], recipes: Sequence[Recipe]) -> list[tuple[Fold, int]]:
    """Each fold with the seed that it is fitted with, as the store knows it."""
    return [(fold, recipe.seed) for fold, recipe in zip(folds, recipes, strict=True)]


@contextmanager
def warn_if_not_stored(store: Store) -> Iterator[None]:
    """Turn an OSError inside the block into a warning: training goes on, and only a restart loses the stored folds."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"finished folds cannot be kept in {store} ({error.strerror or error})", stacklevel=4)


def largest_stack(market: Market, folds: Sequence[Fold], recipe: Recipe) -> int:
    """Largest number of these folds to stack: 1 on a CPU, whose caches more folds would outgrow; on a GPU as many as
    fit into its free memory, at most MAX_STACK.
    """
    device = market.device
    if device.type == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # cached by torch, and available
    each = bytes_per_fold(recipe, market.panel, max(len(fold.train) for fold in folds))
    return max(1, min(MAX_STACK, int(GPU_SHARE * free) // each))


def evenly(n: int, largest: int) -> int:
    """Size of the parts when n items are shared as equally as possible among the fewest parts of at most `largest`."""
    return -(-n // -(-n // largest))


def bytes_per_fold(recipe: Recipe, panel: Panel, n_training_bars: int) -> int:
    """Estimate of the device memory in bytes per fold of a stack, for its parameters and its largest activations."""
    model, training = recipe.model, recipe.training
    n_variables, n_assets, h = len(panel.feature_names), len(panel.symbols), model.d_hidden
    n_parameters = n_variables * (n_variables * h + 4 * h * h)
    per_target = (1 + model.n_context) * model.seq_len
    n_targets = n_groups = training.batch_size
    n_rows = n_targets * per_target
    if training.objective == "portfolio":  # all targets of an instrument share contexts, and nearly all bars
        n_bars = training.block_bars + recipe.burn_in_bars
        n_groups = max(1, min(n_assets, MAX_BLOCK_TARGETS // n_bars))
        n_targets = n_groups * n_bars
        n_rows = n_targets + n_groups * per_target
    n_cells = min(n_rows, (n_training_bars + CONTEXT_POOL_BARS) * n_assets)
    cells = n_cells * (n_variables * (12 * 4 + 4 * h) + 40 * 4 * h)  # VSN logits, a gradient, selected values
    n_read = (n_targets + n_groups * model.n_context) * model.seq_len
    windows = n_read * 5 * 4 * 4 * h + n_targets * model.seq_len * 80 * 4 * h
    forecasts = target_block(torch.device("cuda")) * per_target * 3 * 4 * 4 * h
    return n_parameters * 10 * 4 + cells + windows + forecasts


def per_fold(value_or_values: Value | Sequence[Value], n_folds: int) -> Sequence[Value]:
    """One value per fold: the given sequence, or a single value repeated."""
    if isinstance(value_or_values, Sequence):
        assert len(value_or_values) == n_folds
        return value_or_values
    return [value_or_values] * n_folds


def fitted_network(fit: FoldFit, market: Market, recipe: Recipe) -> TemporalFusionTransformer:
    """The network with the fold's kept weights, on the market's device."""
    model = network(
        market.panel, recipe, recipe.seed
    )  # not on the meta device: drawing there loads torch's compiler, which takes seconds
    model.load_state_dict(fit.parameters)
    return model.to(market.device)


def forecast_fit(fit: FoldFit, market: Market, recipe: Recipe, bars: range) -> tuple[Forecasts, NDArray[np.int64]]:
    """Forecast all targets in `bars` with the fold's kept weights; returns the forecasts and their flat cells (M,)."""
    device = market.device
    space = market.space(fit.scaler, recipe.model)
    cells = space.targets(bars)
    model = fitted_network(fit, market, recipe)
    (forecasts,) = forecast(
        model,
        {name: value.detach().unsqueeze(0) for name, value in model.named_parameters()},
        market.on_device,
        torch.from_numpy(fit.scaler.mean)[None].to(device),
        torch.from_numpy(fit.scaler.std)[None].to(device),
        plan([space], [cells], seeds=[recipe.seed], device=device),
    )
    return forecasts, cells


def selection_of_fit(
    fit: FoldFit, market: Market, recipe: Recipe, bars: range
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """VSN weights (M, V) of all targets in `bars` with the fold's kept weights, and their flat cells (M,)."""
    device = market.device
    cells = market.space(fit.scaler, recipe.model).targets(bars)
    mean, std = (torch.from_numpy(each).to(device) for each in (fit.scaler.mean, fit.scaler.std))
    return selection_weights(fitted_network(fit, market, recipe), market.on_device, mean, std, cells), cells
