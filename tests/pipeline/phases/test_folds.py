"""The folds a trial is scored on: spread over development, without overlap, none of it in the holdout."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from pipeline.config.bars import min_bars
from pipeline.config.schema import Config
from pipeline.config.sections import TuningConfig
from pipeline.config.space import Range
from pipeline.data.dataset import Dataset
from pipeline.job import Job
from pipeline.phases.tuning import tuning_folds
from tests.conftest import CPU
from tft.folds import Fold, WalkForwardConfig
from tft.model import ModelConfig
from tft.panel import Panel


def job_of(n_bars: int, folds: int, test_window: int | None = None, expanding: bool = False) -> Job:
    panel = Panel(
        times=np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=("S",),
        feature_names=("group_0",),
        features=np.zeros((n_bars, 1, 1), dtype=np.float32),
        returns=np.zeros((n_bars, 1)),
    )
    config = Config(
        holdout_fraction=0.25,
        purge_gap=4,
        horizon=2,
        walk_forward=WalkForwardConfig(
            train_window=60, validation_window=10, test_window=test_window, expanding=expanding
        ),
        model=ModelConfig(seq_len=7),
        tuning=TuningConfig(folds=folds, space={"seq_len": Range(choices=(5, 12))}),
    )
    data = Dataset(panel=panel, sha256="", source="", n_rows=n_bars)
    return Job(config=config, data=data, parent=cast(Any, None), reporter=cast(Any, None), device=CPU)


CASES = [(n_bars, folds) for n_bars in (127, 200, 331) for folds in (1, 2, 3, 7)]


def made(n_bars: int, folds: int, **more: Any) -> tuple[Job, list[Fold]]:
    job = job_of(n_bars, folds, **more)
    if n_bars < min_bars(job.config):
        pytest.skip("too few bars for so many folds")
    return job, tuning_folds(job)


@pytest.mark.parametrize(("n_bars", "folds"), CASES)
def test_as_many_as_asked_for_evenly_spread_and_tiling_development(n_bars: int, folds: int) -> None:
    """Equal test blocks, each beginning where the one before ends; fewer bars than folds are left at the end."""
    job, split = made(n_bars, folds)
    assert len(split) == folds
    tested = [bar for fold in split for bar in fold.test]
    assert tested == list(range(tested[0], tested[-1] + 1)), "no bar twice, none left out between"
    assert len({len(fold.test) for fold in split}) == 1
    # The first decision that can be tested follows the longest warm-up of the space, the windows, and the gap.
    assert tested[0] == (12 - 1) + 60 + 4
    last_labelled = job.n_development - 1 - (job.config.execution_delay_bars + job.config.horizon)
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
    job, split = made(n_bars, folds, expanding=expanding)
    n_development = n_bars - int(np.ceil(0.25 * n_bars))
    assert job.n_development == n_development
    label = job.config.execution_delay_bars + job.config.horizon
    for fold in split:
        bars = [*fold.train, *fold.validation, *fold.test]
        assert max(bars) + label < n_development and min(bars) >= 12 - 1
        assert fold.train[-1] + label <= fold.validation[0] + 1 + job.config.purge_gap - 1
        assert fold.train[-1] < fold.validation[0] and fold.validation[-1] < fold.test[0]
        assert fold.validation[0] - fold.train[-1] - 1 == 4 == fold.test[0] - fold.validation[-1] - 1
