"""A stack of folds trained as one model: its tensors, the optimiser step, the end of an epoch, the resulting fits.

A member of a stack is a fold with a recipe, whose seed is one of its own: one fold may be there several times.
Gradient norm, clipping, early stopping and kept weights are separate for each fold. A fold that has stopped, or has
fewer batches than the others, is masked out of the update and keeps its place in the tensors. On a GPU a step is
captured once as a CUDA graph and replayed.

Shapes: K stacked folds (members), P parameters of one model, E epochs run, T bars, B batch, M targets, A instruments,
V variables.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.fold_store import FoldFit
from tft.folds import Fold, rows_of
from tft.forecast import Forecasts, by_fold, forecast_tensors, on_grid, plan
from tft.kernels.adam import adam
from tft.kernels.dropout_mask import Dropout
from tft.market import Market
from tft.model import Output, TemporalFusionTransformer, stacked
from tft.objectives import objective_of
from tft.panel import Panel
from tft.recalibration import recalibration
from tft.recipe import EpochReport, Recipe
from tft.runtime.graph import Captured
from tft.scaling import Scaler
from tft.windows import seed_from

MAX_GRADIENT_NORM = 1.0
"""Gradients of a fold with a larger norm are scaled down to it"""
SMOOTHING_EPOCHS = 5
"""With objective pooled the epoch is kept by the mean validation score of the last so many epochs"""
MAX_RECORDED_BLOCKS = 32
"""Most blocks of validation targets forecast by a captured graph; capturing more would take longer than it saves"""
RECALIBRATION = "windows.recalibration"
"""The parameter that is set after training"""
_initialising = threading.Lock()
"""Held while initial weights are drawn from torch's global generator, which threads share"""


