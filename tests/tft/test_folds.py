"""Splits against tables worked by hand and against loops that follow the definitions bar by bar."""

from __future__ import annotations

import re
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tft.folds import (
    Fold,
    Split,
    WalkForwardConfig,
    bars_needed,
    combinatorial_fold,
    combinatorial_purged,
    final_fold,
    rows_of,
    walk_forward,
)


def test_folds_worked_by_hand() -> None:
    """Window 10 of which 3 validate, gap 2, step 4: five bars train, and the last test block ends with the data."""
    folds = walk_forward(21, train_window=10, validation_window=3, test_window=4, step_size=4, purge_gap=2)
    assert folds == (
        Fold(0, train=range(5), validation=range(7, 10), test=range(12, 16)),
        Fold(1, train=range(4, 9), validation=range(11, 14), test=range(16, 20)),
        Fold(2, train=range(8, 13), validation=range(15, 18), test=range(20, 21)),
    )


def test_expanding_folds_worked_by_hand() -> None:
    """Expanding moves the start of training to the first bar and nothing else."""
    folds = walk_forward(
        20, train_window=10, validation_window=3, test_window=4, step_size=4, purge_gap=2, expanding=True
    )
    assert folds == (
        Fold(0, train=range(5), validation=range(7, 10), test=range(12, 16)),
        Fold(1, train=range(9), validation=range(11, 14), test=range(16, 20)),
    )


def test_no_gap_and_overlapping_test_blocks_worked_by_hand() -> None:
    """Without a gap blocks touch; a test block longer than the step overlaps the next one."""
    folds = walk_forward(8, train_window=4, validation_window=1, test_window=3, step_size=2, purge_gap=0)
    assert folds == (
        Fold(0, train=range(3), validation=range(3, 4), test=range(4, 7)),
        Fold(1, train=range(2, 5), validation=range(5, 6), test=range(6, 8)),
    )


WINDOWS = {
    "n_bars": st.integers(1, 120),
    "train_window": st.integers(1, 40),
    "validation_window": st.integers(1, 15),
    "test_window": st.integers(1, 15),
    "step_size": st.integers(1, 15),
    "purge_gap": st.integers(0, 6),
    "expanding": st.booleans(),
}


@given(**WINDOWS)
@settings(max_examples=150, deadline=None)
def test_folds_equal_a_naive_loop(
    n_bars: int,
    train_window: int,
    validation_window: int,
    test_window: int,
    step_size: int,
    purge_gap: int,
    expanding: bool,
) -> None:
    """Every fold by its definition, for as long as its test block holds a bar."""
    assume(train_window - validation_window - purge_gap >= 1)
    assume(n_bars > train_window + purge_gap)
    expected = []
    i = 0
    while True:
        end = i * step_size + train_window
        test = [bar for bar in range(n_bars) if end + purge_gap <= bar < end + purge_gap + test_window]
        if not test:
            break
        start = 0 if expanding else i * step_size
        train = [bar for bar in range(n_bars) if start <= bar < end - validation_window - purge_gap]
        validation = [bar for bar in range(n_bars) if end - validation_window <= bar < end]
        expected.append((i, train, validation, test))
        i += 1
    folds = walk_forward(
        n_bars,
        train_window=train_window,
        validation_window=validation_window,
        test_window=test_window,
        step_size=step_size,
        purge_gap=purge_gap,
        expanding=expanding,
    )
    assert [(f.index, list(f.train), list(f.validation), list(f.test)) for f in folds] == expected

    for fold in folds:
        # At least purge_gap bars lie between the blocks of a fold.
        assert fold.validation.start - fold.train.stop == purge_gap
        assert fold.test.start - fold.validation.stop == purge_gap
    if test_window >= step_size:
        # Nothing after the first block goes untested, the end of the data included.
        assert {bar for fold in folds for bar in fold.test} == set(range(train_window + purge_gap, n_bars))


def test_bars_needed_is_the_least_that_makes_a_fold() -> None:
    windows: dict[str, Any] = {
        "train_window": 12,
        "validation_window": 3,
        "test_window": 5,
        "step_size": 5,
        "purge_gap": 4,
    }
    least = bars_needed(train_window=12, purge_gap=4)
    (only,) = walk_forward(least, **windows)
    assert only.test == range(16, 17)
    with pytest.raises(ValueError, match="16 decision bars do not hold a single fold: 17 are needed"):
        walk_forward(least - 1, **windows)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"validation_window": 0}, "validation_window is 0, the least is 1 bar"),
        ({"test_window": 0}, "test_window is 0, the least is 1 bar"),
        ({"step_size": -1}, "step_size is -1, the least is 1 bar"),
        ({"purge_gap": -1}, "purge_gap is -1, the least is 0 bars"),
        (
            {"train_window": 9},
            "train_window is 9 bars, of which validation_window (4) and purge_gap (5) leave none to train on: "
            "at least 10 are needed",
        ),
        ({"n_bars": 15}, "15 decision bars do not hold a single fold: 16 are needed"),
    ],
)
def test_impossible_windows_are_refused_with_the_remedy(change: dict[str, int], sentence: str) -> None:
    windows = {
        "n_bars": 30,
        "train_window": 10,
        "validation_window": 4,
        "test_window": 3,
        "step_size": 3,
        "purge_gap": 5,
    }
    walk_forward(**windows)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        walk_forward(**{**windows, **change})


