"""Training: what a fit depends on, what goes on after a restart, and that it learns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import CPU, small_panel, small_recipe
from tests.tft.fitting import FOLDS, MemoryStore, distance, fitted, identical, market_of
from tft import train
from tft.fold_store import FoldFit, read_stack_size, write_stack_size
from tft.folds import Fold
from tft.head import LOSS_MODES, LossMode
from tft.market import Market
from tft.recipe import OBJECTIVES, Objective
from tft.scaling import Scaler
from tft.train import EpochReport, Recipe, evenly, fit_folds, forecast_fit, largest_stack, map_fits

pytestmark = pytest.mark.usefixtures("few_steps")

# What a fit depends on


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("stack_size", [1, 3])
def test_a_fit_is_bit_identical_when_it_is_run_again(stack_size: int, objective: Objective) -> None:
    """Whatever the global generator holds, which is left as it was."""
    panel, recipe = small_panel(), small_recipe(objective=objective, epochs=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fitted(panel, FOLDS, recipe, stack_size=stack_size)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = fitted(panel, FOLDS, recipe, stack_size=stack_size)
    assert [fit.fold.index for fit in first] == [0, 1, 2]
    assert all(identical(a, b) for a, b in zip(first, again, strict=True))
    assert not identical(first[0], fitted(panel, FOLDS, replace(recipe, seed=6), stack_size=stack_size)[0])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_fold_does_not_depend_on_the_folds_of_other_stacks(objective: Objective) -> None:
    panel, recipe = small_panel(), small_recipe(objective=objective, epochs=2)
    together = fitted(panel, FOLDS, recipe)
    for fold, fit in zip(FOLDS, together, strict=True):
        assert identical(fitted(panel, (fold,), recipe)[0], fit)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("n_context", [0, 2])
def test_a_stack_of_unequal_folds_fits_each_as_if_it_were_alone(n_context: int, objective: Objective) -> None:
    """Without dropout, whose draws depend on the stack, up to rounding: the shorter folds skip steps, moments too."""
    panel, recipe = small_panel(), small_recipe(dropout=0.0, n_context=n_context, lr=0.003, objective=objective)
    sampler_steps = {len(fold.train) * 2 // 16 for fold in FOLDS}
    assert len(sampler_steps) > 1
    stacked_fits = fitted(panel, FOLDS, recipe, stack_size=3)
    for fold, fit in zip(FOLDS, stacked_fits, strict=True):
        (alone,) = fitted(panel, (fold,), recipe)
        assert distance(alone, fit) < 1e-3  # 3 epochs of lr 0.003 move a weight by up to 0.06
        assert np.allclose(alone.train_loss, fit.train_loss, rtol=1e-3, atol=1e-3)
        assert np.allclose(alone.validation_score, fit.validation_score, rtol=1e-3, atol=1e-3)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def one_worker() -> Iterator[None]:
    """Fit the folds one after the other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("stack_size", [1, 2])
def test_a_killed_walk_goes_on_from_its_finished_stacks(
    stack_size: int, store: MemoryStore, objective: Objective
) -> None:
    """What was kept is read back bit for bit and not fitted again; a stack that lacks a fold is."""
    panel, recipe, folds = small_panel(), small_recipe(epochs=2, objective=objective), FOLDS
    whole = fitted(panel, folds, recipe, stack_size=stack_size)
    started = fit_folds(market_of(panel), folds, recipe, stack_size=stack_size, store=store)
    for _ in range(stack_size):
        next(started)  # the first stack is finished, and the process dies
    started.close()
    epochs: list[tuple[int, ...]] = []
    resumed = list(
        fit_folds(
            market_of(panel),
            folds,
            recipe,
            stack_size=stack_size,
            store=store,
            on_epoch=lambda report: epochs.append(report.folds),
        )
    )
    assert all(identical(a, b) for a, b in zip(whole, resumed, strict=True))
    assert {fold for stacked in epochs for fold in stacked} == {fold.index for fold in folds[stack_size:]}
    epochs.clear()
    list(
        fit_folds(market_of(panel), FOLDS, recipe, stack_size=3, store=store, on_epoch=lambda r: epochs.append(r.folds))
    )
    assert set(epochs) == {(0, 1, 2)}  # another composition of stacks is fitted anew


