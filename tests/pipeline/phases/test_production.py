"""The walk-forward: every fold by its own choice, seeds averaged, the final fit beside the folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.reading import load_config
from pipeline.config.schema import Config, Selection
from pipeline.phases.folds import deployment_fold, production_folds
from pipeline.phases.prefilter import Prefiltered
from pipeline.phases.production import Choice, Walked, folds_to_refit_untuned, untuned_record, walk_forward
from pipeline.phases.pruning import Pruned
from pipeline.phases.stitching import with_gain
from pipeline.phases.training_data import TrainingData
from pipeline.phases.tuning import Tuned
from tests.conftest import CPU, NESTED_MICRO, small_panel
from tests.tft.fitting import MemoryStore
from tft.backtest import FoldOutcome, walk
from tft.folds import Fold
from tft.market import Market
from tft.record import stitch
from tft.train import EpochReport, Recipe, fit_folds

NESTED = load_config(NESTED_MICRO)
TWO_SEEDS = replace(NESTED, production=replace(NESTED.production, seeds=2))
HOLDOUT = replace(NESTED, selection="holdout")
DATA = TrainingData(small_panel(180, 2, 5, seed=3, signal=0.5), None, CPU)
N_DEVELOPMENT = 126


def choice_of(config: Config, features: Sequence[int], *, best_trial: int = 1, **tuned: Any) -> Choice:
    """Some columns, by number, and parameters, as if phases 1-4 had decided for them."""
    names = tuple(f"group_{number}" for number in features)
    return Choice(
        names,
        config.with_tuned(tuned),
        Prefiltered(5, names, ()),
        Pruned((), (), (), (), (), None, 1.0, 0.1, 0, None, float("nan"), ""),
        Tuned(tuned, best_trial, (), (), ""),
    )


def recipe_of(choice: Choice, seed: int) -> Recipe:
    config = choice.config
    sections = config.model, config.training, config.timing
    return Recipe(*sections, config.production.epochs, config.seed + seed, config.positions, config.burn_in_bars)


def alone(fold: Fold, choice: Choice, seed: int, test_until: int | None = None) -> FoldOutcome:
    """The fold without any other beside it, by tft's own walk, with the gain of its own positions."""
    market = Market(DATA.panel.select(choice.features), choice.config.timing, CPU)
    ((_, outcome),) = walk(market, [fold], recipe_of(choice, seed), test_until=test_until)
    assert choice.config.training.objective == "portfolio"
    return with_gain(outcome, market, recipe_of(choice, seed))


def nested_choices(config: Config) -> list[tuple[Fold, Choice]]:
    """Folds 1 to 3, the last two with the same choice."""
    folds = production_folds(config, DATA.n_bars)
    first = choice_of(config, [0, 3], lr=0.002, max_position=0.2, position_smooth=0.8)
    second = choice_of(config, [4, 1, 0], lr=0.008, max_position=0.9, position_smooth=0.1)
    return list(zip(folds, [first, second, second], strict=True))


def holdout_choices(config: Config = HOLDOUT, **tuned: Any) -> list[tuple[Fold, Choice]]:
    """Folds 0 to 3 with one choice."""
    chosen = choice_of(config, [0, 2, 4], **tuned)
    return [(fold, chosen) for fold in production_folds(config, DATA.n_bars)]


def test_each_fold_is_fitted_by_its_own_choice_and_seeds_are_averaged() -> None:
    """Nested, two seeds: folds and bars by hand, all of it clean; every fold is what it is alone."""
    told: list[EpochReport] = []
    pairs = nested_choices(TWO_SEEDS)
    walked = walk_forward(DATA, TWO_SEEDS, pairs, n_development=0, on_epoch=told.append)
    assert walked.selection == "nested" and walked.n_development == 0 and walked.final is None
    assert [fold.index for fold in walked.folds] == sorted(walked.choices) == [1, 2, 3]
    assert walked.record.bars.tolist() == list(range(80, 180)) and set(walked.record.segment) == {"holdout"}
    owner = walked.record.fold  # -1 where no selected column is present
    expected = np.broadcast_to(np.array([1] * 35 + [2] * 35 + [3] * 30)[:, None], owner.shape)
    np.testing.assert_array_equal(owner, np.where(owner < 0, -1, expected))
    assert (owner >= 0).mean() > 0.9
    for averaged, *seeds in zip(walked.outcomes, *walked.seed_outcomes, strict=True):
        raw = np.mean([one.forecast.raw_position / one.gain for one in seeds], axis=0)
        np.testing.assert_allclose(averaged.forecast.raw_position / averaged.gain, raw, rtol=1e-12)
    assert all(1.0 <= outcome.gain <= 5.0 for outcome in walked.outcomes)
    assert not np.allclose(walked.seed_records[0].raw_position, walked.seed_records[1].raw_position)
    for number, (fold, choice) in enumerate(pairs):
        assert len(walked.outcomes[number].vsn_weight) == len(choice.features)
        for seed in (0, 1):
            of_seed = walked.seed_outcomes[seed][number]
            single = alone(fold, choice, seed, test_until=180 if fold.index == 3 else None)
            np.testing.assert_array_equal(of_seed.forecast.raw_position, single.forecast.raw_position)
            np.testing.assert_array_equal(of_seed.validation_returns, single.validation_returns)
            assert of_seed.validation_returns.shape == (2, 10)
    assert walked.positions == {fold.index: choice.config.positions for fold, choice in pairs}
    assert walked.market.panel.feature_names == ("group_4", "group_1", "group_0")
    assert sum(len(epoch.folds) for epoch in told) == 3 * 2 * 2, "folds, seeds and epochs"


