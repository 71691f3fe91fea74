"""The arms of a comparison of purge gaps: equally many training bars, the same test dates, against literal folds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config.bars import min_bars, n_development
from pipeline.config.reading import load_config, to_mapping
from pipeline.config.schema import Config, ConfigError
from pipeline.config.sections import ExplorationConfig, ProductionConfig, TuningConfig
from pipeline.experiments.comparison_report import differing
from pipeline.experiments.purge_arms import check_equal_folds, n_compared, parse_purge_gaps, purge_arms
from pipeline.job import flattened
from pipeline.phases.folds import deployment_fold, exploration_folds, production_folds, tuning_folds
from tests.conftest import MICRO, NESTED_MICRO, ROOT, small_panel
from tests.pipeline.jobs import dataset_of
from tft.folds import Fold, WalkForwardConfig
from tft.model import ModelConfig

CONFIG = load_config(MICRO)


def config_of(**window: Any) -> Config:
    """Warm-up of 2 bars; 6 bars train, 3 validate, 4 test; the configured gap is 1, which is what labels need."""
    return Config(
        purge_gap=1,
        walk_forward=WalkForwardConfig(train_window=10, validation_window=3, **window),
        exploration=ExplorationConfig(step_size=5),
        tuning=TuningConfig(folds=2),
        production=ProductionConfig(step_size=4),
        model=ModelConfig(seq_len=3),
    )


def test_rolling_arms_worked_by_hand() -> None:
    """27 bars, the last 2 without a label: decisions at bars 2 to 24. The wider gap trains 4 bars earlier."""
    narrow, wide = purge_arms(config_of(), (0, 2))
    assert production_folds(narrow, 27) == [
        Fold(0, train=range(6, 12), validation=range(12, 15), test=range(15, 19)),
        Fold(1, train=range(10, 16), validation=range(16, 19), test=range(19, 23)),
        Fold(2, train=range(14, 20), validation=range(20, 23), test=range(23, 25)),
    ]
    assert production_folds(wide, 27) == [
        Fold(0, train=range(2, 8), validation=range(10, 13), test=range(15, 19)),
        Fold(1, train=range(6, 12), validation=range(14, 17), test=range(19, 23)),
        Fold(2, train=range(10, 16), validation=range(18, 21), test=range(23, 25)),
    ]


def test_expanding_arms_worked_by_hand() -> None:
    """The narrow arm leaves out the four oldest bars, so that both have as many and go on with as many more."""
    narrow, wide = purge_arms(config_of(expanding=True), (0, 2))
    assert production_folds(narrow, 23) == [
        Fold(0, train=range(6, 12), validation=range(12, 15), test=range(15, 19)),
        Fold(1, train=range(6, 16), validation=range(16, 19), test=range(19, 21)),
    ]
    assert production_folds(wide, 23) == [
        Fold(0, train=range(2, 8), validation=range(10, 13), test=range(15, 19)),
        Fold(1, train=range(2, 12), validation=range(14, 17), test=range(19, 21)),
    ]
    assert deployment_fold(narrow, 23, 2).train.start == 6


@pytest.mark.parametrize("expanding", [False, True])
@pytest.mark.parametrize("gaps", [(0, 5), (5, 0), (1, 3), (4, 2)])
@pytest.mark.parametrize("n_bars", [90, 117, 150])
def test_every_phase_has_the_same_test_bars_and_training_lengths(
    gaps: tuple[int, int], n_bars: int, expanding: bool
) -> None:
    """Whatever the gaps, their order, the length of the table and the phase; block by block the gap is what differs."""
    arms = purge_arms(config_of(expanding=expanding), gaps)
    check_equal_folds(arms, n_bars)
    for folds in (
        [production_folds(arm, n_bars) for arm in arms],
        [exploration_folds(arm, n_bars) for arm in arms],
        [tuning_folds(arm, n_bars) for arm in arms],
    ):
        assert len(folds[0]) == len(folds[1]) > 1
        for one, other in zip(*folds, strict=True):
            assert one.test == other.test
            assert len(one.train) == len(other.train) and len(one.validation) == len(other.validation)
            for fold, gap in ((one, gaps[0]), (other, gaps[1])):
                assert fold.test.start - fold.validation.stop == gap == fold.validation.start - fold.train.stop
    assert len(production_folds(arms[0], n_bars)[0].train) == 10 - 3 - 1  # as with the configured gap


def test_the_arm_with_the_configured_gap_trains_as_configured() -> None:
    """Where it is the wider one it is the configuration itself; needs of the table are those of the wider gap."""
    narrow, wide = purge_arms(CONFIG, (0, 2))
    assert wide == CONFIG
    changed = differing(flattened(to_mapping(CONFIG)), flattened(to_mapping(narrow)))
    assert changed == {
        "purge_gap": (2, 0),
        "allow_label_overlap": (False, True),
        "walk_forward.train_window": (126, 124),
        "walk_forward.first_bar": (0, 4),
    }
    assert min_bars(narrow) == min_bars(wide)
    times = dataset_of(small_panel(300)).panel.times
    assert n_development(narrow, times) == n_development(wide, times) == 210


def test_the_twins_among_the_configurations_are_the_arms() -> None:
    twins = tuple(load_config(ROOT / "configs" / name) for name in ("no_purge.yaml", "purge.yaml"))
    assert purge_arms(twins[1], (0, 5)) == twins
    check_equal_folds(twins, 900)


def test_a_holdout_starts_at_the_same_bar_in_both() -> None:
    arms = purge_arms(replace(config_of(), holdout_start="2020-03-20"), (0, 2))
    times = small_panel(120).times
    assert [n_development(arm, times) for arm in arms] == [79, 79]


def test_a_configuration_that_leaves_nothing_to_train_on_is_refused() -> None:
    config = replace(config_of(), walk_forward=WalkForwardConfig(train_window=10, validation_window=9), purge_gap=1)
    with pytest.raises(ConfigError, match="leaves no bar to train on"):
        purge_arms(config, (0, 2))


def test_nested_arms_with_other_first_folds_are_refused_with_the_remedy() -> None:
    """Somewhere along the table a fold of the narrow arm can choose that the same fold of the wide arm cannot."""
    nested = load_config(NESTED_MICRO)
    refused = 0
    for n_bars in range(330, 400):
        arms = purge_arms(nested, (0, 6))
        counts = [len(production_folds(arm, n_bars)) for arm in arms]
        if counts[0] == counts[1]:
            check_equal_folds(arms, n_bars)
            continue
        refused += 1
        with pytest.raises(ValueError, match=f"set production.max_folds to {min(counts)}"):
            check_equal_folds(arms, n_bars)
        remedied = [replace(arm, production=replace(arm.production, max_folds=min(counts))) for arm in arms]
        check_equal_folds(remedied, n_bars)
    assert refused


def test_the_compared_bars_are_counted_before_anything_is_trained() -> None:
    """27 bars, tests at 15 to 24: development ends at bar 17 less a label of 2 bars, or the holdout starts there."""
    arm = purge_arms(config_of(), (0, 2))[1]
    with pytest.raises(ValueError, match=r"0 development bars would be tested, a comparison needs 10: .*holdout=true"):
        n_compared(arm, 27, 17, "development")
    with pytest.raises(ValueError, match=r"8 holdout bars would be tested, .*holdout=false"):
        n_compared(arm, 27, 17, "holdout")
    assert n_compared(arm, 27, 0, "holdout") == 10
    assert n_compared(arm, 50, 30, "development") == 28 - 15
    assert n_compared(arm, 50, 30, "holdout") == 48 - 30


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "must be two gaps such as 0,5"),
        ("0,2,5", "must be two gaps such as 0,5"),
        ("0,-5", "the least gap is 0 bars"),
        ("3,3", "the same run twice"),
        ("0,five", "two whole numbers of bars"),
        ("0,", "two whole numbers of bars"),
    ],
)
def test_gaps_that_make_no_comparison_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_purge_gaps(text)
