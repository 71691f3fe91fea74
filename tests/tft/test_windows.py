"""Targets, context sets and the order in which a fold sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import CPU, small_panel
from tft.folds import Fold
from tft.panel import Panel
from tft.scaling import Scaler
from tft.windows import (
    CONTEXT_POOL_BARS,
    EMPTY,
    DevicePanel,
    TrainingSampler,
    WindowSpace,
    distinct,
    seed_from,
    time_keys,
    window_cells,
    window_ends,
)


def space_of(panel: Panel, *, seq_len: int = 6, n_context: int = 5) -> WindowSpace:
    scaler = Scaler.fit(panel.features)
    return WindowSpace.from_features(
        panel.features, panel.times, panel.symbols, scaler, seq_len=seq_len, n_context=n_context
    )


def gappy_panel(n_bars: int, n_assets: int, *, seed: int = 0, share: float = 0.3) -> Panel:
    """Whole cells are missing, as where an instrument is not quoted."""
    panel = small_panel(n_bars, n_assets, seed=seed)
    panel.features[np.random.default_rng(seed).random((n_bars, n_assets)) < share] = np.nan
    return panel


# Targets


def test_targets_are_the_present_cells_with_a_whole_look_back_in_order_of_time() -> None:
    panel = gappy_panel(40, 3)
    space = space_of(panel)
    expected = [
        bar * 3 + asset
        for bar in range(2, 30)
        for asset in range(3)
        if bar >= 5 and np.isfinite(panel.features[bar, asset]).any()
    ]
    assert space.targets(range(2, 30)).tolist() == expected
    assert 0 < len(expected) < 25 * 3


def test_no_target_where_no_bar_has_a_whole_look_back() -> None:
    space = space_of(small_panel(40))
    assert len(space.targets(range(5))) == 0
    assert len(space.targets(range(6))) > 0


def test_a_column_that_is_missing_throughout_the_fold_makes_no_cell_present() -> None:
    """Presence is judged by the variables that the fold's scaler can use."""
    panel = small_panel(40, missing=0.0)
    panel.features[:, :, 1] = 1.0  # constant
    panel.features[10, 0, [0, 2]] = np.nan
    space = space_of(panel)
    assert not space.present[10, 0]
    assert space.present.sum() == 40 * 2 - 1


# Contexts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_contexts_end_before_the_target_window_lie_in_the_pool_and_are_present(seed: int) -> None:
    """All of a context lies within the last 504 bars up to the target, and ends before the target window begins."""
    panel = gappy_panel(620, 3, seed=seed)
    space = space_of(panel)
    targets = space.targets(range(620))
    drawn = space.contexts(targets, seed)
    ends = []
    for target, contexts in zip(targets.tolist(), drawn.tolist(), strict=True):
        for context in contexts:
            if context == EMPTY:
                continue
            bar, last = target // 3, context // 3
            assert last < bar - (space.seq_len - 1)  # the target window is [bar - seq_len + 1, bar]
            first = last - space.seq_len + 1
            assert first >= 0
            assert first > bar - CONTEXT_POOL_BARS
            assert np.isfinite(panel.features[last, context % 3]).any()
            ends.append((bar - last, context % 3))
    backs = np.array([back for back, _ in ends])
    # Both ends of the pool are reached, by every instrument.
    assert backs.min() == space.seq_len
    assert backs.max() > 0.95 * CONTEXT_POOL_BARS
    assert {asset for _, asset in ends} == {0, 1, 2}


def test_every_allowed_place_is_drawn_about_equally_often() -> None:
    panel = small_panel(60, 2, missing=0.0)
    space = space_of(panel, n_context=4000)
    target = 40 * 2
    (drawn,) = space.contexts(np.array([target]), 3)
    places, counts = np.unique(drawn, return_counts=True)
    assert places.tolist() == list(range(5 * 2, 35 * 2))  # bars 5 .. 34, both instruments
    expected = 4000 / 60
    assert np.sum((counts - expected) ** 2 / expected) < 120  # chi-squared, 59 degrees of freedom: p about 5e-6


def test_slots_are_empty_where_there_is_no_room() -> None:
    """The first context that fits ends at bar seq_len - 1, the first target that has room is seq_len bars later."""
    panel = small_panel(40, 2, missing=0.0)
    space = space_of(panel)
    targets = space.targets(range(40))
    filled = (space.contexts(targets, 0) != EMPTY).all(axis=1)
    none = (space.contexts(targets, 0) == EMPTY).all(axis=1)
    bars = targets // 2
    assert filled[bars >= 11].all()
    assert none[bars < 11].all()


