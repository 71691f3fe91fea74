"""What a record lives on: a group that carries the signal, groups that carry nothing, one that no network can see."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.phases import permutation
from pipeline.phases.folds import production_folds
from pipeline.phases.permutation import (
    MIN_BLOCKS,
    N_PERMUTATIONS,
    group_losses,
    group_weights,
    n_passes,
    permuted_blocks,
    permuted_panel,
)
from pipeline.phases.production import Walked, walk_forward
from pipeline.phases.training_data import TrainingData
from pipeline.statistics.group_losses import GroupLosses
from tests.conftest import CPU, small_panel
from tests.pipeline.phases.test_production import HOLDOUT, NESTED, TWO_SEEDS, choice_of
from tests.tft.fitting import MemoryStore

COLUMNS = ("signal_0", "noise_0", "noise_1", "blind_0")
N_DEVELOPMENT = 240


def data() -> TrainingData:
    """A signal in one column, noise in two, and one that is constant over all training bars: no scaler can use it."""
    panel = small_panel(330, 2, 4, seed=3, signal=0.6)
    features = panel.features.copy()
    features[:, :, 3] = np.arange(330)[:, None] >= 320
    return TrainingData(replace(panel, feature_names=COLUMNS, features=features), None, CPU)


@cache
def walked() -> Walked:
    """One fold with a holdout of 90 bars, two seeds."""
    windows = replace(HOLDOUT.walk_forward, train_window=200, validation_window=20)
    production = replace(TWO_SEEDS.production, step_size=130, epochs=4)
    config = replace(HOLDOUT, walk_forward=windows, production=production)
    chosen = replace(choice_of(config, [], lr=0.01), features=COLUMNS)
    folds = production_folds(config, 330)
    return walk_forward(data(), config, [(fold, chosen) for fold in folds], n_development=N_DEVELOPMENT)


def losses(**given: Any) -> GroupLosses:
    found = group_losses(data(), walked(), seed=7, **given)
    assert found is not None
    return found


@pytest.mark.slow
def test_the_planted_group_loses_the_sharpe_and_an_unseen_one_nothing() -> None:
    told: list[str] = []
    found = losses(on_pass=told.append)
    rows = {row.group: row for row in found.rows}
    assert (found.segment, found.n_permutations, found.left_out) == ("holdout", N_PERMUTATIONS, ())
    assert found.n_bars == 330 - 2 - N_DEVELOPMENT
    assert len(told) == n_passes(walked()) == 3 * N_PERMUTATIONS
    assert [row.n_columns for row in (rows["signal"], rows["noise"], rows["blind"])] == [1, 2, 1]
    signal = rows["signal"].sharpe_loss
    assert signal is not None and signal.t is not None and signal.t > 3.0
    assert rows["signal"].return_loss.t is not None and rows["signal"].return_loss.t > 3.0
    for each in (rows["blind"].sharpe_loss, rows["blind"].return_loss):
        assert each is not None and (each.value, each.standard_error) == (0.0, None), "to the last bit"
    noise = rows["noise"].sharpe_loss
    assert noise is not None and noise.standard_error is not None and abs(noise.value) < signal.value / 3.0
    assert sum(row.weight for row in found.rows) == pytest.approx(1.0, abs=0.1)
    assert [row.weight for row in found.rows] == sorted((row.weight for row in found.rows), reverse=True)


def test_blocks_that_stay_where_they_are_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forecast again from the same values, averaged over the seeds and with its gain, a record is itself."""
    monkeypatch.setattr(permutation, "permuted_blocks", lambda n, block_bars, rng: np.arange(n))
    monkeypatch.setattr(permutation, "N_PERMUTATIONS", 1)
    for row in losses().rows:
        assert row.sharpe_loss is not None and row.sharpe_loss.value == row.return_loss.value == 0.0


def test_the_heaviest_groups_are_permuted_and_the_others_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "MAX_GROUPS", 1)
    monkeypatch.setattr(permutation, "N_PERMUTATIONS", 1)
    weights = group_weights(walked(), walked().outcomes)
    by_weight = sorted(weights, key=lambda group: -weights[group])
    found = losses()
    assert ([row.group for row in found.rows], list(found.left_out)) == (by_weight[:1], by_weight[1:])
    assert n_passes(walked()) == 1


