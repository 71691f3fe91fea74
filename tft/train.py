"""Training: one loop, many folds side by side.

On a CPU every core trains a fold of its own; on a GPU K folds are one stacked model and a step is one recorded graph.
Gradient norm, clipping, early stopping and the kept weights are each fold's own; a fold that has stopped, or has fewer
batches than the others, is masked out of the update, never compacted away.

Shapes: K stacked folds, P parameters of one model, E epochs run, B batch, T bars, A instruments, V variables.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.fold_store import FoldFit, keep_size, kept, kept_composition, kept_size
from tft.fold_store import keep as keep_fit
from tft.folds import Fold
from tft.forecast import TARGET_BLOCK, Forecasts, Plan, by_fold, forecast, forecast_tensors, plan, selection_weights
from tft.kernels.adam import adam
from tft.kernels.dropout_mask import Dropout
from tft.loss import training_loss, validation_score
from tft.model import LOSS_MODES, LossMode, ModelConfig, Output, TemporalFusionTransformer, stacked
from tft.panel import Panel
from tft.runtime.graph import Captured
from tft.runtime.threads import side_by_side
from tft.scaling import Scaler
from tft.volatility import Timing, ewm_volatility, scaled_label
from tft.windows import CONTEXT_POOL_BARS, DevicePanel, TrainingSampler, WindowSpace, key

MAX_GRADIENT_NORM = 1.0
SMOOTHING_EPOCHS = 5
"""Early stopping goes by the mean validation score of this many epochs."""
MAX_STACK = 20
"""Fits trained as one on a GPU, memory permitting: by then launching is a small part of a step."""
GPU_SHARE = 0.8
"""Of the free memory, what a stack may take by its own reckoning."""
Each = TypeVar("Each")
MAX_RECORDED_BLOCKS = 32
"""Of validation targets: a graph of more would take longer to record than it saves."""
_initialising = threading.Lock()
"""Initial weights are drawn from the global generator, which threads share."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class TrainingConfig:
    """How a fold is fitted."""

    lr: float = 0.0027
    batch_size: int = 16
    loss_mode: LossMode = "joint_mle"
    mle_weight: float = 0.186
    patience: int = 15
    """Epochs without a better smoothed validation score before a fold stops; 0 never stops."""

    def faults(self) -> list[str]:
        found = []
        if self.lr <= 0.0:
            found.append(f"training.lr is {self.lr}, it must be positive")
        if self.batch_size < 2:
            found.append(f"training.batch_size is {self.batch_size}, the least is 2")
        if self.loss_mode not in LOSS_MODES:
            found.append(f"training.loss_mode is {self.loss_mode!r}, it must be one of {', '.join(LOSS_MODES)}")
        if self.mle_weight < 0.0:
            found.append(f"training.mle_weight is {self.mle_weight}, it must be at least 0")
        if self.patience < 0:
            found.append(f"training.patience is {self.patience}, the least is 0 (never stop)")
        return found


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a fit does, besides the data and the fold."""

    model: ModelConfig
    training: TrainingConfig
    timing: Timing
    epochs: int
    seed: int

    @property
    def common(self) -> Recipe:
        """What recipes of one stack agree on: all but learning rate, weight of the likelihood, and dropout."""
        return replace(
            self, model=replace(self.model, dropout=0.0), training=replace(self.training, lr=1.0, mle_weight=0.0)
        )


class EpochReport(NamedTuple):
    """What is known after an epoch of a stack."""

    folds: tuple[int, ...]
    epoch: int
    train_loss: tuple[float, ...]
    validation_score: tuple[float, ...]
    n_active: int
    seconds: float


class Market:
    """A panel made ready for fitting and forecasting: on the device once, volatility and labels computed once.

    `sigma` (T, A) scales labels and positions; by default the volatility of the panel's own returns.
    """

    def __init__(
        self, panel: Panel, timing: Timing, device: torch.device, sigma: NDArray[np.float64] | None = None
    ) -> None:
        self.panel, self.timing, self.device = panel, timing, device
        self.sigma = ewm_volatility(panel.returns) if sigma is None else sigma  # (T, A)
        assert self.sigma.shape == panel.returns.shape
        self.y = scaled_label(panel.returns, self.sigma, timing)  # (T, A), NaN where there is no label
        self.on_device = DevicePanel(panel.features, device)
        self.y_on_device = torch.from_numpy(np.nan_to_num(self.y, nan=0.0).astype(np.float32).reshape(-1)).to(device)

        self._spaces: dict[tuple[bytes, int, int], WindowSpace] = {}

    def space(self, scaler: Scaler, config: ModelConfig) -> WindowSpace:
        panel, usable = self.panel, np.isfinite(scaler.std)
        key = (usable.tobytes(), config.seq_len, config.n_context)
        if key not in self._spaces:  # nearly always the same for all folds
            self._spaces[key] = WindowSpace.of(
                panel.features, panel.times, panel.symbols, scaler, seq_len=config.seq_len, n_context=config.n_context
            )
        return self._spaces[key]


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises ValueError for a device this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but no GPU is available here: use auto or cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    n_gpus = torch.cuda.device_count()
    if device is None or device.type not in ("cpu", "cuda") or (device.index or 0) >= max(1, n_gpus):
        raise ValueError(f"device is {name!r}, which is none here: use auto, cpu" + ", cuda" * (n_gpus > 0))
    return device


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


def fit_folds(
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe | Sequence[Recipe],
    *,
    stack: int | None = None,
    keep: Path | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[FoldFit]:
    """Fit every fold and yield each, in order, as soon as its stack is done.

    `recipe`: of all folds, or one each; those of a stack must have the same `common`. On a CPU as many stacks are
    fitted at once as torch has threads, each by one, which lends its core to the others when no stack is left
    (lent_cores.py); on a GPU one after the other. The result of a fold depends on the market, the fold, its recipe and
    the composition of its stack (`stack` folds, by default as many as can be trained as one, evenly shared), on nothing
    else. With `keep`, finished folds are written to that folder, and a stack whose folds are all there is read back
    instead of fitted: the folder must belong to this market and to these folds and recipes, and has place for one fit
    of a fold. `on_epoch` is called in the caller's thread. Raises ValueError for a fold without training or validation
    targets.
    """
    return map_fits(lambda number, fit: fit, market, folds, recipe, stack=stack, keep=keep, on_epoch=on_epoch)


def map_fits(
    follow: Callable[[int, FoldFit], Result],
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe | Sequence[Recipe],
    *,
    stack: int | None = None,
    keep: Path | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[Result]:
    """What `follow` makes of the number (in `folds`) and the fit of every fold, on a CPU in the thread that fitted it.

    The rest as in `fit_folds`.
    """
    report = on_epoch or (lambda one: None)
    recipes = one_each(recipe, len(folds))
    assert keep is None or len({fold.index for fold in folds}) == len(folds), "fits are kept by the index of their fold"
    if market.device.type != "cpu":
        for number, fit in enumerate(_one_stack_after_the_other(market, folds, recipes, stack, keep, report)):
            yield follow(number, fit)
        return
    size = stack or 1

    def piece(start: int, report: Callable[[EpochReport | None], None]) -> list[Result]:
        own = slice(start, start + size)
        fits = _fitted(market, folds[own], recipes[own], keep, report)
        return [follow(number, fit) for number, fit in enumerate(fits, start)]

    work = [partial(piece, start) for start in range(0, len(folds), size)]
    for results in side_by_side(work, torch.get_num_threads(), report):
        yield from results


def _one_stack_after_the_other(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    stack: int | None,
    keep: Path | None,
    report: Callable[[EpochReport], None],
) -> Iterator[FoldFit]:
    """Stacks that do not fit into the device's memory are halved; the size is kept for a process that goes on later."""
    size = stack or (kept_size(keep) if keep else None)
    if not size:
        size = evenly(len(folds), largest_stack(market, folds, recipes[0]))
    start = 0
    while start < len(folds):
        own = folds[start : start + size]
        if keep and not stack:
            own = kept_composition(keep, folds[start:]) or own
            keep_size(keep, size)
        try:
            own_recipes = recipes[start : start + len(own)]
            fits = _fitted(market, own, own_recipes, keep, lambda one: report(one) if one else None)
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