@pytest.mark.parametrize("expanding", [False, True])
def test_the_final_fold_has_the_blocks_of_a_walk_forward_fold_that_ends_there(expanding: bool) -> None:
    """Same training and validation bars as the fold whose validation ends at that bar, and no test bar."""
    last = walk_forward(
        60, train_window=20, validation_window=5, test_window=7, step_size=7, purge_gap=3, expanding=expanding
    )[-1]
    fold = final_fold(9, last.validation.stop, train_window=20, validation_window=5, purge_gap=3, expanding=expanding)
    assert (fold.index, fold.train, fold.validation) == (9, last.train, last.validation)
    assert len(fold.test) == 0


def test_a_shifted_fold_moves_every_block_alike() -> None:
    fold = Fold(3, train=range(5), validation=range(7, 10), test=range(12, 16))
    assert fold.shifted(62) == Fold(3, train=range(62, 67), validation=range(69, 72), test=range(74, 78))


def test_every_fault_of_a_configuration_is_named() -> None:
    assert WalkForwardConfig().faults() == []
    assert WalkForwardConfig(train_window=1, validation_window=1, test_window=0).faults() == [
        "walk_forward.validation_window is 1, the least is 2 bars",
        "walk_forward.train_window is 1 bars, it must exceed validation_window (1)",
        "walk_forward.test_window is 0, the least is 1 bar (null: the step size)",
    ]


def test_combinatorial_splits_worked_by_hand() -> None:
    """Groups 0-3, 4-6, 7-9 (as numpy.array_split makes them), a gap of 1, an embargo of 1, cut off at both ends."""
    splits = combinatorial_purged(10, n_groups=3, n_test_groups=1, purge_gap=1, embargo=1)
    assert tuple(splits) == (
        Split(0, train=(6, 7, 8, 9), test=(0, 1, 2, 3)),
        Split(1, train=(0, 1, 2, 9), test=(4, 5, 6)),
        Split(2, train=(0, 1, 2, 3, 4, 5), test=(7, 8, 9)),
    )


def test_adjacent_test_groups_are_one_block_worked_by_hand() -> None:
    splits = combinatorial_purged(12, n_groups=4, n_test_groups=2, purge_gap=1, embargo=0)
    assert [(split.train, split.test) for split in splits] == [
        ((7, 8, 9, 10, 11), (0, 1, 2, 3, 4, 5)),
        ((4, 10, 11), (0, 1, 2, 6, 7, 8)),
        ((4, 5, 6, 7), (0, 1, 2, 9, 10, 11)),
        ((0, 1, 10, 11), (3, 4, 5, 6, 7, 8)),
        ((0, 1, 7), (3, 4, 5, 9, 10, 11)),
        ((0, 1, 2, 3, 4), (6, 7, 8, 9, 10, 11)),
    ]


