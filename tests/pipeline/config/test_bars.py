"""How many bars a configuration needs, counted by trying."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest

from pipeline.config import bars
from pipeline.config.schema import Config, ConfigError
from pipeline.config.sections import TuningConfig
from pipeline.config.space import Range
from tft.folds import WalkForwardConfig, walk_forward
from tft.metrics import MIN_BARS
from tft.model import ModelConfig
from tft.recipe import TrainingConfig


@pytest.mark.parametrize("fraction", ["0", "0.1", "0.3", "0.333", "0.7"])
@pytest.mark.parametrize(
    ("train_window", "purge_gap", "folds", "seq_len", "tuned_seq_len", "delay", "horizon"),
    [
        (30, 3, 1, 5, None, 1, 1),
        (41, 5, 3, 8, Range(choices=(4, 8, 20)), 0, 1),
        (25, 9, 4, 9, Range(low=2, high=12), 3, 4),
    ],
)
def test_min_bars_is_the_fewest_for_which_every_phase_has_its_folds(
    fraction: str,
    train_window: int,
    purge_gap: int,
    folds: int,
    seq_len: int,
    tuned_seq_len: Range | None,
    delay: int,
    horizon: int,
) -> None:
    """Brute force: the first table length whose development bars give `folds` test blocks by `walk_forward`."""
    config = Config(
        holdout_fraction=float(fraction),
        purge_gap=purge_gap,
        execution_delay_bars=delay,
        horizon=horizon,
        walk_forward=WalkForwardConfig(train_window=train_window, validation_window=6),
        model=ModelConfig(seq_len=seq_len),
        training=TrainingConfig(objective="pooled"),
        tuning=TuningConfig(folds=folds, space={"seq_len": tuned_seq_len} if tuned_seq_len else {}),
    )
    assert config.faults() == []
    longest = {None: seq_len, 4: 20, 2: 12}[tuned_seq_len.extremes()[0] if tuned_seq_len else None]

    def n_development(n_bars: int) -> int:
        return n_bars - ceil(Fraction(fraction) * n_bars)

    def enough(n_bars: int) -> bool:
        decisions = n_development(n_bars) - (delay + horizon) - (longest - 1)
        try:
            made = walk_forward(
                decisions,
                train_window=train_window,
                validation_window=6,
                test_window=1,
                step_size=1,
                purge_gap=purge_gap,
            )
        except ValueError:
            return False
        return len(made) >= MIN_BARS * folds  # each fold of tuning has bars enough for a Sharpe

    fewest = next(n_bars for n_bars in range(1, 2000) if enough(n_bars))
    assert config.warm_up_bars == longest - 1
    assert bars.min_bars(config) == fewest
    times = np.datetime64("2020-01-01") + np.arange(fewest).astype("timedelta64[D]")
    assert bars.n_development(config, times) == n_development(fewest) == bars.min_development_bars(config)
    with pytest.raises(ConfigError, match=f"{bars.min_development_bars(config)} are needed"):
        bars.n_development(config, times[:-1])


def test_holdout_start_prevails_over_the_fraction() -> None:
    """Development is every bar before that time, whether it is a bar or lies between two."""
    times = np.datetime64("2020-01-01", "us") + 2 * np.arange(400) * np.timedelta64(1, "D")
    for day in (700, 701):
        start = str(np.datetime64("2020-01-01") + np.timedelta64(day, "D"))
        config = Config(holdout_start=start, holdout_fraction=0.9)
        assert bars.n_development(config, times) == sum(time < np.datetime64(start) for time in times)


def test_the_holdout_is_not_one_bar_longer_by_rounding() -> None:
    """ceil(0.3 * 10) is 3, though 0.3 * 10 may be a hair more in floating point."""
    for n_bars in range(300, 700):
        times = np.datetime64("2020-01-01") + np.arange(n_bars).astype("timedelta64[D]")
        for percent in (7, 29, 30, 35):
            config = Config(
                holdout_fraction=percent / 100,
                model=ModelConfig(seq_len=10),
                walk_forward=WalkForwardConfig(train_window=50),
            )
            assert n_bars - bars.n_development(config, times) == ceil(Fraction(percent, 100) * n_bars)
