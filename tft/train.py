"""Training: the loop over epochs and steps, and many folds side by side.

On a CPU every core trains a fold of its own; on a GPU K folds are one stacked model (fold_stack.py).

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

from tft.fold_stack import FoldStack, network
from tft.fold_store import FoldFit, finished_stack, read_stack, read_stack_size, write_fit, write_stack_size
from tft.folds import Fold
from tft.forecast import TARGET_BLOCK, Forecasts, forecast, plan, selection_weights
from tft.market import Market
from tft.model import TemporalFusionTransformer
from tft.panel import Panel
from tft.recipe import EpochReport, Recipe, TrainingConfig
from tft.runtime.store import Store
from tft.runtime.threads import run_in_threads
from tft.windows import CONTEXT_POOL_BARS

__all__ = ["EpochReport", "Recipe", "TrainingConfig", "fit_folds", "map_fits"]

MAX_STACK = 20
"""Folds trained as one on a GPU, memory permitting: by then launching kernels is a small part of a step."""
GPU_SHARE = 0.8
"""Part of the free memory that a stack may take by its own reckoning."""

Value = TypeVar("Value")
Result = TypeVar("Result")


def train_stack(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    report: Callable[[EpochReport | None], None],
) -> list[FoldFit]:
    """Train folds as one stack, each with its own recipe, until the epochs are over or every fold has stopped.

    `report` is called after every epoch, and with None before every step: it may raise to end the work.
    """
    stack = FoldStack(market, folds, recipes)
    for epoch in range(stack.recipe.epochs):
        stack.start_epoch(epoch)
        for number in range(stack.n_steps):
            report(None)
            stack.step(number)
        stack.draw_ahead()
        ended = stack.end_epoch(stack.validate())
        report(ended)
        if not ended.n_active:
            break
    return stack.results()


def fit_folds(
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe | Sequence[Recipe],
    *,
    stack: int | None = None,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[FoldFit]:
    """Fit every fold and yield each, in order, as soon as its stack is done.

    `recipe` is one for all folds, or one for each; those of a stack must have the same `common`. On a CPU as many
    stacks are fitted at once as torch has threads, each by one, which lends its core to the others when no stack is
    left; on a GPU one after the other. The result of a fold depends on the market, the fold, its recipe and the
    composition of its stack (`stack` folds, by default as many as can be trained as one, evenly shared), on nothing
    else. With a `store`, finished folds are kept there, and a stack whose folds are all there is read back instead of
    fitted: the store must belong to this market and to these folds and recipes, and has place for one fit of a fold.
    `on_epoch` is called in the caller's thread. Raises ValueError for a fold without training or validation targets,
    FloatingPointError for one whose validation score is never finite.
    """
    return map_fits(lambda number, fit: fit, market, folds, recipe, stack=stack, store=store, on_epoch=on_epoch)


def map_fits(
    function: Callable[[int, FoldFit], Result],
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe | Sequence[Recipe],
    *,
    stack: int | None = None,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[Result]:
    """Fit every fold and yield `function(number, fit)` of each in order, `number` being its place in `folds`.

    On a CPU the function is called in the thread that fitted the fold. The rest is as in `fit_folds`.
    """
    report = on_epoch or (lambda one: None)
    recipes = per_fold(recipe, len(folds))
    assert store is None or len({fold.index for fold in folds}) == len(folds), (
        "fits are kept by the index of their fold"
    )
    if market.device.type != "cpu":
        for number, fit in enumerate(_fit_stacks_in_turn(market, folds, recipes, stack, store, report)):
            yield function(number, fit)
        return
    size = stack or 1

    def fit_stack(start: int, report: Callable[[EpochReport | None], None]) -> list[Result]:
        own = slice(start, start + size)
        fits = _read_or_train(market, folds[own], recipes[own], store, report)
        return [function(number, fit) for number, fit in enumerate(fits, start)]

    work = [partial(fit_stack, start) for start in range(0, len(folds), size)]
    for results in run_in_threads(work, torch.get_num_threads(), report):
        yield from results


def _fit_stacks_in_turn(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    stack: int | None,
    store: Store | None,
    report: Callable[[EpochReport], None],
) -> Iterator[FoldFit]:
    """One stack after the other, as on a GPU. A stack that does not fit into the device's memory is halved; the size is
    noted in the store, for a process that goes on later.
    """
    noted = read_stack_size(store) if store is not None and not stack else None
    size = stack or noted or evenly(len(folds), largest_stack(market, folds, recipes[0]))
    start = 0
    while start < len(folds):
        own = folds[start : start + size]
        if store is not None and not stack:
            own = finished_stack(store, folds[start:]) or own
            if size != noted:
                with _warned_where_not_kept(store):
                    write_stack_size(store, size)
                noted = size
        try:
            own_recipes = recipes[start : start + len(own)]
            fits = _read_or_train(market, own, own_recipes, store, lambda one: report(one) if one else None)
        except torch.cuda.OutOfMemoryError as error:
            if size == 1:
                raise ValueError(
                    f"fold {own[0].index} does not fit into the memory of {torch.cuda.get_device_name(market.device)}: "
                    "lower training.batch_size, model.n_context or model.d_hidden, or the number of columns"
                ) from error
            fits = []
        if not fits:  # outside the handler, whose traceback holds the tensors
            torch.cuda.empty_cache()
            size = -(-size // 2)
            warnings.warn(f"out of GPU memory: going on with stacks of {size} folds", stacklevel=2)
            continue
        yield from fits
        start += len(own)


def _read_or_train(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    store: Store | None,
    report: Callable[[EpochReport | None], None],
) -> list[FoldFit]:
    """The fits of one stack: read back if they are in the store, otherwise made and kept there."""
    if store is None:
        return train_stack(market, folds, recipes, report)
    fits = read_stack(store, folds)
    if fits is None:
        fits = train_stack(market, folds, recipes, report)
        with _warned_where_not_kept(store):
            for fit in fits:
                write_fit(store, fit)
    return fits


@contextmanager
def _warned_where_not_kept(store: Store) -> Iterator[None]:
    """A store that cannot be written to ends no training: only a restart would have read it."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"finished folds cannot be kept in {store} ({error.strerror or error})", stacklevel=4)


