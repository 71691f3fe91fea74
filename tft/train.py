"""Training: one loop, many folds side by side.

K folds are one stacked model. Gradient norm, clipping, early stopping and the kept weights are each fold's own; a fold
that has stopped, or has fewer batches than the others, is masked out of the update, never compacted away.

Shapes: K stacked folds, P parameters of one model, E epochs run, B batch, T bars, A instruments, V variables.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from tft.checkpoint import tensors_to_bytes, write_folder_atomically
from tft.folds import Fold
from tft.forecast import Forecasts, forecast
from tft.loss import training_loss, validation_score
from tft.model import LOSS_MODES, LossMode, ModelConfig, Output, TemporalFusionTransformer, stacked
from tft.panel import Panel
from tft.scaling import Scaler
from tft.volatility import Timing, ewm_volatility, scaled_label
from tft.windows import DevicePanel, TrainingSampler, WindowSpace, key

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam (Kingma & Ba 2015)."""
MAX_GRADIENT_NORM = 1.0
SMOOTHING_EPOCHS = 5
"""Early stopping goes by the mean validation score of this many epochs."""


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


@dataclass(frozen=True, eq=False)
class FoldFit:
    """One fitted fold, weights of the kept epoch."""

    fold: Fold
    scaler: Scaler
    parameters: dict[str, Tensor]
    """On the CPU, by name."""
    kept_epoch: int
    """Counted from 0."""
    train_loss: NDArray[np.float64]
    """(E,) mean over steps"""
    validation_score: NDArray[np.float64]
    """(E,) not smoothed"""
    validation_position: NDArray[np.float32]
    """(E, n_validation, A) raw positions after each epoch; NaN where there is no target"""
    skipped_steps: int
    """Updates left out because a gradient was not finite."""
    seconds: float
    """Wall time of the fold's stack, shared equally."""


class EpochReport(NamedTuple):
    """What is known after an epoch of a stack."""

    folds: tuple[int, ...]
    epoch: int
    train_loss: tuple[float, ...]
    validation_score: tuple[float, ...]
    n_active: int
    seconds: float


class Market:
    """A panel made ready for fitting and forecasting: on the device once, volatility and labels computed once."""

    def __init__(self, panel: Panel, timing: Timing, device: torch.device) -> None:
        self.panel, self.timing, self.device = panel, timing, device
        self.sigma = ewm_volatility(panel.returns)  # (T, A)
        self.y = scaled_label(panel.returns, self.sigma, timing)  # (T, A), NaN where there is no label
        self.on_device = DevicePanel(panel.features, device)
        self.y_on_device = torch.from_numpy(np.nan_to_num(self.y, nan=0.0).astype(np.float32).reshape(-1)).to(device)

    def space(self, scaler: Scaler, config: ModelConfig) -> WindowSpace:
        panel = self.panel
        return WindowSpace.of(
            panel.features, panel.times, panel.symbols, scaler, seq_len=config.seq_len, n_context=config.n_context
        )


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


def stack_size(n_folds: int, device: torch.device) -> int:
    """Folds to train side by side: one on a CPU, whose caches a larger stack outgrows, sixteen on a GPU."""
    return 1 if device.type == "cpu" else min(n_folds, 16)