def test_what_is_stored_is_not_forecast_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "N_PERMUTATIONS", 1)
    store = MemoryStore()
    first = losses(store=store)
    monkeypatch.setattr(permutation, "forecast_bars", lambda *_: pytest.fail("it is stored"))
    assert losses(store=store) == first
    full = MemoryStore(full=True)
    monkeypatch.undo()
    monkeypatch.setattr(permutation, "N_PERMUTATIONS", 1)
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert losses(store=full) == first


@pytest.mark.usefixtures("few_steps")
def test_with_nested_selection_each_fold_reads_its_own_columns() -> None:
    """A group that only the last fold reads: the bars of the others do not move."""
    config = replace(NESTED, production=replace(NESTED.production, epochs=1, step_size=80))
    folds = production_folds(config, 330)
    early = replace(choice_of(config, []), features=("noise_0", "noise_1"))
    late = replace(choice_of(config, []), features=("signal_0", "noise_0"))
    pairs = [(fold, late if fold is folds[-1] else early) for fold in folds]
    own = walk_forward(data(), config, pairs, n_development=0)
    judged = permutation._judged(own)
    assert judged is not None and judged.segment == "holdout" and len(judged.outcomes) == len(folds)
    panel = permuted_panel(data().panel, [0], judged.span, 20, np.random.default_rng(0))
    net = permutation._net(data(), panel, own, judged)
    moved = np.flatnonzero(net != own.record.net()[judged.rows])
    assert len(moved) and own.record.bars[judged.rows][moved].min() >= folds[-1].test.start


def test_without_a_holdout_development_is_judged_and_without_bars_nothing() -> None:
    whole = walked()
    none = replace(whole, record=replace(whole.record, segment=np.full(len(whole.record.bars), "development")))
    judged = permutation._judged(none)
    assert judged is not None and judged.segment == "development"
    empty = replace(whole, record=replace(whole.record, segment=np.full(len(whole.record.bars), "between")))
    assert group_losses(data(), empty, seed=0) is None and n_passes(empty) == 0


# ---- blocks


@settings(max_examples=60, deadline=None)
@given(n=st.integers(8, 400), block_bars=st.integers(1, 150), seed=st.integers(0, 1000))
def test_every_bar_is_used_once_and_blocks_stay_whole(n: int, block_bars: int, seed: int) -> None:
    order = permuted_blocks(n, block_bars, np.random.default_rng(seed))
    n_blocks = min(n, max(MIN_BLOCKS, n // block_bars))
    assert sorted(order.tolist()) == list(range(n))
    breaks = sum((order[(i + 1) % n] - order[i]) % n != 1 for i in range(n))
    assert breaks <= n_blocks + 1, "neighbours stay neighbours but for the borders, and the end of the ring"
    if n % n_blocks == 0:
        assert (order != np.arange(n)).all(), "no block stays where it was"


def test_all_instruments_and_the_whole_group_move_together_and_nothing_else_moves() -> None:
    panel = small_panel(100, 3, 4, missing=0.2)
    span = range(30, 90)
    found = permuted_panel(panel, [1, 3], span, 15, np.random.default_rng(0))
    np.testing.assert_array_equal(found.features[:, :, [0, 2]], panel.features[:, :, [0, 2]])
    for outside in (slice(0, 30), slice(90, 100)):
        np.testing.assert_array_equal(found.features[outside], panel.features[outside])
    source = [
        next(
            bar
            for bar in span
            if np.array_equal(panel.features[bar][:, [1, 3]], found.features[row][:, [1, 3]], equal_nan=True)
        )
        for row in span
    ]
    assert sorted(source) == list(span) and source != list(span)


def test_the_permuted_bars_are_all_that_the_forecasts_can_read() -> None:
    """Contexts reach 504 bars back, which is before this panel; without contexts it is the look-back alone."""
    whole = walked()
    judged = permutation._judged(whole)
    assert judged is not None and judged.span == range(330)
    (fold,) = whole.folds
    choice = whole.choices[fold.index]
    alone = replace(choice.config, model=replace(choice.config.model, n_context=0))
    judged = permutation._judged(replace(whole, choices={fold.index: replace(choice, config=alone)}))
    assert judged is not None and judged.span == range(fold.test.start - choice.config.model.seq_len + 1, 330)