def _fitted(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    keep: Path | None,
    report: Callable[[EpochReport | None], None],
) -> list[FoldFit]:
    """The fits of one stack, read back or made."""
    fits = kept(keep, folds) if keep else None
    if fits is None:
        fits = _fit_stack(market, folds, recipes, report)
        if keep:
            try:
                for fit in fits:
                    keep_fit(keep, fit)
            except OSError as error:  # only a restart would have read it
                warnings.warn(f"finished folds cannot be kept in {keep} ({error.strerror})", stacklevel=2)
    return fits


def _fit_stack(
    market: Market,
    folds: Sequence[Fold],
    recipes: Sequence[Recipe],
    report: Callable[[EpochReport | None], None],
) -> list[FoldFit]:
    """`report` is called with None before every step: it may raise to end the work."""
    started = time.perf_counter()
    recipe = recipes[0].common
    assert all(other.common == recipe for other in recipes), "a stack has one shape"
    device, training = market.device, recipe.training
    n_folds, n_assets = len(folds), len(market.panel.symbols)
    lr = torch.tensor([[own.training.lr] for own in recipes], device=device)  # (K, 1)
    mle_weight = torch.tensor([own.training.mle_weight for own in recipes], device=device)  # (K,)
    dropout = [own.model.dropout for own in recipes]
    scalers = [Scaler.fit(market.panel.features[fold.train.start : fold.train.stop]) for fold in folds]
    spaces = [market.space(scaler, recipe.model) for scaler in scalers]
    mean = torch.from_numpy(np.stack([scaler.mean for scaler in scalers])).to(device)  # (K, V)
    std = torch.from_numpy(np.stack([scaler.std for scaler in scalers])).to(device)
    labelled = np.isfinite(market.y)
    sampler = TrainingSampler(spaces, folds, labelled, batch_size=training.batch_size, seed=recipe.seed, device=device)
    held_out = [space.targets(fold.validation) for space, fold in zip(spaces, folds, strict=True)]
    for fold, cells in zip(folds, held_out, strict=True):
        if not labelled.reshape(-1)[cells].any():
            raise ValueError(
                f"fold {fold.index} has no validation target: between bars {fold.validation.start} and "
                f"{fold.validation.stop - 1} no instrument has both a feature and a label; widen validation_window"
            )

    validation = plan(spaces, held_out, seed=recipe.seed, device=device)

    model, flat = initial_parameters(market.panel, folds, recipe, device)
    shapes = [(name, value.shape, value.numel()) for name, value in model.named_parameters()]
    first_moment, second_moment = torch.zeros_like(flat), torch.zeros_like(flat)
    n_updates = torch.zeros(n_folds, 1, device=device)
    skipped = torch.zeros(n_folds, 1, device=device)
    active = torch.ones(n_folds, 1, device=device)
    total = torch.zeros(n_folds, device=device)
    generator = torch.Generator(device)
    drawn = Dropout.of(generator, dropout) if any(dropout) else None
    best = flat.clone()
    best_score = np.full(n_folds, np.inf)
    kept_epoch = np.zeros(n_folds, dtype=int)
    losses: list[NDArray[np.float64]] = []
    scores: list[NDArray[np.float64]] = []
    positions: list[list[NDArray[np.float32]]] = []

    def step(cells: Tensor, windows: Tensor, has_context: Tensor, targets: Tensor, counted: Tensor) -> None:
        """One update of every fold, in place: forward, loss, backward, clipping, Adam."""
        x, present, asset = market.on_device.cells(cells, mean, std)
        weights = flat.detach().requires_grad_()
        output: Output
        output, _ = stacked(model, _named(weights, shapes), "", x, present, asset, windows, has_context, dropout=drawn)
        loss = training_loss(
            output.position,
            output.distribution,
            market.y_on_device[targets],  # (K, B)
            counted,
            loss_mode=training.loss_mode,
            mle_weight=mle_weight,
            periods_per_year=market.timing.periods_per_year,
        )  # (K,)
        (gradient,) = torch.autograd.grad(loss.sum(), weights)
        has_batch = (counted.sum(dim=1, keepdim=True) > 0).to(flat.dtype)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (K, 1)
        finite = torch.isfinite(norm).to(flat.dtype)
        skipped.add_(active * has_batch * (1.0 - finite))
        clip = (MAX_GRADIENT_NORM / norm.clamp_min(MAX_GRADIENT_NORM)).nan_to_num(nan=0.0)
        adam(flat, gradient, first_moment, second_moment, n_updates, clip, active * has_batch * finite, lr)
        total.add_(loss.detach() * has_batch[:, 0])

    on_device: Callable[[], tuple[Tensor, Tensor]] = partial(
        forecast_tensors, model, _named(flat, shapes), market.on_device, mean, std, validation
    )
    recorded: Captured[None] | None = None
    for epoch in range(recipe.epochs):
        epoch_started = time.perf_counter()
        sampler.start_epoch(epoch)
        total.zero_()
        if device.type == "cuda" and recorded is None:
            changed = [flat, first_moment, second_moment, n_updates, skipped, total]
            recorded = Captured(step, sampler.batch(0), changed=changed, generator=generator)
        generator.manual_seed(key(recipe.seed, "dropout", epoch, *(fold.index for fold in folds)))
        for number in range(sampler.n_steps):
            report(None)
            (recorded or step)(*sampler.batch(number))
        if epoch + 1 < recipe.epochs:
            sampler.draw(epoch + 1)  # while a GPU is at work

        if device.type == "cuda" and not epoch and validation.n_blocks <= MAX_RECORDED_BLOCKS:
            on_device = Captured(on_device)
        forecasts = validate(on_device, validation)
        losses.append(total.double().cpu().numpy() / np.array(sampler.steps_per_fold))
        scores.append(
            np.array([_score(f, market, cells, recipe) for f, cells in zip(forecasts, held_out, strict=True)])
        )
        positions.append(
            [
                _on_grid(f.position, cells, fold.validation, n_assets).astype(np.float32)
                for f, cells, fold in zip(forecasts, held_out, folds, strict=True)
            ]
        )
        smoothed = np.mean(scores[-SMOOTHING_EPOCHS:], axis=0)
        was_active = active[:, 0].cpu().numpy() > 0.0
        improved = was_active & (smoothed < best_score)
        best_score = np.where(improved, smoothed, best_score)
        kept_epoch[improved] = epoch
        best = torch.where(torch.from_numpy(improved).to(device)[:, None], flat, best)
        if training.patience:
            active *= torch.from_numpy(epoch - kept_epoch < training.patience).to(device)[:, None]
        n_active = int(active.sum())
        report(
            EpochReport(
                tuple(fold.index for fold in folds),
                epoch,
                tuple(losses[-1].tolist()),
                tuple(scores[-1].tolist()),
                n_active,
                time.perf_counter() - epoch_started,
            )
        )
        if not n_active:
            break

    lost = [k for k in range(n_folds) if not np.isfinite(best_score[k])]
    if lost:
        indices = ", ".join(str(folds[k].index) for k in lost)
        rates = ", ".join(dict.fromkeys(str(recipes[k].training.lr) for k in lost))
        raise FloatingPointError(
            f"the validation score of fold {indices} was never finite: lower training.lr ({rates}) or check the data"
        )
    n_skipped = skipped[:, 0].cpu().numpy().astype(int)
    seconds = (time.perf_counter() - started) / n_folds
    best_parameters = {name: value.cpu() for name, value in _named(best, shapes).items()}
    return [
        FoldFit(
            fold=fold,
            scaler=scalers[k],
            parameters={name: value[k].clone() for name, value in best_parameters.items()},
            kept_epoch=int(kept_epoch[k]),
            train_loss=np.array([loss[k] for loss in losses]),
            validation_score=np.array([score[k] for score in scores]),
            validation_position=np.stack([epoch_positions[k] for epoch_positions in positions]),
            skipped_steps=int(n_skipped[k]),
            seconds=seconds,
            stack=tuple(other.index for other in folds),
        )
        for k, fold in enumerate(folds)
    ]


