"""Combinatorial purged cross-validation: its folds, its paths, and what stands beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config.bars import min_development_bars
from pipeline.config.sections import CombinatorialConfig
from pipeline.phases.combinatorial import combinatorial_paths, path_records, split_outcomes
from pipeline.phases.folds import combinatorial_folds, combinatorial_splits
from pipeline.phases.training_data import TrainingData
from pipeline.statistics.estimate import sharpe_estimate
from tests.conftest import CPU, small_panel
from tests.pipeline.phases.test_production import NESTED, choice_of, recipe_of
from tests.tft.fitting import MemoryStore
from tft.backtest import walk
from tft.market import Market
from tft.record import stitch

N_BARS = 165
COMBINATORIAL = replace(
    NESTED,
    selection="combinatorial",
    combinatorial=CombinatorialConfig(n_groups=4, n_test_groups=2, embargo=1),
    production=replace(NESTED.production, seeds=2, epochs=1),
)
DATA = TrainingData(small_panel(N_BARS, 2, 5, seed=3, signal=0.5), None, CPU)


@pytest.mark.usefixtures("few_steps")
def test_a_path_has_of_every_group_the_forecasts_of_a_split_that_tests_it() -> None:
    """By the splits 01 02 03 12 13 23 of 4 groups; 160 decisions after 3 bars of warm-up, in groups of 40."""
    choice = choice_of(COMBINATORIAL, [0, 2, 4], lr=0.008)
    assert COMBINATORIAL.warm_up_bars == 3
    market = DATA.select(choice.features).market(choice.config.timing)
    outcomes = split_outcomes(market, choice.config)
    assert [outcome.fold.index for outcome in outcomes] == list(range(6))
    records = path_records(market, choice.config, outcomes)
    for record, path in zip(records, ((0, 0, 1, 2), (1, 3, 3, 4), (2, 4, 5, 5)), strict=True):
        assert record.bars.tolist() == list(range(3, 163))
        np.testing.assert_array_equal(record.fold[:, 0], np.repeat(path, 40))
        for group, split in enumerate(path):
            forecast, first = outcomes[split].forecast, 3 + 40 * group
            own = forecast.raw_position[first - forecast.bars.start : first - forecast.bars.start + 40]
            np.testing.assert_array_equal(record.raw_position[40 * group : 40 * (group + 1)], own)
        assert set(record.segment) == {"development"}

    # A split is what tft's own walk makes of its fold, seeds averaged before the gain.
    fold = combinatorial_folds(choice.config, N_BARS)[3]
    assert fold.trained == (range(3, 29), range(126, 163)) and fold.validation == range(31, 41)
    of_seeds = []
    for seed in (0, 1):
        ((_, alone),) = walk(Market(market.panel, choice.config.timing, CPU), [fold], recipe_of(choice, seed))
        of_seeds.append(alone.forecast.raw_position)
    expected = outcomes[3].gain * np.mean(of_seeds, axis=0)
    np.testing.assert_allclose(outcomes[3].forecast.raw_position, expected, rtol=1e-12)

    # Beside the paths stands the walk-forward, on its own development bars.
    walked = stitch([outcomes[5].forecast], market.panel, market.sigma, choice.config.positions, choice.config.timing,
                    n_development=N_BARS)  # fmt: skip
    store = MemoryStore()
    found = combinatorial_paths(DATA, choice, walked, store=store)
    again = combinatorial_paths(DATA, choice, walked, store=store)
    assert again == found and len([name for name in store.pieces if name.startswith("fold")]) == 6 * 2
    assert (found.n_splits, found.n_groups, found.n_test_groups) == (6, 4, 2)
    assert (found.purge_gap_bars, found.embargo_bars, found.walk_forward_bars) == (2, 1, 80)
    assert found.walk_forward == sharpe_estimate(walked.net(), periods_per_year=252.0)
    for row, record in zip(found.rows, records, strict=True):
        held = record.net()[19 - 3 :]  # without 20 returns there is no volatility, and no position
        assert row.n_bars == 144 and row.sharpe == sharpe_estimate(held, periods_per_year=252.0)
        assert row.sharpe_of_walk_forward_bars == sharpe_estimate(record.net()[80:], periods_per_year=252.0)
    assert found.sharpes == tuple(row.sharpe.value for row in found.rows if row.sharpe)


@pytest.mark.parametrize(("n_groups", "n_test_groups"), [(2, 1), (4, 2), (6, 2), (6, 3), (7, 5)])
@pytest.mark.parametrize("embargo", [None, 0, 7])
def test_the_fewest_bars_of_the_configuration_give_every_split_its_blocks(
    n_groups: int, n_test_groups: int, embargo: int | None
) -> None:
    settings = CombinatorialConfig(n_groups, n_test_groups, embargo)
    config = replace(COMBINATORIAL, combinatorial=settings, tuning=replace(NESTED.tuning, folds=1))
    assert config.faults() == []
    n_bars = min_development_bars(config)
    assert n_bars >= min_development_bars(replace(config, selection="holdout"))
    for fold in combinatorial_folds(config, n_bars):
        assert len(fold.validation) == config.walk_forward.validation_window
        assert all(len(part) for part in fold.trained) and fold.train.start >= config.warm_up_bars
    assert combinatorial_splits(config, n_bars).embargo == (4 if embargo is None else embargo), "seq_len is 4"


def test_faults_of_the_section_are_named() -> None:
    assert CombinatorialConfig().faults() == []
    assert CombinatorialConfig(n_groups=4, n_test_groups=4, embargo=-1).faults() == [
        "combinatorial.n_test_groups is 4, it must be less than n_groups (4)",
        "combinatorial.embargo is -1, the least is 0 (null: the longest look-back)",
    ]
    assert CombinatorialConfig(n_groups=12, n_test_groups=3).faults() == [
        "combinatorial: 3 of 12 groups are 220 splits, each of which is trained; the most is 100"
    ]