def test_a_walk_that_is_made_again_reads_every_seed_back() -> None:
    store, told = MemoryStore(), list[EpochReport]()
    first, again = (
        walk_forward(DATA, TWO_SEEDS, nested_choices(TWO_SEEDS), n_development=0, store=store, on_epoch=told.append)
        for _ in range(2)
    )
    assert sum(len(epoch.folds) for epoch in told) == 3 * 2 * 2, "folds, seeds and epochs, once"
    for ours, theirs in zip(first.seed_records, again.seed_records, strict=True):
        np.testing.assert_array_equal(ours.raw_position, theirs.raw_position)


@pytest.mark.parametrize("selection", ["holdout", "nested"])
def test_the_final_fit_is_made_beside_the_folds_and_is_what_it_is_alone(selection: Selection) -> None:
    """Of each seed, with its own choice; the record does not know of it."""
    config = replace(TWO_SEEDS, selection=selection)
    pairs = nested_choices(config) if selection == "nested" else holdout_choices(config)
    chosen = choice_of(config, [2, 4], lr=0.003) if selection == "nested" else pairs[0][1]
    n_development = 0 if selection == "nested" else N_DEVELOPMENT
    fold = deployment_fold(config, DATA.n_bars, 4)
    plain = walk_forward(DATA, config, pairs, n_development=n_development)
    walked = walk_forward(DATA, config, pairs, final=(fold, chosen), n_development=n_development)
    np.testing.assert_array_equal(walked.record.position, plain.record.position)
    np.testing.assert_array_equal(walked.seed_records[1].raw_position, plain.seed_records[1].raw_position)
    assert walked.folds == plain.folds and walked.choices.keys() == plain.choices.keys()
    assert walked.market.panel.feature_names == pairs[-1][1].features

    market = Market(DATA.panel.select(chosen.features), config.timing, CPU)
    assert walked.final is not None and 1.0 <= walked.final.gain <= 5.0
    for seed, fit in enumerate(walked.final.fits):
        (by_itself,) = fit_folds(market, [fold], recipe_of(chosen, seed))
        assert (fit.fold.index, fit.fold.train, fit.fold.validation) == (4, fold.train, fold.validation)
        assert len(fit.fold.test) == 0
        assert all(torch.equal(fit.parameters[name], by_itself.parameters[name]) for name in by_itself.parameters)
        np.testing.assert_array_equal(fit.scaler.mean, by_itself.scaler.mean)
    assert [fit.seed for fit in walked.final.fits] == [config.seed, config.seed + 1]


def test_the_untuned_configuration_walks_the_holdout_on_the_same_columns() -> None:
    """Folds that own holdout bars alone (those of 126 and later: 2 and 3 of 0 to 3), by tft's own walk and stitch.

    Nothing is walked where trial 0 is the best one, or there is no holdout.
    """
    walked = walk_forward(DATA, HOLDOUT, holdout_choices(lr=0.002, max_position=0.9), n_development=N_DEVELOPMENT)

    def claiming(best_trial: int) -> Walked:
        choices = {
            fold: replace(choice, tuned=replace(choice.tuned, best_trial=best_trial))
            for fold, choice in walked.choices.items()
        }
        return replace(walked, choices=choices)

    assert untuned_record(DATA, HOLDOUT, claiming(0)) is None and folds_to_refit_untuned(claiming(0)) == []
    record = untuned_record(DATA, HOLDOUT, claiming(1))
    assert record is not None
    own = [fold for fold in walked.folds if fold.test.stop > 126]
    assert [fold.index for fold in own] == [2, 3]
    assert folds_to_refit_untuned(claiming(1)) == own
    market = Market(DATA.panel.select(walked.choices[0].features), HOLDOUT.timing, CPU)
    recipe = recipe_of(choice_of(HOLDOUT, [0, 2, 4]), 0)
    outcomes = [one for _, one in walk(market, own, recipe, test_until=180)]
    forecasts = [with_gain(one, market, recipe).forecast for one in outcomes]
    expected = stitch(
        forecasts, market.panel, market.sigma, HOLDOUT.positions, HOLDOUT.timing, n_development=N_DEVELOPMENT
    )
    assert record.bars.tolist() == expected.bars.tolist() == list(range(115, 180))
    np.testing.assert_array_equal(record.position, expected.position)
    np.testing.assert_array_equal(record.segment, expected.segment)
    assert not np.allclose(record.raw_position, walked.record.raw_position[-65:])
    clean = walked.record
    nowhere = replace(claiming(1), record=replace(clean, segment=np.full(len(clean.segment), "development")))
    assert untuned_record(DATA, HOLDOUT, nowhere) is None


def test_a_fold_that_tuning_left_as_it_was_is_not_walked_again() -> None:
    """Nested: fold 2 chose trial 0, so that its outcome stands between those of folds 1 and 3 refitted."""
    pairs = [
        (fold, choice_of(NESTED, [0, 3], best_trial=best_trial, **tuned))
        for fold, best_trial, tuned in zip(
            production_folds(NESTED, DATA.n_bars), (1, 0, 1), ({"lr": 0.002}, {}, {"lr": 0.008}), strict=True
        )
    ]
    walked = walk_forward(DATA, NESTED, pairs, n_development=0)
    told: list[EpochReport] = []
    record = untuned_record(DATA, NESTED, walked, on_epoch=told.append)
    assert {index for epoch in told for index in epoch.folds} == {1, 3}
    assert record is not None and record.bars.tolist() == list(range(80, 180))
    untuned = choice_of(NESTED, [0, 3])
    for fold in walked.folds:
        rows = slice(fold.test.start - 80, fold.test.stop - 80)
        single = alone(fold, untuned, 0).forecast.raw_position
        np.testing.assert_array_equal(record.raw_position[rows][record.fold[rows] >= 0], single[record.fold[rows] >= 0])