def validate(on_device: Callable[[], tuple[Tensor, Tensor]], plan: Plan) -> list[Forecasts]:
    """Each fold's forecasts after an epoch."""
    return by_fold(plan, *on_device())


def one_each(one_or_all: Each | Sequence[Each], n: int) -> Sequence[Each]:
    """The same one n times, or n of them as they are given."""
    if isinstance(one_or_all, Sequence):
        assert len(one_or_all) == n
        return one_or_all
    return [one_or_all] * n


def initial_parameters(
    panel: Panel, folds: Sequence[Fold], recipe: Recipe, device: torch.device
) -> tuple[TemporalFusionTransformer, Tensor]:
    """The network and its initial parameters (K, P), drawn by (seed, fold)."""
    networks = [network(panel, recipe, key(recipe.seed, "initial", fold.index)) for fold in folds]
    rows = [torch.cat([value.detach().flatten() for value in one.parameters()]) for one in networks]
    return networks[0].to(device), torch.stack(rows).to(device)


def network(panel: Panel, recipe: Recipe, seed: int) -> TemporalFusionTransformer:
    """With initial parameters drawn by the seed."""
    with _initialising, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TemporalFusionTransformer(
            recipe.model,
            n_variables=len(panel.feature_names),
            n_assets=len(panel.symbols),
            loss_mode=recipe.training.loss_mode,
        )


