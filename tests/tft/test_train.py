"""The training loop: what a fit depends on, what it keeps, and that it learns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import CPU, small_panel, small_recipe
from tft import train
from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.loss import training_loss
from tft.model import LOSS_MODES, LossMode
from tft.panel import Panel
from tft.train import (
    MAX_GRADIENT_NORM,
    SMOOTHING_EPOCHS,
    EpochReport,
    Market,
    Recipe,
    TrainingConfig,
    choose_device,
    evenly,
    fit_folds,
    forecast_fit,
    initial_parameters,
    largest_stack,
    map_fits,
)
from tft.volatility import Timing
from tft.windows import TrainingSampler

FOLDS = (
    Fold(0, range(20, 80), range(85, 100), range(105, 120)),
    Fold(1, range(40, 70), range(75, 95), range(100, 115)),
    Fold(2, range(50, 110), range(115, 130), range(135, 150)),
)


def market_of(panel: Panel) -> Market:
    return Market(panel, Timing(), CPU)


def fitted(panel: Panel, folds: tuple[Fold, ...], recipe: Recipe, *, stack: int = 1) -> list[FoldFit]:
    return list(fit_folds(market_of(panel), folds, recipe, stack=stack))


def identical(a: FoldFit, b: FoldFit) -> bool:
    return (
        a.parameters.keys() == b.parameters.keys()
        and all(torch.equal(a.parameters[name], b.parameters[name]) for name in a.parameters)
        and all(
            np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
            for name in ("train_loss", "validation_score", "validation_position")
        )
        and (a.kept_epoch, a.skipped_steps, a.fold) == (b.kept_epoch, b.skipped_steps, b.fold)
        and np.array_equal(a.scaler.mean, b.scaler.mean, equal_nan=True)
    )


def distance(a: FoldFit, b: FoldFit) -> float:
    return max(float((a.parameters[name] - b.parameters[name]).abs().max()) for name in a.parameters)


# What a fit depends on


@pytest.mark.parametrize("stack", [1, 3])
def test_a_fit_is_bit_identical_when_it_is_run_again(stack: int) -> None:
    """Whatever the global generator holds, which is left as it was."""
    panel, recipe = small_panel(), small_recipe()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fitted(panel, FOLDS, recipe, stack=stack)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = fitted(panel, FOLDS, recipe, stack=stack)
    assert [fit.fold.index for fit in first] == [0, 1, 2]
    assert all(identical(a, b) for a, b in zip(first, again, strict=True))
    assert not identical(first[0], fitted(panel, FOLDS, replace(recipe, seed=6), stack=stack)[0])


def test_a_fold_does_not_depend_on_the_folds_of_other_stacks() -> None:
    panel, recipe = small_panel(), small_recipe()
    together = fitted(panel, FOLDS, recipe)
    for fold, fit in zip(FOLDS, together, strict=True):
        assert identical(fitted(panel, (fold,), recipe)[0], fit)


@pytest.mark.parametrize("n_context", [0, 2])
def test_a_stack_of_unequal_folds_fits_each_as_if_it_were_alone(n_context: int) -> None:
    """Without dropout, whose draws depend on the stack, up to rounding: the shorter folds skip steps, moments too."""
    panel, recipe = small_panel(), small_recipe(dropout=0.0, n_context=n_context, lr=0.003)
    sampler_steps = {len(fold.train) * 2 // 16 for fold in FOLDS}
    assert len(sampler_steps) > 1
    stacked_fits = fitted(panel, FOLDS, recipe, stack=3)
    for fold, fit in zip(FOLDS, stacked_fits, strict=True):
        (alone,) = fitted(panel, (fold,), recipe)
        assert distance(alone, fit) < 1e-3  # 3 epochs of lr 0.003 move a weight by up to 0.06
        assert np.allclose(alone.train_loss, fit.train_loss, rtol=1e-3, atol=1e-3)
        assert np.allclose(alone.validation_score, fit.validation_score, rtol=1e-3, atol=1e-3)


@pytest.fixture
def one_worker() -> Iterator[None]:
    """Folds one after the other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("stack", [1, 2])