class FoldStack:
    """K folds in training. An epoch is `start_epoch`, `n_steps` times `step`, `draw_ahead`, `validate`, `end_epoch`.

    The fits depend only on the market, the folds and their recipes. Raises ValueError for a fold without training or
    validation targets.
    """

    def __init__(self, market: Market, folds: Sequence[Fold], recipes: Sequence[Recipe]) -> None:
        self._started = time.perf_counter()
        self.recipe = recipes[0].common
        assert all(other.common == self.recipe for other in recipes), "a stack has one shape"
        self.market, self.folds, self.recipes = market, folds, recipes
        device, n_folds = market.device, len(folds)

        # What differs between members: the seed and some settings of the recipe, the scaler, and with it the window
        # space. Those of one fold share what depends on the fold alone.
        self.seeds = [recipe.seed for recipe in recipes]
        self.lr = torch.tensor([[recipe.training.lr] for recipe in recipes], device=device)  # (K, 1)
        rates = [recipe.model.dropout for recipe in recipes]
        scaler_of = {fold: Scaler.fit(rows_of(market.panel.features, fold.trained)) for fold in dict.fromkeys(folds)}
        self.scalers = [scaler_of[fold] for fold in folds]
        self.mean = torch.from_numpy(np.stack([scaler.mean for scaler in self.scalers])).to(device)  # (K, V)
        self.std = torch.from_numpy(np.stack([scaler.std for scaler in self.scalers])).to(device)  # (K, V)
        space_of = {fold: market.space(scaler, self.recipe.model) for fold, scaler in scaler_of.items()}
        spaces = [space_of[fold] for fold in folds]

        # Training targets, and validation targets, which score each epoch.
        self.objective = objective_of(market, folds, recipes)
        self.sampler = self.objective.sampler(spaces)
        self.validation_cells = [
            space.targets(fold.validation) for space, fold in zip(spaces, folds, strict=True)
        ]  # (M_k,)
        for fold, cells in zip(folds, self.validation_cells, strict=True):
            if not np.isfinite(market.y.reshape(-1)[cells]).any():
                raise ValueError(
                    f"fold {fold.index} has no validation target: between bars {fold.validation.start} and "
                    f"{fold.validation.stop - 1} no instrument has both a feature and a label; widen validation_window"
                )
        self.validation_plan = plan(spaces, self.validation_cells, seeds=self.seeds, device=device)

        # Weights and optimiser state. A captured graph reads and writes these tensors, so they are only changed in
        # place.
        self.model, self.flat = initial_parameters(market.panel, folds, self.recipe, device, seeds=self.seeds)  # (K, P)
        self.shapes = [(name, value.shape, value.numel()) for name, value in self.model.named_parameters()]
        self.first_moment, self.second_moment = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.averaged = self.flat.clone()  # along training
        decay = [torch.full((n,), float(_decays(name))) for name, _, n in self.shapes]
        rate = self.recipe.training.weight_decay
        self.decay = (torch.cat(decay) * rate).to(device) if rate else None  # (P,)
        self.n_updates = torch.zeros(n_folds, 1, device=device)
        self.n_skipped = torch.zeros(n_folds, 1, device=device)
        self.active = torch.ones(n_folds, 1, device=device)  # 0 once a fold has stopped
        self.total_loss = torch.zeros(n_folds, device=device)  # summed over the epoch's steps
        self.generator = torch.Generator(device)
        self.dropout = Dropout.with_rate(self.generator, rates) if any(rates) else None

        # The epoch kept so far, and the history of all epochs.
        self.best = self.flat.clone()
        self.best_score = np.full(n_folds, np.inf)
        self.kept_epoch = np.zeros(n_folds, dtype=int)
        self.losses: list[NDArray[np.float64]] = []  # E times (K,)
        self.scores: list[NDArray[np.float64]] = []  # E times (K,)
        self.kept_forecasts: list[Forecasts | None] = [None] * n_folds  # of the validation targets, at the kept epoch
        self.positions: list[list[NDArray[np.float32]]] = []  # E times K times (n_validation, A)

        self._captured_update: Captured[None] | None = None
        self._forecast: Callable[[], tuple[Tensor, Tensor]] = partial(
            forecast_tensors,
            self.model,
            _named(self.averaged, self.shapes),
            market.on_device,
            self.mean,
            self.std,
            self.validation_plan,
        )

    @property
    def members(self) -> tuple[tuple[int, int], ...]:
        """Index of the fold and seed of each member."""
        return tuple((fold.index, seed) for fold, seed in zip(self.folds, self.seeds, strict=True))

    @property
    def n_steps(self) -> int:
        """Steps of the epoch that was started, those of the fold with the most batches."""
        return max(self.sampler.steps_per_fold)

    def start_epoch(self, epoch: int) -> None:
        """Draw the epoch's batches, seed its dropout and, on a GPU, capture the update before its first use."""
        self.epoch, self._epoch_started = epoch, time.perf_counter()
        self.sampler.start_epoch(epoch)
        self.total_loss.zero_()
        if self.market.device.type == "cuda" and self._captured_update is None:
            optimiser = (self.first_moment, self.second_moment, self.n_updates)
            changed = (self.flat, self.averaged, *optimiser, self.n_skipped, self.total_loss, *self.objective.running)
            batch = self.sampler.batch(0)
            self._captured_update = Captured(self._update, batch, changed=changed, generator=self.generator)
        (fold, seed), *others = self.members
        self.generator.manual_seed(seed_from(seed, "dropout", epoch, fold, *chain(*others)))

    def step(self, number: int) -> None:
        """Update every fold that has not stopped with its batch of this number, if it has one."""
        (self._captured_update or self._update)(*self.sampler.batch(number))

    def _update(self, *fields: Tensor) -> None:
        """Forward, loss, backward, clipping and Adam on the fields of a batch, in place for CUDA graphs."""
        batch = self.objective.batch(*fields)
        x, present, asset = self.market.on_device.cells(batch.cells, self.mean, self.std)
        weights = self.flat.detach().requires_grad_()
        output: Output
        output, _ = stacked(
            self.model,
            _named(weights, self.shapes),
            "",
            x,
            present,
            asset,
            batch.windows,
            batch.has_context,
            dropout=self.dropout,
        )
        has_batch = self.objective.is_filled(batch).to(weights.dtype)  # (K, 1)
        loss = self.objective.loss(output, batch, self.active * has_batch)  # (K,)
        (gradient,) = torch.autograd.grad(loss.sum(), weights)  # (K, P)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (K, 1)
        finite = torch.isfinite(norm).to(gradient.dtype)
        self.n_skipped.add_(self.active * has_batch * (1.0 - finite))
        clip = (MAX_GRADIENT_NORM / norm.clamp_min(MAX_GRADIENT_NORM)).nan_to_num(nan=0.0)
        moves = self.active * has_batch * finite  # (K, 1)
        moments = self.first_moment, self.second_moment
        adam(self.flat, self.averaged, gradient, *moments, self.n_updates, clip, moves, self.lr, self.decay)
        self.total_loss.add_(loss.detach() * has_batch[:, 0])

    def draw_ahead(self) -> None:
        """Draw the next epoch's batches on the host, while a GPU still computes the current steps."""
        if self.epoch + 1 < self.recipe.epochs:
            self.sampler.draw(self.epoch + 1)

    def validate(self) -> list[Forecasts]:
        """Forecast each fold's validation targets with its current weights."""
        capturable = self.market.device.type == "cuda" and self.validation_plan.n_blocks <= MAX_RECORDED_BLOCKS
        if capturable and not isinstance(self._forecast, Captured):
            self._forecast = Captured(self._forecast)
        return by_fold(self.validation_plan, *self._forecast())

    def end_epoch(self, forecasts: Sequence[Forecasts]) -> EpochReport:
        """Score each fold's validation forecasts, and keep its weights or not.

        An objective that keeps the latest weights does so after every epoch. Otherwise they are kept if the smoothed
        score is the fold's best so far, and the fold stops after `patience` epochs without a better one.
        """
        market, n_assets = self.market, len(self.market.panel.symbols)
        self.losses.append(self.total_loss.double().cpu().numpy() / np.array(self.sampler.steps_per_fold))
        of_folds = list(zip(forecasts, self.validation_cells, self.folds, strict=True))
        self.scores.append(np.array([self.objective.score(f, cells, k) for k, (f, cells, _) in enumerate(of_folds)]))
        self.positions.append(
            [on_grid(f.position, cells, fold.validation, n_assets).astype(np.float32) for f, cells, fold in of_folds]
        )
        smoothed = np.mean(self.scores[-SMOOTHING_EPOCHS:], axis=0)
        was_active = self.active[:, 0].cpu().numpy() > 0.0
        if self.objective.keeps_latest:
            improved, score = was_active & np.isfinite(self.scores[-1]), self.scores[-1]
        else:
            improved, score = was_active & (smoothed < self.best_score), smoothed
        self.best_score = np.where(improved, score, self.best_score)
        self.kept_epoch[improved] = self.epoch
        for k in np.flatnonzero(improved).tolist():
            self.kept_forecasts[k] = forecasts[k]
        self.best = torch.where(torch.from_numpy(improved).to(market.device)[:, None], self.averaged, self.best)
        patience = self.recipe.training.patience
        if patience and not self.objective.keeps_latest:
            self.active *= torch.from_numpy(self.epoch - self.kept_epoch < patience).to(market.device)[:, None]
        return EpochReport(
            folds=tuple(fold.index for fold in self.folds),
            epoch=self.epoch,
            train_loss=tuple(self.losses[-1].tolist()),
            validation_score=tuple(self.scores[-1].tolist()),
            n_active=int(self.active.sum()),
            seconds=time.perf_counter() - self._epoch_started,
        )

    def _recalibration(self, k: int) -> tuple[float, float]:
        """Factors on centre and spread of fold k's kept forecasts, from its validation block."""
        forecasts, bars = self.kept_forecasts[k], self.folds[k].validation
        assert forecasts is not None
        n_assets = len(self.market.panel.symbols)
        distribution = on_grid(forecasts.distribution, self.validation_cells[k], bars, n_assets)
        past = rows_of(self.market.y, self.folds[k].seen)
        return recalibration(distribution, past[-len(bars) :], past)

    def results(self) -> list[FoldFit]:
        """The fit of each fold, with the weights of its kept epoch.

        Raises FloatingPointError for a fold whose validation score was never finite.
        """
        lost = [k for k in range(len(self.folds)) if not np.isfinite(self.best_score[k])]
        if lost:
            indices = ", ".join(dict.fromkeys(str(self.folds[k].index) for k in lost))
            rates = ", ".join(dict.fromkeys(str(self.recipes[k].training.lr) for k in lost))
            raise FloatingPointError(
                f"the validation score of fold {indices} was never finite: lower training.lr ({rates}) or "
                "check the data"
            )
        n_skipped = self.n_skipped[:, 0].cpu().numpy().astype(int)
        seconds = (time.perf_counter() - self._started) / len(self.folds)
        best = {name: value.cpu() for name, value in _named(self.best, self.shapes).items()}
        if self.objective.keeps_latest and self.recipe.training.loss_mode != "sharpe":
            best[RECALIBRATION] = torch.tensor([self._recalibration(k) for k in range(len(self.folds))])  # (K, 2)
        return [
            FoldFit(
                fold=fold,
                seed=self.seeds[k],
                scaler=self.scalers[k],
                parameters={name: value[k].clone() for name, value in best.items()},
                kept_epoch=int(self.kept_epoch[k]),
                train_loss=np.array([loss[k] for loss in self.losses]),
                validation_score=np.array([score[k] for score in self.scores]),
                validation_position=np.stack([by_fold[k] for by_fold in self.positions]),
                skipped_steps=int(n_skipped[k]),
                correlation=self.objective.correlation[k],
                seconds=seconds,
                stack=self.members,
            )
            for k, fold in enumerate(self.folds)
        ]