@given(
    n_bars=st.integers(4, 60),
    n_groups=st.integers(2, 6),
    n_test_groups=st.integers(1, 5),
    purge_gap=st.integers(0, 5),
    embargo=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_combinatorial_splits_equal_a_naive_loop(
    n_bars: int, n_groups: int, n_test_groups: int, purge_gap: int, embargo: int
) -> None:
    """A bar trains unless it is tested, within the gap before a test block, or within gap plus embargo after one."""
    assume(n_test_groups < n_groups <= n_bars)
    splits = combinatorial_purged(
        n_bars, n_groups=n_groups, n_test_groups=n_test_groups, purge_gap=purge_gap, embargo=embargo
    )
    groups = [group.tolist() for group in np.array_split(np.arange(n_bars), n_groups)]
    for split, chosen in zip(splits, combinations(groups, n_test_groups), strict=True):
        tested = [bar for group in chosen for bar in group]
        train = [
            bar
            for bar in range(n_bars)
            if bar not in tested
            and not any(0 < test - bar <= purge_gap for test in tested)
            and not any(0 < bar - test <= purge_gap + embargo for test in tested)
        ]
        assert (list(split.train), list(split.test)) == (train, tested)

    # Each group is tested once in every path: n_paths = k/N * C(N, k) times.
    assert splits.n_paths * n_groups == n_test_groups * comb(n_groups, n_test_groups)
    for group in groups:
        assert sum(set(group) <= set(split.test) for split in splits) == splits.n_paths


def test_paths_and_groups_worked_by_hand() -> None:
    """Splits of 4 groups, 2 tested: 01 02 03 12 13 23. Each group is tested by three of them, in order of paths."""
    splits = combinatorial_purged(10, n_groups=4, n_test_groups=2, purge_gap=0, embargo=0)
    assert splits.groups == (range(3), range(3, 6), range(6, 8), range(8, 10))
    assert splits.paths == ((0, 0, 1, 2), (1, 3, 3, 4), (2, 4, 5, 5))


@given(n_groups=st.integers(2, 7), n_test_groups=st.integers(1, 4))
def test_every_forecast_of_a_split_is_used_in_one_path(n_groups: int, n_test_groups: int) -> None:
    assume(n_test_groups < n_groups)
    splits = combinatorial_purged(3 * n_groups, n_groups=n_groups, n_test_groups=n_test_groups, purge_gap=0, embargo=0)
    used = [(split, group) for path in splits.paths for group, split in enumerate(path)]
    tested = [
        (split.index, number)
        for split in splits
        for number, group in enumerate(splits.groups)
        if set(group) <= set(split.test)
    ]
    assert len(splits.paths) == splits.n_paths and sorted(used) == sorted(tested)


def test_a_combinatorial_fold_worked_by_hand() -> None:
    """Runs 0-4, 8-15 and 20-22: of the longest the end validates, after a gap of 1."""
    split = Split(4, train=(*range(5), *range(8, 16), *range(20, 23)), test=(5, 6, 18, 19))
    fold = combinatorial_fold(split, validation_window=3, purge_gap=1)
    assert fold == Fold(4, range(23), range(13, 16), range(5, 20), train_parts=(range(5), range(8, 12), range(20, 23)))
    assert fold.trained == fold.train_parts
    assert fold.seen == (*fold.train_parts, fold.validation)
    assert fold.shifted(10).train_parts == (range(10, 15), range(18, 22), range(30, 33))
    with pytest.raises(ValueError, match=r"^the longest run of training bars of split 4 has 8 bars, .* need 9$"):
        combinatorial_fold(split, validation_window=7, purge_gap=1)


def test_a_fold_without_gaps_trains_on_its_block_and_knows_labels_up_to_its_validation() -> None:
    fold = Fold(0, range(2, 6), range(7, 9), range(10, 12))
    assert fold.trained == (range(2, 6),) and fold.seen == (range(2, 9),)
    values = np.arange(24).reshape(12, 2)
    assert rows_of(values, fold.trained).base is not None, "a view"
    np.testing.assert_array_equal(rows_of(values, [range(2), range(5, 6)]), values[[0, 1, 5]])


@given(
    n_bars=st.integers(40, 120),
    n_groups=st.integers(3, 6),
    n_test_groups=st.integers(1, 2),
    purge_gap=st.integers(0, 3),
    embargo=st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_no_training_or_validation_bar_of_a_combinatorial_fold_is_near_a_tested_one(
    n_bars: int, n_groups: int, n_test_groups: int, purge_gap: int, embargo: int
) -> None:
    splits = combinatorial_purged(
        n_bars, n_groups=n_groups, n_test_groups=n_test_groups, purge_gap=purge_gap, embargo=embargo
    )
    for split in splits:
        runs = [len(run) for run in np.split(split.train, np.flatnonzero(np.diff(split.train) > 1) + 1)]
        if max(runs) < 4 + purge_gap + 1:
            continue
        fold = combinatorial_fold(split, validation_window=4, purge_gap=purge_gap)
        trained = [bar for part in fold.trained for bar in part]
        assert set(trained) | set(fold.validation) <= set(split.train) and trained == sorted(set(trained))
        left_out = set(split.train) - set(trained) - set(fold.validation)
        first = fold.validation.start
        assert left_out == set(range(first - purge_gap, first)), "the gap before validation and nothing else"
        assert (fold.train.start, fold.train.stop) == (trained[0], trained[-1] + 1)
        assert (fold.test.start, fold.test.stop) == (split.test[0], split.test[-1] + 1)


def test_the_splits_are_a_frozen_sequence() -> None:
    splits = combinatorial_purged(20, n_groups=6, n_test_groups=2, purge_gap=1, embargo=0)
    listed = list(splits)
    assert len(splits) == len(listed) == 15
    assert splits.n_paths == 5
    assert [split.index for split in splits] == list(range(15))
    assert (splits[0], splits[7], splits[-1]) == (listed[0], listed[7], listed[-1])
    assert splits[3:5] == tuple(listed[3:5])
    with pytest.raises(IndexError):
        splits[15]
    with pytest.raises(AttributeError):
        splits.embargo = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_test_groups": 0}, "n_test_groups is 0, it must lie between 1 and n_groups - 1 (3)"),
        ({"n_test_groups": 4}, "n_test_groups is 4, it must lie between 1 and n_groups - 1 (3)"),
        ({"n_bars": 3}, "3 bars cannot make 4 groups: at most 3"),
        ({"embargo": -1}, "purge_gap (1) and embargo (-1) must be at least 0 bars"),
    ],
)
def test_impossible_groups_are_refused(change: dict[str, int], sentence: str) -> None:
    counts = {"n_bars": 20, "n_groups": 4, "n_test_groups": 2, "purge_gap": 1, "embargo": 1}
    combinatorial_purged(**counts)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        combinatorial_purged(**{**counts, **change})