def out_of_memory_above(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[list[int]]:
    """A device with memory for stacks of `limit` folds: larger ones fail after an epoch. Records the stacks tried."""
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

    real = train.train_stack
    monkeypatch.setattr(train, "train_stack", fit)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a small GPU")
    return tried


@pytest.mark.usefixtures("one_worker")
def test_a_stack_that_does_not_fit_is_halved_starts_again_and_the_size_is_kept(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fold is what it is in a stack of that composition, and a later process starts with that size."""
    panel, recipe = small_panel(), small_recipe(epochs=2)
    folds = tuple(replace(FOLDS[i % 3], index=i) for i in range(5))
    expected = fitted(panel, folds, recipe, stack_size=2)
    tried = out_of_memory_above(monkeypatch, 2)
    monkeypatch.setattr(train, "largest_stack", lambda *arguments: 4)
    market, reports = market_of(panel), []
    walk = train._fit_stacks_in_turn(market, folds, [recipe] * 5, None, store, reports.append)
    with pytest.warns(UserWarning, match="^out of GPU memory: going on with stacks of 2 folds$"):
        first = [next(walk), next(walk)]
    walk.close()  # the process dies
    assert tried == [[0, 1, 2], [0, 1]]  # five shared evenly
    assert [report.folds for report in reports] == [(0, 1, 2), (0, 1), (0, 1)]
    tried.clear()
    resumed = list(train._fit_stacks_in_turn(market, folds, [recipe] * 5, None, store, reports.append))
    assert tried == [[2, 3], [4]]
    assert [[fold for fold, _ in fit.stack] for fit in resumed] == [[0, 1], [0, 1], [2, 3], [2, 3], [4]]
    assert all(identical(a, b) for a, b in zip(expected, resumed, strict=True))
    assert all(identical(a, b) for a, b in zip(first, resumed, strict=False))


def test_a_finished_stack_is_read_back_whole_whatever_size_is_in_use_later(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, recipes = market_of(small_panel()), [small_recipe(epochs=1)] * 4
    folds = tuple(replace(FOLDS[i % 3], index=i) for i in range(4))
    whole = list(train._fit_stacks_in_turn(market, folds[:3], recipes, 3, store, lambda one: None))
    write_stack_size(store, 1)
    tried = out_of_memory_above(monkeypatch, 1)
    fits = list(train._fit_stacks_in_turn(market, folds, recipes, None, store, lambda one: None))
    assert tried == [[3]]
    assert all(identical(a, b) for a, b in zip(whole, fits, strict=False))


def test_seeds_share_stacks_and_a_killed_walk_reads_back_exactly_those(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two folds with three seeds, stacks of at most four: what is stored is read, and the rest is fitted."""
    monkeypatch.setattr(train, "largest_stack", lambda *arguments: 4)
    market, recipe = market_of(small_panel()), small_recipe(epochs=1)
    folds = [fold for fold in FOLDS[:2] for _ in range(3)]
    recipes = [replace(recipe, seed=seed) for seed in (5, 6, 7)] * 2
    members = [(fold.index, one.seed) for fold, one in zip(folds, recipes, strict=True)]
    walk = train._fit_stacks_in_turn(market, folds, recipes, None, store, lambda one: None)
    first = [next(walk) for _ in range(3)]
    walk.close()  # the process dies
    tried = out_of_memory_above(monkeypatch, 4)
    fits = list(train._fit_stacks_in_turn(market, folds, recipes, None, store, lambda one: None))
    assert tried == [[1, 1, 1]]  # six shared evenly
    assert all(identical(a, b) for a, b in zip(first, fits, strict=False))
    assert [(fit.fold.index, fit.seed) for fit in fits] == members
    assert [fit.stack for fit in fits] == [tuple(members[:3])] * 3 + [tuple(members[3:])] * 3


def test_on_a_cpu_a_seed_is_stored_and_found_again_however_many_there_are(store: MemoryStore) -> None:
    market, recipe = market_of(small_panel()), small_recipe(epochs=1)
    epochs: list[EpochReport] = []

    def fits(*seeds: int) -> list[FoldFit]:
        recipes = [replace(recipe, seed=seed) for _ in range(2) for seed in seeds]
        folds = [fold for fold in FOLDS[:2] for _ in seeds]
        return list(fit_folds(market, folds, recipes, store=store, on_epoch=epochs.append))

    one, three = fits(6), fits(5, 6, 7)
    assert [identical(a, b) for a, b in zip(one, three[1::3], strict=True)] == [True, True]
    assert len(epochs) == 2 * 3  # none twice
    assert not identical(three[0], three[1])


def test_the_size_is_noted_once_it_changes_and_a_given_size_is_not(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, recipes = market_of(small_panel()), [small_recipe(epochs=1)] * 3
    list(train._fit_stacks_in_turn(market, FOLDS, recipes, 3, store, lambda one: None))
    assert read_stack_size(store) is None
    out_of_memory_above(monkeypatch, 1)
    monkeypatch.setattr(train, "largest_stack", lambda *arguments: 3)
    other = MemoryStore()
    with pytest.warns(UserWarning, match="^out of GPU memory"):
        list(train._fit_stacks_in_turn(market, FOLDS, recipes, None, other, lambda one: None))
    assert read_stack_size(other) == 1
    assert [name for name in other.written if not name.startswith("fold-")] == ["stack-size"] * 3  # 3, 2, 1


@pytest.mark.usefixtures("one_worker")
def test_a_store_that_cannot_be_written_to_is_said_and_ends_no_training() -> None:
    panel, recipe = small_panel(), small_recipe(epochs=1)
    with pytest.warns(UserWarning, match=r"^finished folds cannot be kept in a full disk \(No space left on device\)$"):
        fits = list(fit_folds(market_of(panel), FOLDS, recipe, store=MemoryStore(full=True)))
    assert all(identical(a, b) for a, b in zip(fits, fitted(panel, FOLDS, recipe), strict=True))


@pytest.mark.parametrize(("objective", "size"), [("pooled", "batch_size"), ("portfolio", "block_bars")])
def test_a_single_fold_too_large_for_the_device_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, objective: Objective, size: str
) -> None:
    out_of_memory_above(monkeypatch, 0)
    recipe = small_recipe(objective=objective)
    walk = train._fit_stacks_in_turn(market_of(small_panel()), FOLDS[1:2], [recipe], 1, None, lambda one: None)
    said = f"^fold 1 does not fit into the memory of a small GPU: lower training[.]{size}, model.n_context or"
    with pytest.raises(ValueError, match=said):
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


def test_a_function_of_a_fit_is_called_in_its_thread_and_results_arrive_in_order(store: MemoryStore) -> None:
    """Just fitted or read back. An exception is raised when its fold's turn comes."""

    def function(number: int, fit: FoldFit) -> tuple[int, str]:
        assert fit.fold == FOLDS[number]
        if number == 2:
            raise LookupError("fold 2")
        return number, threading.current_thread().name.rstrip("0123456789")

    for _ in range(2):
        results = map_fits(function, market_of(small_panel()), FOLDS, small_recipe(), store=store)
        assert [next(results), next(results)] == [(0, "fold-thread-"), (1, "fold-thread-")]
        with pytest.raises(LookupError, match="fold 2"):
            next(results)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_value_after_the_validation_labels_enters_a_fit(objective: Objective) -> None:
    """Everything later is corrupted, and the fit is the same to the last bit."""
    recipe, fold = small_recipe(objective=objective), FOLDS[0]
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


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_validation_block_does_not_enter_the_updates(objective: Objective) -> None:
    """It chooses the epoch; training losses do not see it."""
    recipe, fold = small_recipe(objective=objective), FOLDS[0]
    corrupt = small_panel()
    corrupt.features[fold.train.stop :] *= -7.0
    corrupt.returns[fold.train.stop + recipe.timing.label_bars :] *= -2.0
    (clean,), (dirty,) = fitted(small_panel(), (fold,), recipe), fitted(corrupt, (fold,), recipe)
    assert np.array_equal(clean.train_loss, dirty.train_loss)
    assert not np.array_equal(clean.validation_score, dirty.validation_score)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_kept_weights_give_the_validation_positions_of_the_kept_epoch(objective: Objective) -> None:
    panel, recipe = small_panel(), small_recipe(epochs=6, lr=0.03, objective=objective)
    (fit,) = fitted(panel, FOLDS[:1], recipe)
    forecasts, cells = forecast_fit(fit, market_of(panel), recipe, fit.fold.validation)
    shown = fit.validation_position[fit.kept_epoch].reshape(-1)[cells - fit.fold.validation.start * 2]
    assert np.allclose(forecasts.position, shown, rtol=0.0, atol=1e-6)
    assert np.isfinite(fit.validation_position[0]).sum() == len(cells)


def test_every_epoch_is_reported() -> None:
    reports: list[EpochReport] = []
    fits = list(fit_folds(market_of(small_panel()), FOLDS, small_recipe(), stack_size=2, on_epoch=reports.append))
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


# How many folds are one stack


def test_stacks_are_of_one_on_a_cpu() -> None:
    assert largest_stack(market_of(small_panel()), FOLDS, small_recipe()) == 1


@pytest.mark.parametrize(
    ("n", "largest", "size"), [(17, 20, 17), (17, 16, 9), (20, 20, 20), (21, 20, 11), (10, 6, 5), (7, 3, 3), (5, 1, 1)]
)
def test_stacks_are_as_few_as_can_be_and_shared_evenly(n: int, largest: int, size: int) -> None:
    """Sixteen folds and the final fit are one stack."""
    assert evenly(n, largest) == size
    assert evenly(17, train.MAX_STACK) == 17


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_fold_with_gaps_learns_nothing_from_the_returns_in_them(objective: Objective) -> None:
    """Weights, scaler, hedge and recalibration: labels of bars between the parts, and of bars after them, may be
    anything. Those of the parts themselves may not."""
    panel, recipe = small_panel(), small_recipe(objective=objective)
    sigma = market_of(panel).sigma
    parts = (range(30, 60), range(80, 95), range(120, 140))
    fold = Fold(0, range(30, 140), range(98, 110), range(60, 115), train_parts=parts)

    def fit_on(changed: range) -> FoldFit:
        returns = panel.returns.copy()
        returns[changed.start : changed.stop] *= -30.0
        market = Market(replace(panel, returns=returns), recipe.timing, CPU, sigma)
        (fit,) = fit_folds(market, [fold], recipe)
        return fit

    reach = recipe.timing.label_bars
    plain = fit_on(range(0))
    assert identical(plain, fit_on(range(60 + reach, 80))), "between two parts"
    assert identical(plain, fit_on(range(110 + reach, 120))), "after validation"
    assert not identical(plain, fit_on(range(80 + reach, 90)))
    scaled = np.concatenate([panel.features[part.start : part.stop] for part in parts])
    np.testing.assert_array_equal(plain.scaler.mean, Scaler.fit(scaled).mean)