def initial_parameters(
    panel: Panel, folds: Sequence[Fold], recipe: Recipe, device: torch.device, *, seeds: Sequence[int]
) -> tuple[TemporalFusionTransformer, Tensor]:
    """The network, and the initial parameters (K, P) of all members, each drawn by (seed, fold); one seed a fold."""
    drawn_by = [seed_from(seed, "initial", fold.index) for seed, fold in zip(seeds, folds, strict=True)]
    networks = [network(panel, recipe, seed) for seed in drawn_by]
    rows = [torch.cat([value.detach().flatten() for value in each.parameters()]) for each in networks]
    return networks[0].to(device), torch.stack(rows).to(device)


def network(panel: Panel, recipe: Recipe, seed: int) -> TemporalFusionTransformer:
    """A network for this panel with initial parameters drawn by `seed`."""
    with _initialising, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TemporalFusionTransformer(
            recipe.model,
            n_variables=len(panel.feature_names),
            n_assets=len(panel.symbols),
            loss_mode=recipe.training.loss_mode,
        )


def _decays(name: str) -> bool:
    """Whether weight decay pulls this parameter to 0: all but biases, scales of layer norms, and the recalibration."""
    return "norm" not in name and "bias" not in name and name != RECALIBRATION


def _named(flat: Tensor, shapes: Sequence[tuple[str, torch.Size, int]]) -> dict[str, Tensor]:
    """Parameters (K, ...) by name, as views of flat (K, P). Made by one split, whose backward is one concatenation."""
    parts = torch.split(flat, [size for _, _, size in shapes], dim=1)
    return {name: part.reshape(-1, *shape) for (name, shape, _), part in zip(shapes, parts, strict=True)}