def test_a_killed_walk_goes_on_from_its_finished_stacks(stack: int, tmp_path: Path) -> None:
    """What was kept is read back bit for bit and not fitted again; a stack that lacks a fold is."""
    panel, recipe, folds = small_panel(), small_recipe(epochs=2), FOLDS
    whole = fitted(panel, folds, recipe, stack=stack)
    started = fit_folds(market_of(panel), folds, recipe, stack=stack, keep=tmp_path)
    for _ in range(stack):
        next(started)  # the first stack is finished, and the process dies
    started.close()
    epochs: list[tuple[int, ...]] = []
    resumed = list(
        fit_folds(
            market_of(panel),
            folds,
            recipe,
            stack=stack,
            keep=tmp_path,
            on_epoch=lambda report: epochs.append(report.folds),
        )
    )
    assert all(identical(a, b) for a, b in zip(whole, resumed, strict=True))
    assert {fold for stacked in epochs for fold in stacked} == {fold.index for fold in folds[stack:]}
    epochs.clear()
    list(fit_folds(market_of(panel), FOLDS, recipe, stack=3, keep=tmp_path, on_epoch=lambda r: epochs.append(r.folds)))
    assert set(epochs) == {(0, 1, 2)}  # another composition of stacks is fitted anew


def out_of_memory_above(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[list[int]]:
    """A device that holds stacks of `limit` folds: what is tried on it. More fail after an epoch."""
    tried: list[list[int]] = []

    def fit(
        market: Market,
        folds: Sequence[Fold],
        recipes: Sequence[Recipe],
        report: Callable[[EpochReport | None], None],
    ) -> Any:
        tried.append([fold.index for fold in folds])
        if len(folds) > limit:
            real(market, folds, [replace(recipe, epochs=1) for recipe in recipes], report)
            raise torch.cuda.OutOfMemoryError
        return real(market, folds, recipes, report)

    real = train._fit_stack
    monkeypatch.setattr(train, "_fit_stack", fit)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a small GPU")
    return tried


@pytest.mark.usefixtures("one_worker")
def test_a_stack_that_does_not_fit_is_halved_starts_again_and_the_size_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fold is what it is in a stack of that composition, and a later process starts with that size."""
    panel, recipe = small_panel(), small_recipe(epochs=2)
    folds = tuple(replace(FOLDS[i % 3], index=i) for i in range(5))
    expected = fitted(panel, folds, recipe, stack=2)
    tried = out_of_memory_above(monkeypatch, 2)
    monkeypatch.setattr(train, "largest_stack", lambda *arguments: 4)
    market, reports = market_of(panel), []
    walk = train._one_stack_after_the_other(market, folds, [recipe] * 5, None, tmp_path, reports.append)
    with pytest.warns(UserWarning, match="^out of GPU memory: going on with stacks of 2 folds$"):
        first = [next(walk), next(walk)]
    walk.close()  # the process dies
    assert tried == [[0, 1, 2], [0, 1]]  # five shared evenly
    assert [report.folds for report in reports] == [(0, 1, 2), (0, 1), (0, 1)]
    tried.clear()
    resumed = list(train._one_stack_after_the_other(market, folds, [recipe] * 5, None, tmp_path, reports.append))
    assert tried == [[2, 3], [4]]
    assert [fit.stack for fit in resumed] == [(0, 1), (0, 1), (2, 3), (2, 3), (4,)]
    assert all(identical(a, b) for a, b in zip(expected, resumed, strict=True))
    assert all(identical(a, b) for a, b in zip(first, resumed, strict=False))


def test_a_finished_stack_is_read_back_whole_whatever_size_is_in_use_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, recipes = market_of(small_panel()), [small_recipe(epochs=1)] * 4
    folds = tuple(replace(FOLDS[i % 3], index=i) for i in range(4))
    whole = list(train._one_stack_after_the_other(market, folds[:3], recipes, 3, tmp_path, lambda one: None))
    train.keep_size(tmp_path, 1)
    tried = out_of_memory_above(monkeypatch, 1)
    fits = list(train._one_stack_after_the_other(market, folds, recipes, None, tmp_path, lambda one: None))
    assert tried == [[3]]
    assert all(identical(a, b) for a, b in zip(whole, fits, strict=False))


def test_a_single_fold_too_large_for_the_device_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(monkeypatch, 0)
    walk = train._one_stack_after_the_other(
        market_of(small_panel()), FOLDS[1:2], [small_recipe()], 1, None, lambda one: None
    )
    with pytest.raises(ValueError, match=r"^fold 1 does not fit into the memory of a small GPU: lower [^.]*[a-z_.]*"):
        list(walk)


def test_folds_side_by_side_are_bit_identical_to_folds_one_after_the_other() -> None:
    """However many cores there are; every epoch is reported."""
    panel, recipe = small_panel(), small_recipe()
    before, reports = torch.get_num_threads(), {}
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            epochs: list[EpochReport] = []
            fits = list(fit_folds(market_of(panel), FOLDS, recipe, on_epoch=epochs.append))
            reports[n_threads] = (fits, sorted((report.folds, report.epoch) for report in epochs))
    finally:
        torch.set_num_threads(before)
    assert all(identical(a, b) for a, b in zip(reports[1][0], reports[3][0], strict=True))
    assert reports[1][1] == reports[3][1] == [((fold,), epoch) for fold in range(3) for epoch in range(3)]


def test_what_follows_a_fit_happens_in_its_thread_and_arrives_in_order(tmp_path: Path) -> None:
    """Just fitted or read back. An exception is raised when its fold's turn comes."""

    def follow(number: int, fit: FoldFit) -> tuple[int, str]:
        assert fit.fold == FOLDS[number]
        if number == 2:
            raise LookupError("fold 2")
        return number, threading.current_thread().name.rstrip("0123456789")

    for _ in range(2):
        followed = map_fits(follow, market_of(small_panel()), FOLDS, small_recipe(), keep=tmp_path)
        assert [next(followed), next(followed)] == [(0, "fold-worker-"), (1, "fold-worker-")]
        with pytest.raises(LookupError, match="fold 2"):
            next(followed)


def test_no_value_after_the_validation_labels_enters_a_fit() -> None:
    """Everything later is corrupted, and the fit is the same to the last bit."""
    recipe, fold = small_recipe(), FOLDS[0]
    panel = small_panel()
    corrupt = small_panel()
    rng = np.random.default_rng(1)
    later = corrupt.features[fold.validation.stop :]
    later[:] = np.where(np.isfinite(later), rng.standard_normal(later.shape) * 100, np.nan)
    known_returns = fold.validation.stop + recipe.timing.label_bars
    corrupt.returns[known_returns:] = rng.standard_normal(corrupt.returns[known_returns:].shape)
    (clean,), (dirty,) = fitted(panel, (fold,), recipe), fitted(corrupt, (fold,), recipe)
    assert identical(clean, dirty)
    # The test can fail: one bar earlier the last validation label is hit.
    corrupt.returns[known_returns - 1] *= 3
    (hit,) = fitted(corrupt, (fold,), recipe)
    assert not np.array_equal(hit.validation_score, clean.validation_score)
    assert np.array_equal(hit.train_loss, clean.train_loss)


def test_the_validation_block_does_not_enter_the_updates() -> None:
    """It chooses the epoch; training losses do not see it."""
    recipe, fold = small_recipe(), FOLDS[0]
    corrupt = small_panel()
    corrupt.features[fold.train.stop :] *= -7.0
    corrupt.returns[fold.train.stop + recipe.timing.label_bars :] *= -2.0
    (clean,), (dirty,) = fitted(small_panel(), (fold,), recipe), fitted(corrupt, (fold,), recipe)
    assert np.array_equal(clean.train_loss, dirty.train_loss)
    assert not np.array_equal(clean.validation_score, dirty.validation_score)


# The update


def by_plain_torch(panel: Panel, fold: Fold, recipe: Recipe, *, clip: bool = True) -> tuple[torch.Tensor, list[float]]:
    """One epoch as anyone would write it: nn.Module, backward, clip_grad_norm_, torch.optim.Adam."""
    market = market_of(panel)
    (reference,) = fit_folds(market, [fold], replace(recipe, epochs=1))
    space = market.space(reference.scaler, recipe.model)
    sampler = TrainingSampler(
        [space], [fold], np.isfinite(market.y), batch_size=recipe.training.batch_size, seed=recipe.seed, device=CPU
    )
    model, flat = initial_parameters(panel, [fold], recipe, CPU)
    torch.nn.utils.vector_to_parameters(flat[0], model.parameters())
    mean, std = torch.from_numpy(reference.scaler.mean)[None], torch.from_numpy(reference.scaler.std)[None]
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.training.lr)
    norms = []
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
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach(), norms


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


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_the_kept_epoch_has_the_best_validation_score_smoothed_over_five_epochs(loss_mode: LossMode) -> None:
    recipe = small_recipe(epochs=14, lr=0.02, loss_mode=loss_mode)
    (fit,) = fitted(small_panel(), FOLDS[:1], recipe)
    assert SMOOTHING_EPOCHS == 5
    assert fit.validation_score.shape == (14,)
    assert fit.kept_epoch == kept_by_hand(fit.validation_score, 0)[0]


