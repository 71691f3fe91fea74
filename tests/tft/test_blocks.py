"""Training blocks: what is scored and what is only forecast, whose contexts, and how they reach the device."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import CPU, small_panel
from tft import blocks
from tft.blocks import LEAST_STEPS, BlockSampler
from tft.folds import Fold
from tft.panel import Panel
from tft.scaling import Scaler
from tft.windows import EMPTY, WindowSpace, seed_from

FOLDS = (
    Fold(3, range(30, 90), range(95, 105), range(105, 110)),
    Fold(8, range(50, 75), range(80, 90), range(90, 95)),
)
SEQ_LEN, BLOCK_BARS, BURN_IN = 6, 8, 5


def gappy_panel(n_bars: int = 130, n_assets: int = 2, *, seed: int = 0) -> Panel:
    """Whole cells are missing, as where an instrument is not quoted."""
    panel = small_panel(n_bars, n_assets, seed=seed)
    panel.features[np.random.default_rng(seed).random((n_bars, n_assets)) < 0.2] = np.nan
    return panel


def sampler_of(
    panel: Panel,
    folds: tuple[Fold, ...] = FOLDS,
    *,
    n_context: int = 2,
    block_bars: int = BLOCK_BARS,
    burn_in: int = BURN_IN,
    seed: int = 1,
    device: torch.device = CPU,
) -> BlockSampler:
    space = WindowSpace.from_features(
        panel.features, panel.times, panel.symbols, Scaler.fit(panel.features), seq_len=SEQ_LEN, n_context=n_context
    )
    return BlockSampler(
        [space] * len(folds),
        folds,
        np.isfinite(panel.returns),
        block_bars=block_bars,
        burn_in=burn_in,
        seeds=[seed] * len(folds),
        device=device,
    )


class Epoch(NamedTuple):
    """What the batches of an epoch hold for one fold, S steps of n bars and A instruments."""

    bar: NDArray[np.int64]  # (S, n, A)
    asset: NDArray[np.int64]  # (S, n, A)
    forecast: NDArray[np.bool_]  # (S, n, A)
    scored: NDArray[np.bool_]  # (S, n, A)
    has_context: NDArray[np.bool_]  # (S, A, C)
    target_windows: NDArray[np.int64]  # (S, n, A, L) flat cells
    context_windows: NDArray[np.int64]  # (S, A, C, L)


def epoch_of(sampler: BlockSampler, epoch: int, k: int = 0) -> Epoch:
    sampler.start_epoch(epoch)
    batches = [sampler.batch(step) for step in range(sampler.steps_per_fold[k])]
    a, n = sampler.n_chosen, sampler.n_bars

    def grid(name: str) -> NDArray[np.int64]:
        return np.stack([getattr(batch, name)[k].numpy().reshape(n, a) for batch in batches])

    windows = np.stack([batch.cells[k].numpy()[batch.windows[k].numpy()] for batch in batches])  # (S, W, L)
    bar, asset = np.divmod(grid("targets"), sampler.n_assets)
    return Epoch(
        bar,
        asset,
        grid("forecast").astype(bool),
        grid("scored").astype(bool),
        np.stack([batch.has_context[k].numpy() for batch in batches]),
        windows[:, : n * a].reshape(len(batches), n, a, -1),
        windows[:, n * a :].reshape(len(batches), a, -1, windows.shape[-1]),
    )


# What is scored, and what is only forecast


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("epoch", range(4))
def test_each_tiling_scores_every_training_bar_once_and_no_other(k: int, epoch: int) -> None:
    """A short fold is tiled until it has LEAST_STEPS steps, and no longer."""
    drawn = epoch_of(sampler_of(gappy_panel()), epoch, k)
    assert (drawn.scored == drawn.scored[:, :, :1]).all()
    times = Counter(drawn.bar[:, :, 0][drawn.scored[:, :, 0]].tolist())
    assert set(times) == set(FOLDS[k].train)
    (n_tilings,) = set(times.values())
    n_blocks = [len(FOLDS[k].train) // BLOCK_BARS, -(-len(FOLDS[k].train) // BLOCK_BARS) + 1]
    assert n_tilings * n_blocks[0] <= len(drawn.bar) <= n_tilings * n_blocks[1]
    assert len(drawn.bar) >= LEAST_STEPS
    assert (n_tilings - 1) * n_blocks[0] < LEAST_STEPS


@pytest.mark.parametrize("epoch", range(4))
def test_where_training_bars_have_gaps_each_part_has_tiles_of_its_own(epoch: int) -> None:
    """Parts that are longer, shorter and nearer than a block: every one of their bars is scored equally often, no other
    is, and after the end of its part a block forecasts nothing."""
    parts = (range(30, 55), range(58, 62), range(80, 99))
    fold = Fold(2, range(30, 99), range(105, 110), range(115, 120), train_parts=parts)
    drawn = epoch_of(sampler_of(small_panel(130, 2, missing=0.0), (fold,)), epoch)
    times = Counter(drawn.bar[:, :, 0][drawn.scored[:, :, 0]].tolist())
    assert set(times) == {bar for part in parts for bar in part} and len(set(times.values())) == 1
    for bars, forecast, scored in zip(drawn.bar[:, :, 0], drawn.forecast[:, :, 0], drawn.scored[:, :, 0], strict=True):
        (own,) = {next(part for part in parts if bar in part) for bar in bars[scored].tolist()}
        assert bars[forecast].max() == bars[scored].max() < own.stop
    assert LEAST_STEPS <= len(drawn.bar) <= sampler_of(small_panel(130), (fold,)).n_steps


def test_a_long_fold_is_tiled_once() -> None:
    fold = Fold(0, range(20, 320), range(325, 340), range(345, 350))
    drawn = epoch_of(sampler_of(small_panel(360), (fold,)), 0)
    assert set(Counter(drawn.bar[:, :, 0][drawn.scored[:, :, 0]].tolist()).values()) == {1}
    assert len(drawn.bar) in (38, 39)


def test_every_training_bar_is_scored_however_near_the_start_of_the_data_it_lies() -> None:
    """A block may begin before the data, at bar -1 as at any other."""
    fold = Fold(0, range(SEQ_LEN - 1, 40), range(45, 60), range(65, 70))
    sampler, begins = sampler_of(small_panel(90, 2, missing=0.0), (fold,)), set()
    for epoch in range(6):
        drawn = epoch_of(sampler, epoch)
        times = Counter(drawn.bar[:, :, 0][drawn.scored[:, :, 0]].tolist())
        assert set(times) == set(fold.train) and len(set(times.values())) == 1
        assert drawn.forecast[drawn.scored].all()
        first = drawn.bar[:, -1, 0][drawn.forecast[:, -1, 0]] - sampler.n_bars + 1
        begins |= set(first.tolist())
    assert {-1, -2, 0} <= begins


def test_burn_in_bars_precede_and_are_never_scored() -> None:
    """The bars of a block are neighbours, the first BURN_IN of them are not scored, nor those before the training bars;
    the others are all forecast where there is a window."""
    panel = gappy_panel()
    sampler = sampler_of(panel)
    drawn = epoch_of(sampler, 0)
    assert not drawn.scored[:, :BURN_IN].any()
    before = drawn.bar < FOLDS[0].train.start
    assert before.any() and not drawn.scored[before].any()
    assert drawn.forecast[before].any()  # burn-in bars may precede the training bars
    inside = drawn.scored | drawn.forecast
    for s in range(len(drawn.bar)):
        own = np.flatnonzero(inside[s].any(axis=1))
        assert (np.diff(drawn.bar[s, own[0] : own[-1] + 1, 0]) == 1).all()


def test_what_is_forecast_has_a_window_in_the_data_and_a_feature_and_comes_before_the_fold_ends() -> None:
    panel = gappy_panel()
    fold = Fold(0, range(5, 40), range(45, 60), range(65, 70))
    present = np.isfinite(panel.features).any(axis=2)
    for k, folds in ((0, (fold,)), (0, FOLDS), (1, FOLDS)):
        drawn = epoch_of(sampler_of(panel, folds), 1, k)
        assert present[drawn.bar, drawn.asset][drawn.forecast].all()
        assert drawn.bar[drawn.forecast].min() >= SEQ_LEN - 1
        assert drawn.bar[drawn.forecast].max() < folds[k].train.stop
        absent = drawn.scored & ~drawn.forecast
        assert absent.any() and not present[drawn.bar, drawn.asset][absent].any()
        assert drawn.target_windows.min() >= 0
        assert drawn.target_windows.max() < folds[k].train.stop * sampler_of(panel).n_assets


def test_a_fold_of_a_stack_with_fewer_blocks_has_steps_in_which_nothing_counts() -> None:
    sampler = sampler_of(gappy_panel())
    for epoch in range(6):
        sampler.start_epoch(epoch)
        counts = [sampler.batch(step).scored.any(dim=1).tolist() for step in range(sampler.n_steps)]
        for k in range(2):
            own = sampler.steps_per_fold[k]
            assert [count[k] for count in counts] == [True] * own + [False] * (sampler.n_steps - own)


def test_drawing_ahead_leaves_the_current_epoch_as_it_is() -> None:
    """The number of blocks depends on the offset: the mean loss of an epoch is over its own."""
    sampler, ahead = sampler_of(gappy_panel(), FOLDS[:1]), sampler_of(gappy_panel(), FOLDS[:1])
    numbers = []
    for epoch in range(8):
        sampler.start_epoch(epoch)
        ahead.start_epoch(epoch)
        before = list(ahead.steps_per_fold)
        ahead.draw(epoch + 1)
        assert ahead.steps_per_fold == before == sampler.steps_per_fold
        assert all(torch.equal(a, b) for a, b in zip(sampler.batch(0), ahead.batch(0), strict=True))
        numbers += before
    assert len(set(numbers)) > 1


# Windows and contexts


def test_targets_come_in_order_of_bars_and_each_has_the_window_that_ends_at_it() -> None:
    drawn = epoch_of(sampler_of(gappy_panel()), 2)
    ends = drawn.bar * 2 + drawn.asset
    back = np.arange(SEQ_LEN - 1, -1, -1) * 2
    assert np.array_equal(drawn.target_windows, ends[..., None] - back)
    assert (np.diff(drawn.bar, axis=1) >= 0).all()
    assert (drawn.asset == np.arange(2)).all()


def test_contexts_end_before_the_first_window_of_the_block_begins() -> None:
    """They are drawn once for a block and instrument, by a hash of seed, fold, epoch, symbol and the block's start."""
    panel, sampler = gappy_panel(), sampler_of(gappy_panel())
    drawn = epoch_of(sampler, 0)
    assert drawn.has_context.any() and drawn.has_context.shape == (len(drawn.bar), 2, 2)
    last = drawn.context_windows[..., -1]  # (S, A, C)
    begin = drawn.bar[:, :1, 0] - (SEQ_LEN - 1)  # (S, 1) first bar of the block's first window
    filled = drawn.has_context
    assert ((last // 2)[filled] < np.broadcast_to(begin[..., None], filled.shape)[filled]).all()
    assert np.isfinite(panel.features.reshape(-1, 3)[last[filled]]).any(axis=1).all()
    for s in range(len(drawn.bar)):
        if drawn.bar[s, 0, 0] == drawn.bar[s, 1, 0]:
            continue  # the block begins before the data
        targets = drawn.bar[s, 0] * 2 + drawn.asset[s, 0]
        expected = sampler.spaces[0].contexts(targets, seed_from(1, FOLDS[0].index, 0))
        assert np.array_equal(np.where(filled[s], last[s], EMPTY), expected)


def test_an_epoch_is_keyed_by_seed_fold_and_epoch() -> None:
    """Not by the other folds of the stack, nor by what was drawn before."""
    panel = gappy_panel()

    def drawn(sampler: BlockSampler, epoch: int, k: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        one = epoch_of(sampler, epoch, k)
        return one.bar, np.where(one.has_context, one.context_windows[..., -1], EMPTY)

    def equal(a: tuple[NDArray[np.int64], ...], b: tuple[NDArray[np.int64], ...]) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    together = sampler_of(panel)
    first = drawn(together, 0, 1)
    assert equal(drawn(together, 3, 1), drawn(sampler_of(panel, FOLDS[1:]), 3))
    assert equal(drawn(together, 0, 1), first)
    assert not equal(drawn(together, 1, 1), first)
    assert not equal(drawn(sampler_of(panel, seed=2), 0, 1), first)
    assert not equal(drawn(sampler_of(panel, (replace(FOLDS[1], index=9),)), 0), first)


def test_with_many_instruments_a_block_takes_a_random_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as MAX_BLOCK_TARGETS allows, in ascending order, another one each time."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_TARGETS", 3 * (BLOCK_BARS + BURN_IN) + 1)
    sampler = sampler_of(small_panel(130, 7))
    drawn = epoch_of(sampler, 0)
    assert sampler.n_chosen == 3 and drawn.asset.shape[2] == 3
    assert (drawn.asset == drawn.asset[:, :1]).all()
    chosen = drawn.asset[:, 0]
    assert (np.diff(chosen, axis=1) > 0).all()
    assert set(chosen.ravel().tolist()) == set(range(7))
    assert len({tuple(row) for row in chosen.tolist()}) > len(chosen) // 2
    monkeypatch.setattr(blocks, "MAX_BLOCK_TARGETS", 1)
    assert sampler_of(small_panel(130, 7)).n_chosen == 1


@pytest.mark.parametrize("n_context", [0, 2])
def test_the_cells_of_a_block_fit_into_what_a_gpu_sets_aside(n_context: int) -> None:
    """All steps have the same number of cells there; the shortest folds need the most beside their own bars."""
    for n_train in (1, 3, 10, 60):
        fold = Fold(0, range(60, 60 + n_train), range(125, 128), range(128, 129))
        panel = small_panel(130, 3, missing=0.0)
        capacity = sampler_of(panel, (fold,), n_context=n_context, device=torch.device("cuda")).capacity
        assert capacity is not None
        sampler = sampler_of(panel, (fold,), n_context=n_context)
        for epoch in range(4):
            sampler.start_epoch(epoch)
            assert all(sampler.batch(step).cells.shape[1] <= capacity for step in range(sampler.n_steps))


def test_a_fold_without_a_labelled_target_is_refused() -> None:
    panel = small_panel()
    panel.returns[50:75] = np.nan
    with pytest.raises(ValueError, match=r"^fold 8 has no training target: between bars 50 and 74 [^.]+$"):
        sampler_of(panel)
