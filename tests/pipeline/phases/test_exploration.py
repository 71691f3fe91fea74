"""Probes: columns of which only the timing is lost, and which stay in exploration."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.schema import Config
from pipeline.config.sections import ExplorationConfig
from pipeline.phases.exploration import explore, with_probes
from pipeline.phases.folds import exploration_folds
from pipeline.phases.training_data import TrainingData
from tests.conftest import CPU, small_panel
from tft.folds import WalkForwardConfig
from tft.model import ModelConfig
from tft.panel import Panel, group_of
from tft.train import EpochReport, TrainingConfig


def coded_panel(n_bars: int = 100, n_assets: int = 3, n_features: int = 5) -> Panel:
    """Each value says where it is from: bar + 1000 * asset + 10000 * column; the last column lacks some."""
    bar, asset, column = np.meshgrid(np.arange(n_bars), np.arange(n_assets), np.arange(n_features), indexing="ij")
    features = (bar + 1000.0 * asset + 10000.0 * column).astype(np.float32)
    features[7:20, 1, -1] = np.nan
    return Panel(
        times=np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        feature_names=tuple(f"group_{i}" for i in range(n_features)),
        features=features,
        returns=np.zeros((n_bars, n_assets)),
    )


def source_of(name: str) -> str:
    return name.split("_", 2)[2]


@pytest.mark.parametrize("n_bars", [100, 107])
def test_a_probe_has_its_columns_bars_in_order_from_another_one_on(n_bars: int) -> None:
    """One shift for all instruments, of a third to two thirds of the bars, and not the same for all probes."""
    panel = coded_panel(n_bars)
    wide, probes = with_probes(panel, 5, seed=1)
    shifts = set()
    for name in probes:
        column = panel.feature_names.index(source_of(name))
        values = wide.features[:, :, wide.feature_names.index(name)]
        asset = 0  # complete in every column
        first = int(values[0, asset] - 10000.0 * column)
        bars = [(first + t) % n_bars for t in range(n_bars)]
        np.testing.assert_array_equal(values, panel.features[bars][:, :, column])
        shift = n_bars - first
        assert n_bars // 3 <= shift <= n_bars - n_bars // 3
        shifts.add(shift)
    assert len(shifts) > 1


def test_the_originals_are_untouched_and_come_first() -> None:
    panel = coded_panel()
    before = panel.features.copy()
    wide, probes = with_probes(panel, 6, seed=1)
    np.testing.assert_array_equal(panel.features, before)
    np.testing.assert_array_equal(wide.features[:, :, :5], before)
    assert wide.feature_names == (*panel.feature_names, *probes)
    assert wide.returns is panel.returns and wide.times is panel.times


def test_probes_are_drawn_without_replacement_for_as_long_as_there_are_columns() -> None:
    """Twelve probes of five columns: each column twice or three times, all under names of their own."""
    _, probes = with_probes(coded_panel(), 12, seed=1)
    assert len(set(probes)) == 12 and {group_of(name) for name in probes} == {"probe"}
    times = sorted([source_of(name) for name in probes].count(f"group_{i}") for i in range(5))
    assert times == [2, 2, 2, 3, 3]
    assert len({source_of(name) for name in with_probes(coded_panel(), 5, seed=1)[1]}) == 5


def test_probes_follow_the_seed() -> None:
    panel = coded_panel()
    one, same, other = (with_probes(panel, 5, seed=seed)[0].features for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other, equal_nan=True)


def test_no_probes_leave_the_panel_as_it_is() -> None:
    panel = coded_panel()
    assert with_probes(panel, 0, seed=1) == (panel, ())


N_DEVELOPMENT = 96
CONFIG = Config(
    holdout_fraction=0.2,
    purge_gap=1,
    walk_forward=WalkForwardConfig(train_window=50, validation_window=12),
    exploration=ExplorationConfig(step_size=15, epochs=1, max_folds=2, n_probes=3),
    model=ModelConfig(d_hidden=4, n_heads=1, seq_len=4, n_context=0),
    training=TrainingConfig(batch_size=32),
)
"""About the smallest exploration there is: two folds, one epoch."""


@pytest.fixture(scope="module")
def development() -> TrainingData:
    """96 of 120 bars, seven columns."""
    return TrainingData(small_panel(120, 2, 7, missing=0.02).first_bars(N_DEVELOPMENT), None, CPU)


def test_probes_never_appear_among_the_features(development: TrainingData) -> None:
    """They take their share of the weight, and are reported apart; the columns are those given, in order."""
    kept = development.panel.feature_names[1:]
    result = explore(development.select(kept), CONFIG, exploration_folds(CONFIG, N_DEVELOPMENT))
    assert result.features == kept
    assert len(result.probes) == 3 and not set(result.probes) & set(result.features)
    weight, relative = np.array(result.weight), np.array(result.relative)
    probe_relative = np.array(result.probe_relative)
    assert weight.shape == relative.shape == (2, 6) and probe_relative.shape == (2, 3)
    assert (weight.sum(axis=1) < 0.95).all(), "the probes have the rest"
    # A column is present in nearly all rows, so that 9 variables share a weight of 1, and relative is about 9 of it.
    np.testing.assert_allclose((relative.sum(axis=1) + probe_relative.sum(axis=1)) / 9.0, 1.0, atol=0.05)
    np.testing.assert_allclose(relative / weight, 9.0, rtol=0.05)


def test_every_fold_given_is_reported_and_ends_before_the_holdout(development: TrainingData) -> None:
    """Its last fold's test block and label end before the holdout; epochs are told of as they go."""
    told: list[EpochReport] = []
    folds = exploration_folds(CONFIG, N_DEVELOPMENT)
    result = explore(development, CONFIG, folds, on_epoch=told.append)
    assert len(result.folds) == 2 == len(result.fold_indices)
    assert result.fold_indices == tuple(row.fold for row in result.folds) == tuple(fold.index for fold in folds)
    times = development.panel.times
    assert result.validation_end == tuple(str(times[fold.validation[-1]]) for fold in folds)
    assert result.folds[-1].test_end is not None
    assert np.datetime64(result.folds[-1].test_end) <= times[N_DEVELOPMENT - 1 - CONFIG.timing.label_bars]
    assert {row.segment for row in result.folds} == {"development"}
    assert sum(len(epoch.folds) for epoch in told) == 2 * 1, "folds and epochs"
    assert [len(losses) for losses in result.train_loss] == [1, 1]