def test_a_stopped_fold_is_frozen_and_keeps_the_weights_of_its_own_epoch() -> None:
    """Its weights are those of a run that ended at the kept epoch, though the other folds of the stack went on."""
    panel, recipe = small_panel(), small_recipe(epochs=25, patience=3, lr=0.02)
    fits = fitted(panel, FOLDS, recipe, stack=3)
    used = [kept_by_hand(fit.validation_score, 3)[1] for fit in fits]
    assert len({len(fit.validation_score) for fit in fits}) == 1
    assert len(fits[0].validation_score) == max(used) < 25
    assert min(used) < max(used)
    for k, fit in enumerate(fits):
        assert fit.kept_epoch == kept_by_hand(fit.validation_score, 3)[0]
        after = fit.validation_position[used[k] - 1 :]
        assert np.array_equal(after, np.broadcast_to(after[0], after.shape), equal_nan=True)
        assert not np.array_equal(fit.validation_position[used[k] - 2], after[0], equal_nan=True)
        ended = fitted(panel, FOLDS, replace(recipe, epochs=fit.kept_epoch + 1), stack=3)[k]
        assert ended.kept_epoch == fit.kept_epoch
        assert all(torch.equal(ended.parameters[name], fit.parameters[name]) for name in fit.parameters)


def test_without_patience_no_fold_stops() -> None:
    recipe = small_recipe(epochs=20, lr=0.05, patience=0)
    fits = fitted(small_panel(), FOLDS, recipe)
    assert [len(fit.train_loss) for fit in fits] == [20] * 3
    assert min(fit.kept_epoch for fit in fits) < 20 - 3  # noise: a patience of 3 would have stopped it