def largest_stack(market: Market, folds: Sequence[Fold], recipe: Recipe) -> int:
    """Fits of such folds that can be trained as one: one on a CPU, whose caches more would outgrow; on a GPU as many as
    its free memory holds, at most MAX_STACK.
    """
    device = market.device
    if device.type == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps it for what is next
    each = bytes_per_fold(recipe, market.panel, max(len(fold.train) for fold in folds))
    return max(1, min(MAX_STACK, int(GPU_SHARE * free) // each))


def evenly(n: int, largest: int) -> int:
    """The size of as few parts of n as have at most `largest` each, shared as equally as can be."""
    return -(-n // -(-n // largest))


def bytes_per_fold(recipe: Recipe, panel: Panel, n_training_bars: int) -> int:
    """Roughly what a fold of a stack takes on the device: its share of a step's or a forecast's largest tensors."""
    model, training = recipe.model, recipe.training
    n_variables, n_assets, h = len(panel.feature_names), len(panel.symbols), model.d_hidden
    n_parameters = n_variables * (n_variables * h + 4 * h * h)
    per_target = (1 + model.n_context) * model.seq_len
    n_cells = min(training.batch_size * per_target, (n_training_bars + CONTEXT_POOL_BARS) * n_assets)
    cells = n_cells * (n_variables * (12 * 4 + 4 * h) + 40 * 4 * h)  # VSN logits, a gradient, what is selected
    windows = training.batch_size * (per_target * 5 * 4 * 4 * h + model.seq_len * 80 * 4 * h)
    forecasts = TARGET_BLOCK * per_target * 3 * 4 * 4 * h
    return n_parameters * 10 * 4 + cells + windows + forecasts


def per_fold(one_or_each: Value | Sequence[Value], n_folds: int) -> Sequence[Value]:
    """A value for each fold: the one given, repeated, or those given."""
    if isinstance(one_or_each, Sequence):
        assert len(one_or_each) == n_folds
        return one_or_each
    return [one_or_each] * n_folds


def fitted_network(fit: FoldFit, market: Market, recipe: Recipe) -> TemporalFusionTransformer:
    """The network with the fold's kept weights, on the market's device."""
    model = network(market.panel, recipe, recipe.seed)  # on torch's meta device a draw loads its compiler, for seconds
    model.load_state_dict(fit.parameters)
    return model.to(market.device)


def forecast_fit(fit: FoldFit, market: Market, recipe: Recipe, bars: range) -> tuple[Forecasts, NDArray[np.int64]]:
    """Forecasts for `bars` with the fold's kept weights, and the flat cells (M,) that they are for."""
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
        plan([space], [cells], seed=recipe.seed, device=device),
    )
    return forecasts, cells


def selection_of_fit(
    fit: FoldFit, market: Market, recipe: Recipe, bars: range
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """VSN weights (M, V) for `bars` with the fold's kept weights, and the flat cells (M,) that they are for."""
    device = market.device
    cells = market.space(fit.scaler, recipe.model).targets(bars)
    mean, std = (torch.from_numpy(each).to(device) for each in (fit.scaler.mean, fit.scaler.std))
    return selection_weights(fitted_network(fit, market, recipe), market.on_device, mean, std, cells), cells
