"""The folds of each phase: spread over the bars it may see, none of a label beyond them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.config.bars import min_bars, min_inner_bars, min_nested_bars, n_development
from pipeline.config.reading import load_config
from pipeline.config.schema import Config, ConfigError
from pipeline.config.sections import TuningConfig
from pipeline.config.space import Range
from pipeline.phases.folds import deployment_fold, exploration_folds, production_folds, tuning_folds
from tests.conftest import NESTED_MICRO
from tft.folds import Fold, WalkForwardConfig
from tft.model import ModelConfig

NESTED = load_config(NESTED_MICRO)
HOLDOUT = replace(NESTED, selection="holdout")


# Exploration


def test_exploration_folds_lie_in_the_labelled_bars_after_the_warm_up() -> None:
    """Test blocks tile the rest by the step; `max_folds` keeps the most recent; no label reaches past the bars."""
    config = Config(
        purge_gap=2, walk_forward=WalkForwardConfig(train_window=50, validation_window=10), model=ModelConfig(seq_len=6)
    )
    config = replace(config, exploration=replace(config.exploration, step_size=9, max_folds=None))
    folds = exploration_folds(config, 112)
    assert min(fold.train.start for fold in folds) == 6 - 1
    tested = [bar for fold in folds for bar in fold.test]
    assert tested == list(range(5 + 50 + 2, 112 - 2)), "to the last bar whose label ends before bar 112"
    limited = replace(config, exploration=replace(config.exploration, max_folds=2))
    assert exploration_folds(limited, 112) == folds[-2:]


# Tuning


def config_of(folds: int, test_window: int | None = None, expanding: bool = False) -> Config:
    return Config(
        holdout_fraction=0.25,
        purge_gap=4,
        horizon=2,
        walk_forward=WalkForwardConfig(
            train_window=60, validation_window=10, test_window=test_window, expanding=expanding
        ),
        model=ModelConfig(seq_len=7),
        tuning=TuningConfig(folds=folds, space={"seq_len": Range(choices=(5, 12))}),
    )


def n_development_of(n_bars: int) -> int:
    """All but a quarter, rounded up: the holdout."""
    return n_bars - int(np.ceil(0.25 * n_bars))


CASES = [(n_bars, folds) for n_bars in (127, 200, 331) for folds in (1, 2, 3, 7)]


def made(n_bars: int, folds: int, **more: Any) -> tuple[Config, list[Fold]]:
    config = config_of(folds, **more)
    if n_bars < min_bars(config):
        pytest.skip("too few bars for so many folds")
    return config, tuning_folds(config, n_development_of(n_bars))


@pytest.mark.parametrize(("n_bars", "folds"), CASES)
def test_as_many_as_asked_for_evenly_spread_and_tiling_development(n_bars: int, folds: int) -> None:
    """Equal test blocks, each beginning where the one before ends; fewer bars than folds are left at the end."""
    config, split = made(n_bars, folds)
    assert len(split) == folds
    tested = [bar for fold in split for bar in fold.test]
    assert tested == list(range(tested[0], tested[-1] + 1)), "no bar twice, none left out between"
    assert len({len(fold.test) for fold in split}) == 1
    # The first decision that can be tested follows the longest warm-up of the space, the windows, and the gap.
    assert tested[0] == (12 - 1) + 60 + 4
    last_labelled = n_development_of(n_bars) - 1 - (config.execution_delay_bars + config.horizon)
    assert 0 <= last_labelled - tested[-1] < folds


@pytest.mark.parametrize(("n_bars", "folds"), CASES)
@pytest.mark.parametrize("test_window", [3, 1000])
def test_test_blocks_do_not_overlap_whatever_the_test_window(n_bars: int, folds: int, test_window: int) -> None:
    """A shorter one leaves bars between the blocks; a longer one is cut to the step. Starts are evenly spread."""
    _, split = made(n_bars, folds, test_window=test_window)
    assert len(split) == folds
    tested = [bar for fold in split for bar in fold.test]
    assert len(tested) == len(set(tested))
    assert len(np.unique(np.diff([fold.test.start for fold in split]))) <= 1
    assert all(len(fold.test) <= test_window for fold in split)


@pytest.mark.parametrize("expanding", [False, True])
@pytest.mark.parametrize(("n_bars", "folds"), CASES)
def test_every_label_ends_before_the_holdout(n_bars: int, folds: int, expanding: bool) -> None:
    """Also of the last test bar; and a label of a training bar is known at the first decision of the next block."""
    config, split = made(n_bars, folds, expanding=expanding)
    times = np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D")
    assert n_development(config, times) == n_development_of(n_bars)
    label = config.execution_delay_bars + config.horizon
    for fold in split:
        bars = [*fold.train, *fold.validation, *fold.test]
        assert max(bars) + label < n_development_of(n_bars) and min(bars) >= 12 - 1
        assert fold.train[-1] + label <= fold.validation[0] + 1 + config.purge_gap - 1
        assert fold.train[-1] < fold.validation[0] and fold.validation[-1] < fold.test[0]
        assert fold.validation[0] - fold.train[-1] - 1 == 4 == fold.test[0] - fold.validation[-1] - 1


# Production


def test_the_record_begins_with_the_first_fold_that_has_three_exploration_folds_of_its_own() -> None:
    """By hand for configs/nested_micro.yaml: the warm-up takes bars 0-2, so fold i ends at 43 + 35 i and is tested
    from 2 bars later on; the last label is that of bar 177 of 180. Three exploration folds 15 bars apart need
    3 + (40 + 2 + 1) + 2 * 15 + 2 = 78 bars, two tuning folds of 10 bars 3 + 43 + 19 + 2 = 67: fold 0 (43) has too
    few, fold 1 (78) just enough."""
    assert min_inner_bars(NESTED) == 78
    assert [(fold.index, fold.validation.stop, fold.test) for fold in production_folds(NESTED, 180)] == [
        (1, 78, range(80, 115)),
        (2, 113, range(115, 150)),
        (3, 148, range(150, 178)),
    ]
    unlimited = replace(NESTED, exploration=replace(NESTED.exploration, max_folds=None))
    assert len(exploration_folds(unlimited, 78)) == 3
    assert len(exploration_folds(unlimited, 77)) == 2


def test_all_folds_are_reported_of_a_holdout() -> None:
    assert [fold.index for fold in production_folds(HOLDOUT, 180)] == [0, 1, 2, 3]


def test_bars_enough_for_tuning_can_be_what_a_fold_waits_for() -> None:
    """Ten tuning folds of ten bars: 3 + 43 + 99 + 2 = 147 bars, which fold 3 (148) is the first to have."""
    config = replace(NESTED, tuning=replace(NESTED.tuning, folds=10))
    assert min_inner_bars(config) == 147
    first = production_folds(config, 300)[0]
    assert first.index == 3 and first.validation.stop == 148


@pytest.mark.parametrize("step_size", [1, 20, 35, 63, 100])
@pytest.mark.parametrize(("train_window", "exploration_step"), [(40, 15), (52, 7), (40, 40)])
@pytest.mark.parametrize("horizon", [1, 2])
def test_what_is_said_to_be_needed_is_the_least_that_is_accepted(
    step_size: int, train_window: int, exploration_step: int, horizon: int
) -> None:
    """63 labelled bars of record, and one bar less is refused with one sentence that says so."""
    config = replace(
        NESTED,
        horizon=horizon,
        purge_gap=3,
        walk_forward=replace(NESTED.walk_forward, train_window=train_window),
        exploration=replace(NESTED.exploration, step_size=exploration_step),
        production=replace(NESTED.production, step_size=step_size),
    )
    n_bars = min_nested_bars(config)
    folds = production_folds(config, n_bars)
    assert sorted({bar for fold in folds for bar in fold.test}) == list(
        range(n_bars - 63 - 1 - horizon, n_bars - 1 - horizon)
    )
    with pytest.raises(ValueError) as refused:
        production_folds(config, n_bars - 1)
    assert str(refused.value).startswith("selection: nested leaves ")
    assert f"the table has {n_bars - 1} bars, bring {n_bars}, or shorten" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_folds_that_max_folds_leaves_out_are_said_to_be_the_reason() -> None:
    """180 bars are enough, one fold of 28 of them is not."""
    config = replace(NESTED, production=replace(NESTED.production, max_folds=1))
    with pytest.raises(ValueError, match=r"leaves 28 bars of record, 63 are needed: raise production.max_folds \(1\)"):
        production_folds(config, 180)


def test_too_few_exploration_folds_are_a_fault_of_the_configuration() -> None:
    with pytest.raises(
        ConfigError, match=r"exploration\.max_folds is 2, selection: nested chooses on at least 3 folds"
    ):
        load_config(NESTED_MICRO, ["exploration.max_folds=2"])
    with pytest.raises(ConfigError, match="selection is 'inner', it must be one of holdout, nested"):
        load_config(NESTED_MICRO, ["selection=inner"])


@pytest.mark.parametrize(("expanding", "first"), [(False, 138), (True, 3)])
def test_the_final_fit_ends_at_the_last_labelled_bar_and_tests_nothing(expanding: bool, first: int) -> None:
    """By hand: 180 bars less 2 for the label, 10 of validation after a gap of 2, and 40 in all, or from bar 3 on."""
    config = replace(NESTED, walk_forward=replace(NESTED.walk_forward, expanding=expanding))
    fold = deployment_fold(config, 180, 4)
    assert (fold.index, fold.train, fold.validation) == (4, range(first, 166), range(168, 178))
    assert len(fold.test) == 0
