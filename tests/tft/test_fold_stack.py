"""A stack of folds: its update, the epoch it keeps, recipes of its own for each fold, and its faults."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import CPU, small_panel, small_recipe
from tests.tft.fitting import FOLDS, distance, fitted, identical, market_of
from tft.blocks import BlockSampler
from tft.cross_section import error_correlation, hedged
from tft.fold_stack import MAX_GRADIENT_NORM, SMOOTHING_EPOCHS, FoldStack, initial_parameters
from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.head import LOSS_MODES, LossMode
from tft.loss import correlated_nll, training_loss
from tft.panel import Panel
from tft.portfolio import Block, Sizing, portfolio_returns, sharpe_loss
from tft.positions import PositionsConfig, volatility_scale
from tft.recalibration import recalibration
from tft.recipe import OBJECTIVES, Objective, Recipe, TrainingConfig
from tft.train import fit_folds, forecast_fit
from tft.volatility import held_return
from tft.windows import TrainingSampler

pytestmark = pytest.mark.usefixtures("few_steps")

# The update


class Averaged:
    """Weights averaged along training by a loop: min(0.99, (1 + t) / (10 + t)) of the average is kept at step t."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.n_steps = model, 0
        self.value = self.now()

    def now(self) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(self.model.parameters()).detach().double()

    def step(self) -> None:
        self.n_steps += 1
        keep = min(0.99, (1 + self.n_steps) / (10 + self.n_steps))
        self.value = keep * self.value + (1.0 - keep) * self.now()


def by_plain_torch(panel: Panel, fold: Fold, recipe: Recipe, *, clip: bool = True) -> tuple[torch.Tensor, list[float]]:
    """One epoch as anyone would write it: nn.Module, backward, clip_grad_norm_, torch.optim.Adam; averaged weights."""
    market = market_of(panel)
    (reference,) = fit_folds(market, [fold], replace(recipe, epochs=1))
    space = market.space(reference.scaler, recipe.model)
    sampler = TrainingSampler(
        [space], [fold], np.isfinite(market.y), batch_size=recipe.training.batch_size, seeds=[recipe.seed], device=CPU
    )
    model, flat = initial_parameters(panel, [fold], recipe, CPU, seeds=[recipe.seed])
    torch.nn.utils.vector_to_parameters(flat[0], model.parameters())
    mean, std = torch.from_numpy(reference.scaler.mean)[None], torch.from_numpy(reference.scaler.std)[None]
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.training.lr)
    norms, averaged = [], Averaged(model)
    sampler.start_epoch(0)
    for step in range(sampler.n_steps):
        batch = sampler.batch(step)
        x, present, asset = market.on_device.cells(batch.cells, mean, std)
        output, _ = model(x[0], present[0], asset[0], batch.windows[0], batch.has_context[0])
        y = torch.from_numpy(market.y.reshape(-1)[batch.targets[0].numpy()]).float()
        assert torch.isfinite(y).all()
        loss = training_loss(
            output.position,
            output.distribution,
            y,
            torch.ones_like(y),
            loss_mode=recipe.training.loss_mode,
            mle_weight=recipe.training.mle_weight,
            periods_per_year=recipe.timing.periods_per_year,
        )
        optimiser.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM if clip else 1e9)))
        optimiser.step()
        averaged.step()
    return averaged.value.float(), norms


