"""Trials trained side by side are the trials of a search that runs one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.config.reading import load_config
from pipeline.config.schema import Config
from pipeline.config.space import Range
from pipeline.phases import candidates
from pipeline.phases.candidates import CandidateWalks
from pipeline.phases.folds import tuning_folds
from pipeline.phases.search import open_study
from pipeline.phases.training_data import TrainingData
from pipeline.phases.tuning import Tuned, tune
from tests.conftest import CPU, NESTED_MICRO, small_panel, small_recipe
from tft.backtest import FoldOutcome
from tft.backtest import walk as walk_folds
from tft.folds import Fold
from tft.market import Market
from tft.positions import PositionsConfig
from tft.recipe import Recipe
from tft.volatility import Timing

FOLDS = (
    Fold(0, range(20, 60), range(62, 75), range(77, 90)),
    Fold(1, range(50, 90), range(92, 105), range(107, 120)),
)


def candidate(lr: float, *, dropout: float = 0.1, max_position: float = 0.5, seq_len: int = 4) -> Recipe:
    positions = PositionsConfig(max_position=max_position)
    return small_recipe(epochs=1, lr=lr, dropout=dropout, seq_len=seq_len, n_context=0, positions=positions)


A, B, C = candidate(0.01), candidate(0.001, max_position=0.1), candidate(0.003, dropout=0.4)
LONGER = candidate(0.01, seq_len=6)
DIVERGES = candidate(1e30)


@pytest.fixture
def market() -> Market:
    return Market(small_panel(120), Timing(), CPU)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The folds of each walk-forward that is made."""
    made: list[list[int]] = []

    def watched(market: Market, folds: Sequence[Fold], *given: Any) -> Iterator[Any]:
        made.append([fold.index for fold in folds])
        return walk_folds(market, folds, *given)

    monkeypatch.setattr(candidates, "walk", watched)
    return made


def same(found: Sequence[FoldOutcome], expected: Sequence[FoldOutcome]) -> bool:
    return all(
        a.fold == b.fold
        and np.array_equal(a.forecast.raw_position, b.forecast.raw_position, equal_nan=True)
        and np.array_equal(a.validation_returns, b.validation_returns, equal_nan=True)
        for a, b in zip(found, expected, strict=True)
    )


def alone(market: Market, one: Recipe) -> list[FoldOutcome]:
    return [outcome for _, outcome in walk_folds(market, FOLDS, one)]


def test_trials_of_one_shape_are_walked_with_the_first_of_them_and_are_what_each_is_alone(
    market: Market, walked: list[list[int]]
) -> None:
    """Learning rate, dropout and positions are each trial's own; one that nobody foresaw, or nothing is like, is walked
    by itself."""
    walks = CandidateWalks(market, FOLDS, [A, LONGER, None, B, C], at_once=3)
    unforeseen = candidate(0.002)
    found = {one: list(walks.outcomes(one)) for one in (A, B, LONGER, unforeseen, C)}
    assert walked == [[0, 1] * 3, [0, 1], [0, 1]]
    assert all(same(outcomes, alone(market, one)) for one, outcomes in found.items())
    assert not same(found[A], found[B])


def test_trials_are_shared_evenly_and_a_stack_is_the_same_for_a_search_that_goes_on_later(
    market: Market, walked: list[list[int]]
) -> None:
    """Four at a time at most: five are three and two. Trial 1, asked for first, has trials 0 and 2 beside it."""
    five = [A, B, C, candidate(0.004), candidate(0.005)]
    walks = CandidateWalks(market, FOLDS, five, at_once=4)
    list(walks.outcomes(five[1]))
    list(walks.outcomes(five[4]))
    assert walked == [[0, 1] * 3, [0, 1] * 2]


def test_what_was_trained_beside_an_earlier_trial_has_begun(market: Market) -> None:
    walks = CandidateWalks(market, FOLDS, [A, None, B, C], at_once=2)
    assert not any(walks.begun(number) for number in range(5))
    list(walks.outcomes(A))
    assert [walks.begun(number) for number in range(5)] == [True, False, True, False, False]


def test_a_fault_is_that_of_the_trial_that_has_it(market: Market, walked: list[list[int]]) -> None:
    walks = CandidateWalks(market, FOLDS, [A, DIVERGES, B], at_once=3)
    assert same(list(walks.outcomes(A)), alone(market, A))
    with pytest.raises(FloatingPointError, match=r"fold 0 was never finite: lower training\.lr \(1e\+30\)"):
        list(walks.outcomes(DIVERGES))
    assert same(list(walks.outcomes(B)), alone(market, B))
    assert walked == [[0, 1] * 3, [0, 1], [0, 1], [0, 1]]


def test_on_a_cpu_every_trial_is_walked_by_itself(market: Market, walked: list[list[int]]) -> None:
    walks = CandidateWalks(market, FOLDS, [A, B, C])
    for one in (A, B):
        list(walks.outcomes(one))
    assert walked == [[0, 1], [0, 1]]
    next(walks.outcomes(C))  # fold by fold, so that a pruned trial ends what is left of it
    assert not walks.begun(0)


# The whole search


SPACE = {
    "lr": Range(low=0.001, high=0.1, log=True),
    "dropout": Range(low=0.0, high=0.5),
    "d_hidden": Range(choices=(4, 6)),
    "seq_len": Range(choices=(1, 4)),
    "max_position": Range(low=0.1, high=1.0),
}
"""A look-back of one bar is refused."""


def searched(monkeypatch: pytest.MonkeyPatch, at_once: Callable[..., int] | None) -> Tuned:
    """A search of twelve trials, with stacks as on a device that holds so many folds."""
    if at_once:
        monkeypatch.setattr(candidates, "largest_stack", at_once)
    base = load_config(NESTED_MICRO)
    config: Config = replace(base, selection="holdout", tuning=replace(base.tuning, n_trials=12, space=SPACE))
    data = TrainingData(small_panel(180, 2, 5, seed=3, signal=0.5).first_bars(126), None, CPU)
    return tune(data, config, tuning_folds(config, 126), open_study("search", storage=None))


def test_a_search_with_trials_side_by_side_is_the_search_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, walked: list[list[int]]
) -> None:
    """States, parameters, values and out-of-sample returns, with trials that are pruned or refused, and beyond those
    that could be foreseen."""
    one_by_one = searched(monkeypatch, None)
    assert {len(folds) for folds in walked} == {2}
    walked.clear()
    together = searched(monkeypatch, lambda *given: 6)
    assert max(len(folds) for folds in walked) == 6 and len(walked) < len(together.trials) - 2

    def seen(tuned: Tuned) -> list[Any]:
        return [replace(trial, seconds=0.0) for trial in tuned.trials]

    assert seen(together) == seen(one_by_one)
    assert together.best_trial == one_by_one.best_trial
    assert {trial.state for trial in together.trials} == {"COMPLETE", "PRUNED", "FAIL"}