def test_slots_are_empty_where_nothing_is_present_before_the_target_window() -> None:
    panel = small_panel(40, 2)
    panel.features[:20] = np.nan
    space = space_of(panel)
    targets = space.targets(range(20, 26))
    assert (space.contexts(targets, 0) == EMPTY).all()


def test_contexts_do_not_depend_on_the_order_of_the_batch_or_the_other_targets() -> None:
    panel = gappy_panel(200, 3)
    space = space_of(panel)
    targets = space.targets(range(200))
    together = space.contexts(targets, 9)
    order = np.random.default_rng(0).permutation(len(targets))
    assert np.array_equal(space.contexts(targets[order], 9), together[order])
    for i in (0, 7, 200, len(targets) - 1):
        assert np.array_equal(space.contexts(targets[i : i + 1], 9)[0], together[i])


def test_contexts_do_not_depend_on_the_row_number() -> None:
    """A table that starts later, with a full pool before the target, gives the same contexts."""
    panel = gappy_panel(560, 3)
    later = Panel(
        times=panel.times[37:],
        symbols=panel.symbols,
        feature_names=panel.feature_names,
        features=panel.features[37:],
        returns=panel.returns[37:],
    )
    space, cut = space_of(panel), space_of(later)
    bars = range(37 + CONTEXT_POOL_BARS, 560)
    targets = space.targets(bars)
    assert np.array_equal(cut.targets(range(bars.start - 37, bars.stop - 37)), targets - 37 * 3)
    here, there = space.contexts(targets, 4), cut.contexts(targets - 37 * 3, 4)
    assert np.array_equal(np.where(there == EMPTY, EMPTY, there + 37 * 3), here)


