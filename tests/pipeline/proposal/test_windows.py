"""The windows that so many bars allow, checked by what the folds really are."""

from __future__ import annotations

from math import ceil

import pytest

from pipeline.config import bars
from pipeline.config.schema import Config
from pipeline.phases.folds import exploration_folds, production_folds, tuning_folds
from pipeline.proposal.windows import windows_for
from tests.pipeline.proposal.tables import proposed_config


@pytest.mark.parametrize("n_bars", [210, 250, 400, 700, 1500, 3000, 5000, 70_000])
def test_every_phase_has_its_folds(n_bars: int) -> None:
    config = proposed_config(n_bars)
    assert config.faults() == []
    assert n_bars >= bars.min_bars(config)
    n_development = n_bars - ceil(config.holdout_fraction * n_bars)
    assert 1 <= len(exploration_folds(config, n_development)) <= 3
    assert len(tuning_folds(config, n_development)) == config.tuning.folds
    folds = production_folds(config, n_bars)
    assert 5 <= len(folds) <= 7
    assert folds[-1].test.stop == n_bars - config.timing.label_bars
    assert n_bars - n_development >= 63 + config.timing.label_bars  # of which inference is possible
    for fold in folds:
        assert len(fold.train) >= 63 and len(fold.validation) >= 21


def test_the_least_number_of_bars_is_said_and_is_the_least() -> None:
    with pytest.raises(
        ValueError, match=r"^150 bars are too few, (\d+) are needed: of the \d+ before the holdout"
    ) as said:
        windows_for(150)
    least = int(str(said.value).split(", ")[1].split()[0])
    assert proposed_config(least).faults() == []
    with pytest.raises(ValueError, match=f"{least} are needed"):
        windows_for(least - 1)


def test_the_reason_adds_up() -> None:
    """The parts that the sentence names are more than the development bars."""
    config: Config = proposed_config(700)
    windows = windows_for(700)
    assert config.walk_forward.train_window == windows.train
    assert windows.train + windows.tested + 16 == windows.n_development == 490