def test_the_kept_weights_give_the_validation_positions_of_the_kept_epoch() -> None:
    panel, recipe = small_panel(), small_recipe(epochs=6, lr=0.03)
    (fit,) = fitted(panel, FOLDS[:1], recipe)
    forecasts, cells = forecast_fit(fit, market_of(panel), recipe, fit.fold.validation)
    shown = fit.validation_position[fit.kept_epoch].reshape(-1)[cells - fit.fold.validation.start * 2]
    assert np.allclose(forecasts.position, shown, rtol=0.0, atol=1e-6)
    assert np.isfinite(fit.validation_position[0]).sum() == len(cells)


def test_every_epoch_is_reported() -> None:
    reports: list[EpochReport] = []
    fits = list(fit_folds(market_of(small_panel()), FOLDS, small_recipe(), stack=2, on_epoch=reports.append))
    reports.sort(key=lambda report: report.folds)  # the stacks may have been fitted side by side
    assert [(report.folds, report.epoch) for report in reports] == [
        *(((0, 1), epoch) for epoch in range(3)),
        *(((2,), epoch) for epoch in range(3)),
    ]
    assert [report.validation_score[1] for report in reports[:3]] == fits[1].validation_score.tolist()
    assert [report.train_loss[0] for report in reports[3:]] == fits[2].train_loss.tolist()


# Learning