def test_contexts_depend_on_seed_symbol_timestamp_and_slot() -> None:
    space = space_of(small_panel(300, 2, missing=0.0), n_context=8)
    targets = np.array([250 * 2, 250 * 2 + 1, 251 * 2])
    one, other_symbol, other_time = space.contexts(targets, 1)
    assert not np.array_equal(one, other_symbol)
    assert not np.array_equal(250 - one // 2, 251 - other_time // 2)
    assert not np.array_equal(one, space.contexts(targets, 2)[0])
    assert len(set(one.tolist())) > 4


def test_a_date_and_a_midnight_timestamp_have_the_same_key() -> None:
    dates = np.array(["1969-12-31", "2024-03-01"], dtype="datetime64[D]")
    assert np.array_equal(time_keys(dates), time_keys(dates.astype("datetime64[ns]")))


def test_keys_are_the_same_in_every_process() -> None:
    """Literal values: a draw must not change from one run, or version, to the next."""
    assert seed_from(7, "forecast") == 7666146762764679669
    assert seed_from("ab", "c") != seed_from("a", "bc")


def test_reach_covers_every_cell_that_a_window_can_touch() -> None:
    panel = small_panel(600, 2, missing=0.0)
    for n_context in (0, 6):
        space = space_of(panel, n_context=n_context)
        bars = range(540, 580)
        targets = space.targets(bars)
        ends = window_ends(torch.from_numpy(targets), torch.from_numpy(space.contexts(targets, 1)))
        touched = window_cells(ends, seq_len=space.seq_len, n_assets=2).numpy() // 2
        reach = space.reach(bars)
        assert touched.min() >= reach.start
        assert touched.max() == reach.stop - 1
        assert touched.min() <= reach.start + 5  # and not by a wide margin


# Windows as rows of cells


def test_a_window_is_the_same_instrument_over_the_last_bars_oldest_first() -> None:
    ends = torch.tensor([17, 20])
    assert window_cells(ends, seq_len=4, n_assets=3).tolist() == [[8, 11, 14, 17], [11, 14, 17, 20]]


def test_an_empty_slot_repeats_its_target() -> None:
    ends = window_ends(torch.tensor([17, 20]), torch.tensor([[3, EMPTY], [EMPTY, 5]]))
    assert ends.tolist() == [17, 20, 3, 17, 20, 5]


def test_contexts_of_a_group_follow_once_and_an_empty_slot_repeats_the_group_s_first_target() -> None:
    """Two instruments at three bars."""
    targets, contexts = torch.tensor([16, 17, 18, 19, 20, 21]), torch.tensor([[3, EMPTY], [EMPTY, 5]])
    assert window_ends(targets, contexts).tolist() == [16, 17, 18, 19, 20, 21, 3, 16, 17, 5]


def test_distinct_lists_each_cell_once_and_the_windows_find_theirs() -> None:
    flat = torch.randint(0, 50, (3, 4, 6), generator=torch.Generator().manual_seed(0))
    cells, windows = distinct(flat, 40)
    assert cells.shape == (3, 40)
    for k in range(3):
        listed = cells[k].tolist()
        expected = sorted(set(flat[k].flatten().tolist()))
        assert listed[: len(expected)] == expected
        assert set(listed[len(expected) :]) <= {expected[-1]}
        assert torch.equal(cells[k][windows[k]], flat[k])


def test_cells_are_standardised_clipped_and_masked_as_the_scaler_does() -> None:
    panel = small_panel(40, 2)
    panel.features[3, 1, 2] = 1e6
    panel.features[:, :, 1] = 2.0
    scaler = Scaler.fit(panel.features[:30])
    index = torch.tensor([[0, 7, 7, 41, 79]])
    mean, std = torch.from_numpy(scaler.mean)[None], torch.from_numpy(scaler.std)[None]
    x, present, asset = DevicePanel(panel.features, CPU).cells(index, mean, std)
    expected = scaler.transform(panel.features).reshape(-1, 3)[index[0]]
    assert np.array_equal(present[0].numpy() > 0, np.isfinite(expected))
    assert np.array_equal(x[0].numpy(), np.nan_to_num(expected, nan=0.0))
    assert not present[0, :, 1].any()
    assert x[0, 1, 2] == 5.0
    assert asset[0].tolist() == [0, 1, 1, 1, 1]


# The sampler

FOLDS = (
    Fold(3, range(30, 90), range(95, 105), range(105, 110)),
    Fold(8, range(50, 75), range(80, 90), range(90, 95)),
)


def sampler_of(
    panel: Panel, folds: tuple[Fold, ...] = FOLDS, *, n_context: int = 2, batch_size: int = 16, seed: int = 1
) -> TrainingSampler:
    spaces = [space_of(panel, n_context=n_context)] * len(folds)
    labelled = np.isfinite(panel.returns)
    seeds = [seed] * len(folds)
    return TrainingSampler(spaces, folds, labelled, batch_size=batch_size, seeds=seeds, device=CPU)


def epoch_of(sampler: TrainingSampler, epoch: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per fold: targets (S, B), counted (S, B), flat cells of every window (S, W, L)."""
    sampler.start_epoch(epoch)
    batches = [sampler.batch(step) for step in range(sampler.n_steps)]
    out = []
    for k in range(len(sampler.folds)):
        cells = [torch.gather(b.cells[k], 0, b.windows[k].flatten()).view(b.windows[k].shape) for b in batches]
        targets, counted = (torch.stack([getattr(b, name)[k] for b in batches]) for name in ("targets", "counted"))
        out.append((targets.numpy(), counted.numpy() > 0, torch.stack(cells).numpy()))
    return out


def test_an_epoch_covers_a_fold_s_targets_without_repetition() -> None:
    """Every counted target is a labelled training target, none comes twice, fewer than a batch are left out."""
    panel = gappy_panel(130, 2)
    panel.returns[60:64] = np.nan
    sampler = sampler_of(panel)
    for (targets, counted, _), fold in zip(epoch_of(sampler, 0), FOLDS, strict=True):
        seen = targets[counted].tolist()
        allowed = {
            bar * 2 + asset
            for bar in fold.train
            for asset in range(2)
            if np.isfinite(panel.features[bar, asset]).any() and np.isfinite(panel.returns[bar, asset])
        }
        assert len(seen) == len(set(seen)) == len(allowed) // 16 * 16
        assert set(seen) <= allowed


def test_over_the_epochs_no_target_is_left_out() -> None:
    sampler = sampler_of(gappy_panel(130, 2))
    for k in range(2):
        seen = {cell for e in range(8) for cell in (lambda t, c, _: t[c])(*epoch_of(sampler, e)[k]).tolist()}
        assert seen == set(sampler.targets[k].tolist())


def test_a_smaller_fold_of_a_stack_has_empty_steps_at_the_end() -> None:
    sampler = sampler_of(small_panel(130, 2, missing=0.0))
    (_, long, _), (targets, short, _) = epoch_of(sampler, 0)
    assert sampler.steps_per_fold == [60 * 2 // 16, 25 * 2 // 16]
    assert long.all()
    assert short[:3].all()
    assert not short[3:].any()
    assert (targets[3:] == sampler.targets[1][0]).all()  # some cell, not counted


def test_a_fold_smaller_than_a_batch_has_one_partly_filled_step() -> None:
    sampler = sampler_of(small_panel(130, 2, missing=0.0), FOLDS[1:], batch_size=64)
    ((targets, counted, _),) = epoch_of(sampler, 0)
    assert counted.shape == (1, 64)
    assert counted.sum() == 50
    assert sorted(targets[counted].tolist()) == sampler.targets[0].tolist()


def test_batches_differ_per_epoch_and_come_again_for_the_same_epoch() -> None:
    """Order and contexts are keyed by (seed, fold, epoch), whatever was drawn before."""
    panel = small_panel(130, 2)
    sampler = sampler_of(panel)
    first, second = epoch_of(sampler, 0)[0], epoch_of(sampler, 1)[0]
    again = epoch_of(sampler_of(panel), 1)[0]
    assert not np.array_equal(first[0], second[0])
    assert all(np.array_equal(a, b) for a, b in zip(second, again, strict=True))
    assert not np.array_equal(second[0], epoch_of(sampler_of(panel, seed=2), 1)[0][0])
    contexts = [
        {int(t): frozenset(c.tolist()) for t, c in zip(ts.flatten(), cs[:, 16:, -1].reshape(-1, 2), strict=True)}
        for ts, _, cs in (first, second)
    ]
    shared = contexts[0].keys() & contexts[1].keys()
    assert np.mean([contexts[0][t] == contexts[1][t] for t in shared]) < 0.2


def test_a_fold_draws_the_same_batches_in_any_stack() -> None:
    panel = small_panel(130, 2)
    stacked, alone = epoch_of(sampler_of(panel), 2)[1], epoch_of(sampler_of(panel, FOLDS[1:]), 2)[0]
    steps = len(alone[0])
    assert all(np.array_equal(a[:steps], b) for a, b in zip(stacked, alone, strict=True))


@pytest.mark.parametrize("n_context", [0, 3])
@pytest.mark.parametrize(("batch_size", "lists_all"), [(64, True), (4, False)])
def test_windows_hold_the_same_cells_in_either_mode_as_in_a_naive_loop(
    n_context: int, batch_size: int, lists_all: bool
) -> None:
    """All cells of the fold where that is fewer than a batch's window rows; only the touched ones otherwise."""
    folds = tuple(
        Fold(f.index, *(range(b.start - 20, b.stop - 20) for b in (f.train, f.validation, f.test))) for f in FOLDS
    )
    panel = small_panel(100, 2, missing=0.0)
    sampler = sampler_of(panel, folds, n_context=n_context, batch_size=batch_size)
    assert (sampler.all_cells is not None) == lists_all
    sampler.start_epoch(4)
    for step in range(sampler.n_steps):
        batch = sampler.batch(step)
        if lists_all:
            assert batch.cells.shape == (2, 2 * max(len(sampler.spaces[0].reach(fold.train)) for fold in folds))
        else:  # no cell twice, but for the padding of the fold that touches fewer
            assert batch.cells.shape[1] == max(len(set(cells.tolist())) for cells in batch.cells)
        for k in range(2):
            reach = sampler.spaces[k].reach(folds[k].train)
            assert set((batch.cells[k] // 2).tolist()) <= set(reach)  # padding included
            contexts = sampler.spaces[k].contexts(batch.targets[k].numpy(), seed_from(1, folds[k].index, 4))
            last = batch.targets[k].tolist()
            counted = batch.counted[k].numpy() > 0
            assert np.array_equal(batch.has_context[k].numpy()[counted], contexts[counted] != EMPTY)
            assert not batch.has_context[k].numpy()[~counted].any()
            for b in range(batch_size):
                slots = contexts[b] if counted[b] else np.full(n_context, EMPTY)
                last += [int(c) if c != EMPTY else int(batch.targets[k, b]) for c in slots]
            naive = [[end - 2 * back for back in range(5, -1, -1)] for end in last]
            assert batch.cells[k][batch.windows[k]].tolist() == naive


def test_a_fold_without_a_training_target_is_refused_in_one_sentence() -> None:
    panel = small_panel(130, 2)
    panel.features[50:75] = np.nan
    with pytest.raises(ValueError, match=r"^fold 8 has no training target: between bars 50 and 74 [^.]*$"):
        sampler_of(panel)