def fitted_network(fit: FoldFit, market: Market, recipe: Recipe) -> TemporalFusionTransformer:
    """The network with the fold's kept weights, on the market's device."""
    model = network(market.panel, recipe, recipe.seed)  # on torch's meta device a draw loads its compiler, for seconds
    model.load_state_dict(fit.parameters)
    return model.to(market.device)


def forecast_fit(fit: FoldFit, market: Market, recipe: Recipe, bars: range) -> tuple[Forecasts, NDArray[np.int64]]:
    """Forecasts of the fold's kept weights for `bars`, and the flat cells (M,) they are of."""
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
    """VSN weights (M, V) of the fold's kept weights for `bars`, and the flat cells (M,) they are of."""
    device = market.device
    cells = market.space(fit.scaler, recipe.model).targets(bars)
    mean, std = (torch.from_numpy(each).to(device) for each in (fit.scaler.mean, fit.scaler.std))
    return selection_weights(fitted_network(fit, market, recipe), market.on_device, mean, std, cells), cells


def _named(flat: Tensor, shapes: Sequence[tuple[str, torch.Size, int]]) -> dict[str, Tensor]:
    """Parameters (K, ...) by name as views of flat (K, P); the backward of a split is one concatenation."""
    parts = torch.split(flat, [size for _, _, size in shapes], dim=1)
    return {name: part.reshape(-1, *shape) for (name, shape, _), part in zip(shapes, parts, strict=True)}


def _score(forecasts: Forecasts, market: Market, cells: NDArray[np.int64], recipe: Recipe) -> float:
    y = market.y.reshape(-1)[cells]
    counted = np.isfinite(y)
    score = validation_score(
        torch.from_numpy(forecasts.position),
        torch.from_numpy(forecasts.distribution),
        torch.from_numpy(np.nan_to_num(y, nan=0.0)),
        torch.from_numpy(counted.astype(np.float64)),
        loss_mode=recipe.training.loss_mode,
        periods_per_year=market.timing.periods_per_year,
    )
    return float(score) if math.isfinite(score) else math.inf


def _on_grid(values: NDArray[np.float64], cells: NDArray[np.int64], bars: range, n_assets: int) -> NDArray[np.float64]:
    """Values (M,) of flat cells on the grid (len(bars), A), NaN elsewhere."""
    grid = np.full(len(bars) * n_assets, np.nan)
    grid[cells - bars.start * n_assets] = values
    return grid.reshape(len(bars), n_assets)