def portfolio_by_plain_torch(panel: Panel, fold: Fold, recipe: Recipe, *, decay: bool = True) -> torch.Tensor:
    """Averaged weights after one epoch of blocks: the position path, its Sharpe by the running moments, the likelihood,
    and torch.optim.AdamW, which decays all but biases and layer norms."""
    market, training = market_of(panel), recipe.training
    (reference,) = fit_folds(market, [fold], replace(recipe, epochs=1))
    space, shape = market.space(reference.scaler, recipe.model), market.y.shape
    sampler = BlockSampler(
        [space], [fold], np.isfinite(market.y), block_bars=16, burn_in=4, seeds=[recipe.seed], device=CPU
    )
    model, flat = initial_parameters(panel, [fold], recipe, CPU, seeds=[recipe.seed])
    torch.nn.utils.vector_to_parameters(flat[0], model.parameters())
    mean, std = torch.from_numpy(reference.scaler.mean)[None], torch.from_numpy(reference.scaler.std)[None]
    plain = [value for name, value in model.named_parameters() if "bias" in name or "norm" in name]
    kinds = {id(value) for value in plain}
    pulled = [value for value in model.parameters() if id(value) not in kinds]
    groups = [
        {"params": pulled, "weight_decay": training.weight_decay if decay else 0.0},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimiser, averaged = torch.optim.AdamW(groups, lr=training.lr), Averaged(model)
    correlation = error_correlation(market.y[fold.train.start : fold.train.stop])
    assert reference.correlation == correlation
    r = torch.tensor([correlation])
    scale = volatility_scale(market.sigma, recipe.positions, recipe.timing)
    held = held_return(panel.returns, recipe.timing)
    sizing = Sizing(
        *(
            torch.tensor([value])
            for value in (
                recipe.positions.max_position,
                recipe.positions.position_smooth,
                recipe.positions.cost_bps * 1e-4,
            )
        )
    )
    moments = torch.zeros(1, 3)
    sampler.start_epoch(0)
    for step in range(sampler.steps_per_fold[0]):
        batch = sampler.batch(step)
        x, present, asset = market.on_device.cells(batch.cells, mean, std)
        output, _ = model(x[0], present[0], asset[0], batch.windows[0], batch.has_context[0])
        at = np.divmod(batch.targets[0].numpy(), shape[1])

        def grid(values: torch.Tensor) -> torch.Tensor:
            return values.view(1, 20, shape[1], *values.shape[1:])

        y = torch.from_numpy(market.y[at]).float()
        forecast, scored = batch.forecast[0], batch.scored[0]
        decided = forecast & torch.from_numpy(np.isfinite(scale[at]) & np.isfinite(panel.returns[at]))
        block = Block(
            grid(decided),
            grid(torch.from_numpy(np.nan_to_num(scale[at])).float()),
            grid(torch.from_numpy(np.nan_to_num(held[at])).float()),
            grid(scored & torch.from_numpy(at[0] < shape[0] - recipe.timing.label_bars)),
        )
        raw = hedged(grid(output.position), grid(forecast), r)
        returns, counted = portfolio_returns(raw, block, sizing)
        loss, moments = sharpe_loss(returns, counted, moments, block_bars=16, periods_per_year=252.0)
        labelled = (scored & forecast & torch.isfinite(y)).float()
        nll = correlated_nll(grid(output.distribution), grid(y.nan_to_num()), grid(labelled), r)
        optimiser.zero_grad()
        (loss + training.mle_weight * nll).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimiser.step()
        averaged.step()
    return averaged.value.float()


def test_an_epoch_equals_plain_torch_with_clip_grad_norm_and_adam() -> None:
    panel, recipe = small_panel(), small_recipe(epochs=1, dropout=0.0)
    (fit,) = fitted(panel, FOLDS[:1], recipe)
    ours = torch.cat([value.flatten() for value in fit.parameters.values()])
    expected, norms = by_plain_torch(panel, FOLDS[0], recipe)
    unclipped, _ = by_plain_torch(panel, FOLDS[0], recipe, clip=False)
    assert max(norms) > MAX_GRADIENT_NORM  # otherwise nothing is clipped
    # A weight whose gradient is rounding noise moves by up to lr a step either way: such are few.
    close = (ours - expected).abs() < 1e-4
    assert close.float().mean() > 0.97
    assert (unclipped - expected).abs().median() > 10 * (ours - expected).abs().median()
    assert ((unclipped - expected).abs() < 1e-4).float().mean() < 0.5


def test_an_epoch_of_blocks_equals_plain_torch_with_decoupled_weight_decay_and_averaged_weights() -> None:
    """Instruments absent here and there, and one bar without a trade."""
    panel = small_panel(missing=0.3, signal=0.5)
    panel.features[40:43, 1] = np.nan
    panel.returns[50] = np.nan
    recipe = small_recipe(epochs=1, dropout=0.0, objective="portfolio")
    (fit,) = fitted(panel, FOLDS[:1], recipe)
    ours = torch.cat([value.flatten() for value in fit.parameters.values()])
    expected = portfolio_by_plain_torch(panel, FOLDS[0], recipe)
    without_decay = portfolio_by_plain_torch(panel, FOLDS[0], recipe, decay=False)
    assert ((ours - expected).abs() < 1e-4).float().mean() > 0.97
    assert (without_decay - expected).abs().mean() > 20 * (ours - expected).abs().mean()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_fold_that_has_stopped_does_not_move(objective: Objective) -> None:
    """Weights, averages, both moments of Adam, its count of updates, and the running moments of the returns."""
    stack = FoldStack(market_of(small_panel()), FOLDS[:2], [small_recipe(objective=objective)] * 2)
    stack.start_epoch(0)
    stack.step(0)
    stack.active[0] = 0.0

    def state() -> list[torch.Tensor]:
        own = [stack.flat, stack.averaged, stack.first_moment, stack.second_moment, stack.n_updates]
        return [value.clone() for value in (*own, *([stack.objective.moments] if objective == "portfolio" else []))]

    before = state()
    for number in range(1, stack.n_steps):
        stack.step(number)
    for was, now in zip(before, state(), strict=True):
        assert torch.equal(was[0], now[0]) and not torch.equal(was[1], now[1])


def test_positions_of_their_own_side_by_side_fit_each_fold_as_if_it_were_alone() -> None:
    """Cap, smoothing and cost are each fit's own, up to rounding, one fold being there three times."""
    panel, recipe = small_panel(signal=0.5), small_recipe(epochs=1, dropout=0.0, lr=0.001, objective="portfolio")
    recipes = [
        replace(recipe, positions=PositionsConfig(max_position=cap, position_smooth=smooth, cost_bps=cost))
        for cap, smooth, cost in ((0.05, 0.46, 5.0), (1.0, 0.0, 5.0), (0.3, 0.3, 300.0), (0.05, 0.46, 5.0))
    ]
    folds = (FOLDS[0], FOLDS[0], FOLDS[0], FOLDS[1])
    fits = list(fit_folds(market_of(panel), folds, recipes, stack_size=4))
    assert [[fold for fold, _ in fit.stack] for fit in fits] == [[0, 0, 0, 1]] * 4
    for fold, own, fit in zip(folds, recipes, fits, strict=True):
        (alone,) = fitted(panel, (fold,), own)
        moved = torch.cat([(alone.parameters[name] - fit.parameters[name]).abs().flatten() for name in fit.parameters])
        assert moved.median() < 1e-6
        assert np.allclose(alone.train_loss, fit.train_loss, rtol=0.0, atol=1e-3)
    assert len({float(fit.train_loss[0]) for fit in fits}) == 4
    assert distance(fits[0], fits[1]) > 1e-4


def test_a_stack_that_nobody_holds_frees_its_tensors_at_once() -> None:
    """Without waiting for the cyclic garbage collector, as the next stack needs the memory."""
    stack = FoldStack(market_of(small_panel()), FOLDS, [small_recipe(epochs=2)] * 3)
    stack.start_epoch(0)
    stack.step(0)
    stack.draw_ahead()
    stack.end_epoch(stack.validate())
    weights, held = weakref.ref(stack.flat), weakref.ref(stack)
    gc.disable()
    try:
        fits = stack.results()
        del stack
        assert held() is None and weights() is None
    finally:
        gc.enable()
    assert [fit.fold for fit in fits] == list(FOLDS)


# Early stopping and the epoch that is kept


def kept_by_hand(scores: np.ndarray, patience: int) -> tuple[int, int]:
    """Epoch kept and epochs used, from the scores: the best mean of the last five, within patience."""
    best, kept = np.inf, 0
    for epoch in range(len(scores)):
        smoothed = np.mean(scores[max(0, epoch - SMOOTHING_EPOCHS + 1) : epoch + 1])
        if smoothed < best:
            best, kept = smoothed, epoch
        if patience and epoch - kept >= patience:
            return kept, epoch + 1
    return kept, len(scores)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_the_kept_epoch_has_the_best_smoothed_validation_score_or_is_the_last(
    loss_mode: LossMode, objective: Objective
) -> None:
    recipe = small_recipe(epochs=14, lr=0.02, loss_mode=loss_mode, objective=objective)
    (fit,) = fitted(small_panel(), FOLDS[:1], recipe)
    assert SMOOTHING_EPOCHS == 5
    assert fit.validation_score.shape == (14,)
    expected = kept_by_hand(fit.validation_score, 0)[0] if objective == "pooled" else 13  # the last, whatever it scores
    assert fit.kept_epoch == expected


def test_a_stopped_fold_is_frozen_and_keeps_the_weights_of_its_own_epoch() -> None:
    """Its weights are those of a run that ended at the kept epoch, though the other folds of the stack went on."""
    panel, recipe = small_panel(), small_recipe(epochs=25, patience=3, lr=0.02)
    fits = fitted(panel, FOLDS, recipe, stack_size=3)
    used = [kept_by_hand(fit.validation_score, 3)[1] for fit in fits]
    assert len({len(fit.validation_score) for fit in fits}) == 1
    assert len(fits[0].validation_score) == max(used) < 25
    assert min(used) < max(used)
    for k, fit in enumerate(fits):
        assert fit.kept_epoch == kept_by_hand(fit.validation_score, 3)[0]
        after = fit.validation_position[used[k] - 1 :]
        assert np.array_equal(after, np.broadcast_to(after[0], after.shape), equal_nan=True)
        assert not np.array_equal(fit.validation_position[used[k] - 2], after[0], equal_nan=True)
        ended = fitted(panel, FOLDS, replace(recipe, epochs=fit.kept_epoch + 1), stack_size=3)[k]
        assert ended.kept_epoch == fit.kept_epoch
        assert all(torch.equal(ended.parameters[name], fit.parameters[name]) for name in fit.parameters)


def test_without_patience_no_fold_stops() -> None:
    recipe = small_recipe(epochs=20, lr=0.05, patience=0)
    fits = fitted(small_panel(), FOLDS, recipe)
    assert [len(fit.train_loss) for fit in fits] == [20] * 3
    assert min(fit.kept_epoch for fit in fits) < 20 - 3  # noise: a patience of 3 would have stopped it


# Faults are said in one sentence


def test_a_fold_without_a_training_target_is_refused() -> None:
    panel = small_panel()
    panel.features[20:80] = np.nan
    with pytest.raises(ValueError, match=r"^fold 0 has no training target: between bars 20 and 79 [^.]+$"):
        fitted(panel, FOLDS[:1], small_recipe())


def test_a_fold_without_a_validation_target_is_refused() -> None:
    panel = small_panel()
    panel.features[85:100] = np.nan
    with pytest.raises(ValueError, match=r"^fold 0 has no validation target: between bars 85 and 99 [^.]+$"):
        fitted(panel, FOLDS[:1], small_recipe())


def test_a_fold_whose_score_is_never_finite_is_named() -> None:
    with pytest.raises(
        FloatingPointError, match=r"^the validation score of fold 0 was never finite: lower training.lr"
    ):
        fitted(small_panel(), FOLDS[:1], small_recipe(lr=1e30))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_steps_whose_gradient_is_not_finite_are_skipped_and_counted(objective: Objective) -> None:
    """A label that is beyond all bounds spoils one step of a pass over the training bars, not the fit."""
    panel = small_panel(missing=0.0)
    market = market_of(panel)
    market.y_on_device[60 * 2] = torch.inf
    (fit,) = fit_folds(market, FOLDS[:1], small_recipe(epochs=4, objective=objective))
    assert 1 <= fit.skipped_steps <= 8
    assert all(torch.isfinite(value).all() for value in fit.parameters.values())
    assert np.isfinite(fit.validation_score).all()


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_one_instrument_is_fitted_by_what_it_earns_alone(loss_mode: LossMode) -> None:
    """There is nothing to hedge it with; a warning would be an error."""
    panel, recipe = small_panel(n_assets=1, signal=0.5), small_recipe(objective="portfolio", loss_mode=loss_mode)
    (fit,) = fitted(panel, FOLDS[:1], recipe)
    assert fit.correlation == 0.0 and np.isfinite(fit.train_loss).all() and np.isfinite(fit.validation_score).all()


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_an_instrument_without_labels_in_the_training_bars_moves_no_weight_but_its_own(loss_mode: LossMode) -> None:
    """It is listed at bar 80, when training ends: what the others' blocks teach is as if it were not quoted at all."""
    panel, recipe = small_panel(missing=0.0, signal=0.5), small_recipe(objective="portfolio", loss_mode=loss_mode)
    panel.features[:80, 1], panel.returns[:80, 1] = np.nan, np.nan
    never = small_panel(missing=0.0, signal=0.5)
    never.features[:, 1], never.returns[:, 1] = np.nan, np.nan
    (fit,), (without,) = (fitted(one, FOLDS[:1], recipe) for one in (panel, never))
    assert np.array_equal(fit.train_loss, without.train_loss)
    for name in fit.parameters.keys() - {"windows.recalibration"}:
        assert torch.equal(fit.parameters[name], without.parameters[name])
    (cells,) = np.nonzero(np.isfinite(fit.validation_position[-1, :, 1]))
    assert len(cells)


# What is read off the validation block


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_fit_is_recalibrated_by_its_own_validation_block(objective: Objective, loss_mode: LossMode) -> None:
    """By the kept weights' forecasts there, and labels from the first training to the last validation bar; with
    objective pooled, and where there is no distribution, nothing is changed."""
    panel, recipe = small_panel(signal=0.5), small_recipe(epochs=2, objective=objective, loss_mode=loss_mode)
    panel.returns[:] += 0.01 * np.random.default_rng(1).standard_normal((len(panel.returns), 1))
    market, fold = market_of(panel), FOLDS[1]
    (fit,) = fit_folds(market, [fold], recipe)
    found = fit.parameters["windows.recalibration"]
    if objective == "pooled" or loss_mode == "sharpe":
        assert found.tolist() == [1.0, 1.0]
        return
    plain = replace(fit, parameters=fit.parameters | {"windows.recalibration": torch.ones(2)})
    forecasts, cells = forecast_fit(plain, market, recipe, fold.validation)
    kept = np.full((len(fold.validation), 2), np.nan, dtype=np.float32)
    kept.reshape(-1)[cells - fold.validation.start * 2] = forecasts.position
    np.testing.assert_array_equal(fit.validation_position[fit.kept_epoch], kept)
    distribution = np.full((*kept.shape, forecasts.distribution.shape[1]), np.nan)
    distribution.reshape(kept.size, -1)[cells - fold.validation.start * 2] = forecasts.distribution
    expected = recalibration(
        distribution,
        market.y[fold.validation.start : fold.validation.stop],
        market.y[fold.train.start : fold.validation.stop],
    )
    assert fit.correlation > 0.0 and found.tolist() != [1.0, 1.0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


# Recipes of their own


def varied(recipe: Recipe, *, lr: float, mle_weight: float, dropout: float) -> Recipe:
    return replace(
        recipe,
        model=replace(recipe.model, dropout=dropout),
        training=replace(recipe.training, lr=lr, mle_weight=mle_weight),
    )


def test_folds_with_recipes_of_their_own_are_what_each_is_with_its_recipe() -> None:
    """Two recipes for one fold, and one of another shape: bit for bit where each fold is trained alone."""
    panel, recipe = small_panel(), small_recipe(epochs=2)
    recipes = [
        recipe,
        varied(recipe, lr=0.003, mle_weight=0.7, dropout=0.3),
        small_recipe(epochs=2, seq_len=4, batch_size=8),
    ]
    folds = (FOLDS[0], FOLDS[0], FOLDS[2])
    fits = list(fit_folds(market_of(panel), folds, recipes))
    for fold, own, fit in zip(folds, recipes, fits, strict=True):
        assert identical(fitted(panel, (fold,), own)[0], fit)
    assert not identical(fits[0], fits[1])


def test_recipes_of_one_shape_side_by_side_fit_each_fold_as_if_it_were_alone() -> None:
    """Learning rate, weight of the likelihood and dropout are each fit's own, up to rounding; one fold is there thrice.

    Where there is dropout, its draws depend on the stack: that fit is another than the one without.
    """
    panel, recipe = small_panel(), small_recipe(epochs=2, dropout=0.0, lr=0.001)
    recipes = [
        recipe,
        varied(recipe, lr=0.0003, mle_weight=1.5, dropout=0.0),
        recipe,
        varied(recipe, lr=0.001, mle_weight=recipe.training.mle_weight, dropout=0.4),
    ]
    folds = (FOLDS[0], FOLDS[0], FOLDS[1], FOLDS[0])
    *fits, noisy = fit_folds(market_of(panel), folds, recipes, stack_size=4)
    assert [fit.stack for fit in fits] == [tuple((fold.index, recipe.seed) for fold in folds)] * 3
    assert np.abs(noisy.train_loss - fits[0].train_loss).min() > 1e-2
    for fold, own, fit in zip(folds[:3], recipes[:3], fits, strict=True):
        (alone,) = fitted(panel, (fold,), own)
        # Adam moves a weight whose gradient is rounding noise by up to lr a step either way: such are few.
        moved = torch.cat([(alone.parameters[name] - fit.parameters[name]).abs().flatten() for name in fit.parameters])
        assert moved.median() < 1e-6
        assert np.allclose(alone.train_loss, fit.train_loss, rtol=0.0, atol=1e-4)
        assert np.allclose(alone.validation_score, fit.validation_score, rtol=0.0, atol=1e-4)
    assert distance(fits[0], fits[1]) > 1e-3


# Seeds of their own


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_seeds_side_by_side_are_what_each_is_alone(objective: Objective) -> None:
    """Without dropout, whose draws depend on the stack, up to rounding: weights, contexts and order are each seed's."""
    recipe = small_recipe(epochs=2, dropout=0.0, lr=0.0003, objective=objective)
    market, folds = market_of(small_panel()), (FOLDS[0], FOLDS[0], FOLDS[2], FOLDS[0])
    recipes = [replace(recipe, seed=seed) for seed in (5, 6, 6, 2**40)]
    fits = list(fit_folds(market, folds, recipes, stack_size=4))
    assert [fit.seed for fit in fits] == [5, 6, 6, 2**40]
    assert {fit.stack for fit in fits} == {((0, 5), (0, 6), (2, 6), (0, 2**40))}
    for fold, own, fit in zip(folds, recipes, fits, strict=True):
        (alone,) = fit_folds(market, [fold], own)
        assert alone.stack == ((fold.index, own.seed),)
        moved = torch.cat([(alone.parameters[name] - fit.parameters[name]).abs().flatten() for name in fit.parameters])
        # Adam moves a weight whose gradient is rounding noise by up to lr a step either way: such are few.
        assert moved.quantile(0.9) < 1e-6
        np.testing.assert_allclose(alone.train_loss, fit.train_loss, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(alone.validation_score, fit.validation_score, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(alone.validation_position, fit.validation_position, rtol=0.0, atol=1e-4)
    assert distance(fits[0], fits[1]) > 1e-2


def test_dropout_is_drawn_by_all_members_and_differs_between_seeds_of_one_fold() -> None:
    """The same members give the same fits; another seed beside a fit gives it other draws."""
    market, recipe = market_of(small_panel()), small_recipe(epochs=1, dropout=0.4)

    def fits(*seeds: int) -> list[FoldFit]:
        recipes = [replace(recipe, seed=seed) for seed in seeds]
        return list(fit_folds(market, FOLDS[:1] * len(seeds), recipes, stack_size=len(seeds)))

    first, again, other = fits(5, 6), fits(5, 6), fits(5, 7)
    assert all(identical(a, b) for a, b in zip(first, again, strict=True))
    assert np.abs(first[0].train_loss - other[0].train_loss).min() > 1e-4


def test_only_the_fit_that_diverges_is_named() -> None:
    recipe = small_recipe()
    with pytest.raises(FloatingPointError, match=r"score of fold 0 was never finite: lower training.lr \(1e\+30\)"):
        list(fit_folds(market_of(small_panel()), FOLDS[:1] * 2, [recipe, small_recipe(lr=1e30)], stack_size=2))


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (TrainingConfig(), None),
        (TrainingConfig(lr=0.0), "training.lr is 0.0, it must be positive"),
        (TrainingConfig(objective="sum"), "training.objective is 'sum', it must be one of portfolio, pooled"),  # type: ignore[arg-type]
        (TrainingConfig(block_bars=1), "training.block_bars is 1, it must lie between 2 and 1024"),
        (TrainingConfig(weight_decay=-1.0), "training.weight_decay is -1.0, it must be at least 0 and below 1 / lr"),
        (TrainingConfig(lr=0.5, weight_decay=2.0), "training.weight_decay is 2.0, it must be at least 0 and below 1"),
        (TrainingConfig(batch_size=1), "training.batch_size is 1, the least is 2"),
        (TrainingConfig(loss_mode="mse"), "training.loss_mode is 'mse', it must be one of "),  # type: ignore[arg-type]
        (TrainingConfig(mle_weight=-1.0), "training.mle_weight is -1.0, it must be at least 0"),
        (TrainingConfig(patience=-1), "training.patience is -1, the least is 0"),
    ],
)
def test_faults_of_the_configuration(config: TrainingConfig, fault: str | None) -> None:
    found = config.faults()
    assert len(found) == (fault is not None)
    assert fault is None or found[0].startswith(fault)