def fit_folds(
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe,
    *,
    stack: int | None = None,
    keep: Path | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[FoldFit]:
    """Fit every fold, `stack` at a time (default: `stack_size`), and yield each as soon as its stack is done.

    The result of a fold depends on the market, the fold, the recipe and the composition of its stack, on nothing
    else. With `keep`, finished folds are written to that folder, and a stack whose folds are all there is read back
    instead of fitted: the folder must belong to this market, recipe and folds. Raises ValueError for a fold without
    training or validation targets.
    """
    size = stack or stack_size(len(folds), market.device)
    for start in range(0, len(folds), size):
        own = folds[start : start + size]
        fits = _kept(keep, own) if keep else None
        if fits is None:
            fits = _fit_stack(market, own, recipe, on_epoch or (lambda report: None))
            if keep:
                try:
                    for fit in fits:
                        _keep(keep, fit, own)
                except OSError as error:  # only a restart would have read it
                    warnings.warn(f"finished folds cannot be kept in {keep} ({error.strerror})", stacklevel=2)
        yield from fits


def _fit_stack(
    market: Market, folds: Sequence[Fold], recipe: Recipe, on_epoch: Callable[[EpochReport], None]
) -> list[FoldFit]:
    started = time.perf_counter()
    device, training = market.device, recipe.training
    n_folds, n_assets = len(folds), len(market.panel.symbols)
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

    model, flat = initial_parameters(market.panel, folds, recipe, device)
    shapes = [(name, value.shape, value.numel()) for name, value in model.named_parameters()]
    first_moment, second_moment = torch.zeros_like(flat), torch.zeros_like(flat)
    n_updates = torch.zeros(n_folds, 1, device=device)
    skipped = torch.zeros(n_folds, 1, device=device)
    active = torch.ones(n_folds, 1, device=device)
    best = flat.clone()
    best_score = np.full(n_folds, np.inf)
    kept_epoch = np.zeros(n_folds, dtype=int)
    losses: list[NDArray[np.float64]] = []
    scores: list[NDArray[np.float64]] = []
    positions: list[list[NDArray[np.float32]]] = []

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(recipe.epochs):
            epoch_started = time.perf_counter()
            torch.manual_seed(key(recipe.seed, "dropout", epoch, *(fold.index for fold in folds)))
            sampler.start_epoch(epoch)
            model.train()
            total = torch.zeros(n_folds, device=device)
            for step in range(sampler.n_steps):
                batch = sampler.batch(step)
                x, present, asset = market.on_device.cells(batch.cells, mean, std)
                flat.requires_grad_(True)
                output: Output
                output, _ = stacked(
                    model, _named(flat, shapes), "", x, present, asset, batch.windows, batch.has_context
                )
                y = market.y_on_device[batch.targets]  # (K, B)
                loss = training_loss(
                    output.position,
                    output.distribution,
                    y,
                    batch.counted,
                    loss_mode=training.loss_mode,
                    mle_weight=training.mle_weight,
                    periods_per_year=market.timing.periods_per_year,
                )  # (K,)
                (gradient,) = torch.autograd.grad(loss.sum(), flat)
                flat.requires_grad_(False)
                has_batch = (batch.counted.sum(dim=1, keepdim=True) > 0).to(flat.dtype)
                norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (K, 1)
                finite = torch.isfinite(norm).to(flat.dtype)
                update = active * has_batch * finite
                skipped += active * has_batch * (1.0 - finite)
                gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                gradient = gradient * (MAX_GRADIENT_NORM / norm.clamp_min(MAX_GRADIENT_NORM)).nan_to_num(nan=0.0)
                _adam(flat, gradient, first_moment, second_moment, n_updates, update, training.lr)
                total += loss.detach() * has_batch[:, 0]

            forecasts = forecast(
                model, _named(flat, shapes), market.on_device, mean, std, spaces, held_out, seed=recipe.seed
            )
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
            on_epoch(
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

    if not np.isfinite(best_score).all():
        lost = ", ".join(
            str(fold.index) for fold, score in zip(folds, best_score, strict=True) if not np.isfinite(score)
        )
        raise FloatingPointError(
            f"the validation score of fold {lost} was never finite: lower training.lr ({training.lr}) or check the data"
        )
    n_skipped = skipped[:, 0].cpu().numpy().astype(int)
    seconds = (time.perf_counter() - started) / n_folds
    kept = {name: value.cpu() for name, value in _named(best, shapes).items()}
    return [
        FoldFit(
            fold=fold,
            scaler=scalers[k],
            parameters={name: value[k].clone() for name, value in kept.items()},
            kept_epoch=int(kept_epoch[k]),
            train_loss=np.array([loss[k] for loss in losses]),
            validation_score=np.array([score[k] for score in scores]),
            validation_position=np.stack([epoch_positions[k] for epoch_positions in positions]),
            skipped_steps=int(n_skipped[k]),
            seconds=seconds,
        )
        for k, fold in enumerate(folds)
    ]


def initial_parameters(
    panel: Panel, folds: Sequence[Fold], recipe: Recipe, device: torch.device
) -> tuple[TemporalFusionTransformer, Tensor]:
    """The network and its initial parameters (K, P), drawn by (seed, fold)."""
    rows = []
    with torch.random.fork_rng(devices=[]):
        for fold in folds:
            torch.manual_seed(key(recipe.seed, "initial", fold.index))
            rows.append(torch.cat([value.detach().flatten() for value in network(panel, recipe).parameters()]))
        return network(panel, recipe).to(device), torch.stack(rows).to(device)


def network(panel: Panel, recipe: Recipe) -> TemporalFusionTransformer:
    return TemporalFusionTransformer(
        recipe.model,
        n_variables=len(panel.feature_names),
        n_assets=len(panel.symbols),
        loss_mode=recipe.training.loss_mode,
    )


def forecast_fit(fit: FoldFit, market: Market, recipe: Recipe, bars: range) -> tuple[Forecasts, NDArray[np.int64]]:
    """Forecasts of the fold's kept weights for `bars`, and the flat cells (M,) they are of."""
    device = market.device
    with torch.random.fork_rng(devices=[]):
        model = network(market.panel, recipe).to(device)
    space = market.space(fit.scaler, recipe.model)
    cells = space.targets(bars)
    (forecasts,) = forecast(
        model,
        {name: value.unsqueeze(0).to(device) for name, value in fit.parameters.items()},
        market.on_device,
        torch.from_numpy(fit.scaler.mean)[None].to(device),
        torch.from_numpy(fit.scaler.std)[None].to(device),
        [space],
        [cells],
        seed=recipe.seed,
    )
    return forecasts, cells


def _named(flat: Tensor, shapes: Sequence[tuple[str, torch.Size, int]]) -> dict[str, Tensor]:
    """Parameters (K, ...) by name as views of flat (K, P); the backward of a split is one concatenation."""
    parts = torch.split(flat, [size for _, _, size in shapes], dim=1)
    return {name: part.reshape(-1, *shape) for (name, shape, _), part in zip(shapes, parts, strict=True)}


def _adam(
    flat: Tensor, gradient: Tensor, first: Tensor, second: Tensor, n_updates: Tensor, update: Tensor, lr: float
) -> None:
    """One step of Adam in place for the folds whose `update` (K, 1) is 1; the others keep moments and count."""
    n_updates += update
    first.lerp_(gradient, (1.0 - BETA_1) * update)
    second.lerp_(gradient * gradient, (1.0 - BETA_2) * update)
    count = n_updates.clamp_min(1.0)
    denominator = torch.sqrt(second / (1.0 - BETA_2**count)) + EPSILON
    flat.sub_(lr * update / (1.0 - BETA_1**count) * first / denominator)


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


def _stack_folder(keep: Path, fold: Fold, stack: Sequence[Fold]) -> Path:
    return keep / f"fold-{fold.index}-of-{'-'.join(str(other.index) for other in stack)}"


def _keep(keep: Path, fit: FoldFit, stack: Sequence[Fold]) -> None:
    tensors = {f"parameters.{name}": value for name, value in fit.parameters.items()}
    for name in ("train_loss", "validation_score", "validation_position"):
        tensors[name] = torch.from_numpy(getattr(fit, name))
    tensors |= {"scaler.mean": torch.from_numpy(fit.scaler.mean), "scaler.std": torch.from_numpy(fit.scaler.std)}
    numbers = {"kept_epoch": fit.kept_epoch, "skipped_steps": fit.skipped_steps, "seconds": fit.seconds}
    content = {"fit.safetensors": tensors_to_bytes(tensors), "fit.json": json.dumps(numbers).encode()}
    write_folder_atomically(_stack_folder(keep, fit.fold, stack), content)


def _kept(keep: Path, stack: Sequence[Fold]) -> list[FoldFit] | None:
    """The stack's fits if every one of them is there."""
    folders = [_stack_folder(keep, fold, stack) for fold in stack]
    if not all(folder.is_dir() for folder in folders):
        return None
    fits = []
    for fold, folder in zip(stack, folders, strict=True):
        tensors = load_file(folder / "fit.safetensors")
        fits.append(
            FoldFit(
                fold=fold,
                scaler=Scaler(tensors["scaler.mean"].numpy(), tensors["scaler.std"].numpy()),
                parameters={
                    name.removeprefix("parameters."): value
                    for name, value in tensors.items()
                    if name.startswith("parameters.")
                },
                train_loss=tensors["train_loss"].numpy(),
                validation_score=tensors["validation_score"].numpy(),
                validation_position=tensors["validation_position"].numpy(),
                **json.loads((folder / "fit.json").read_text()),
            )
        )
    return fits


def _on_grid(values: NDArray[np.float64], cells: NDArray[np.int64], bars: range, n_assets: int) -> NDArray[np.float64]:
    """Values (M,) of flat cells on the grid (len(bars), A), NaN elsewhere."""
    grid = np.full(len(bars) * n_assets, np.nan)
    grid[cells - bars.start * n_assets] = values
    return grid.reshape(len(bars), n_assets)