@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_every_loss_mode_lowers_its_training_loss(loss_mode: LossMode, n_context: int) -> None:
    panel = small_panel(signal=0.8)
    recipe = small_recipe(epochs=8, loss_mode=loss_mode, n_context=n_context)
    (fit,) = fitted(panel, FOLDS[:1], recipe)
    assert np.isfinite(fit.train_loss).all()
    assert fit.skipped_steps == 0
    assert fit.train_loss[-3:].mean() < fit.train_loss[:2].mean() - 0.5


def test_a_planted_signal_is_found_and_a_shuffled_target_is_not() -> None:
    """Correlation of the raw positions with what follows, out of sample."""
    fold = Fold(0, range(20, 230), range(235, 265), range(270, 398))
    correlation = {}
    for name in ("planted", "shuffled"):
        panel = small_panel(400, 2, 3, signal=0.7, missing=0.0)
        if name == "shuffled":
            panel.returns[:] = panel.returns[np.random.default_rng(0).permutation(400)]
        market, recipe = market_of(panel), small_recipe(epochs=8, batch_size=32)
        (fit,) = fit_folds(market, [fold], recipe)
        forecasts, cells = forecast_fit(fit, market, recipe, fold.test)
        y = market.y.reshape(-1)[cells]
        known = np.isfinite(y)
        correlation[name] = np.corrcoef(forecasts.position[known], y[known])[0, 1]
    assert correlation["planted"] > 0.45  # a perfect reading of the signal gives 0.7
    assert abs(correlation["shuffled"]) < 0.2  # 256 cells: two standard errors are 0.125


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


def test_steps_whose_gradient_is_not_finite_are_skipped_and_counted() -> None:
    """A label that is beyond all bounds spoils one step an epoch, not the fit."""
    panel = small_panel(missing=0.0)
    market = market_of(panel)
    market.y_on_device[60 * 2] = torch.inf
    (fit,) = fit_folds(market, FOLDS[:1], small_recipe(epochs=4))
    assert 1 <= fit.skipped_steps <= 4
    assert all(torch.isfinite(value).all() for value in fit.parameters.values())
    assert np.isfinite(fit.validation_score).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is available")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^device is 'cuda', but no GPU is available here: use auto or cpu$"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == CPU


def test_stacks_are_of_one_on_a_cpu() -> None:
    assert largest_stack(market_of(small_panel()), FOLDS, small_recipe()) == 1


@pytest.mark.parametrize(
    ("n", "largest", "size"), [(17, 20, 17), (17, 16, 9), (20, 20, 20), (21, 20, 11), (10, 6, 5), (7, 3, 3), (5, 1, 1)]
)
def test_stacks_are_as_few_as_can_be_and_shared_evenly(n: int, largest: int, size: int) -> None:
    """Sixteen folds and the final fit are one stack."""
    assert evenly(n, largest) == size
    assert evenly(17, train.MAX_STACK) == 17


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
    *fits, noisy = fit_folds(market_of(panel), folds, recipes, stack=4)
    assert [fit.stack for fit in fits] == [(0, 0, 1, 0)] * 3
    assert np.abs(noisy.train_loss - fits[0].train_loss).min() > 1e-2
    for fold, own, fit in zip(folds[:3], recipes[:3], fits, strict=True):
        (alone,) = fitted(panel, (fold,), own)
        # Adam moves a weight whose gradient is rounding noise by up to lr a step either way: such are few.
        moved = torch.cat([(alone.parameters[name] - fit.parameters[name]).abs().flatten() for name in fit.parameters])
        assert moved.median() < 1e-6
        assert np.allclose(alone.train_loss, fit.train_loss, rtol=0.0, atol=1e-4)
        assert np.allclose(alone.validation_score, fit.validation_score, rtol=0.0, atol=1e-4)
    assert distance(fits[0], fits[1]) > 1e-3


def test_only_the_fit_that_diverges_is_named() -> None:
    recipe = small_recipe()
    with pytest.raises(FloatingPointError, match=r"score of fold 0 was never finite: lower training.lr \(1e\+30\)"):
        list(fit_folds(market_of(small_panel()), FOLDS[:1] * 2, [recipe, small_recipe(lr=1e30)], stack=2))


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (TrainingConfig(), None),
        (TrainingConfig(lr=0.0), "training.lr is 0.0, it must be positive"),
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
