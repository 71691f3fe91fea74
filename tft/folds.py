"""Walk-forward and combinatorial splits of the decision bars into training, validation and test blocks.

Bars are decision indices 0 .. n_bars - 1. The blocks of a fold are separated by a purge gap, so that the last label of
one block is known before the first decision of the next is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Values = TypeVar("Values", bound=np.generic)


@dataclass(frozen=True)
class WalkForwardConfig:
    """Lengths of the walk-forward blocks, in bars."""

    train_window: int = 150
    """Bars from the start of the training block to the end of the validation block, purge gap included"""
    validation_window: int = 21
    test_window: int | None = None
    """Bars of a test block; null means the step size of the phase, so that test blocks are adjacent"""
    expanding: bool = False
    """Whether every training block starts at the first bar"""
    first_bar: int = 0
    """Bars after the warm-up that are left out before the first training block, and that no phase trains on or tests"""

    def faults(self) -> list[str]:
        """One sentence for each setting that is out of range."""
        faults = []
        if self.validation_window < 2:
            faults.append(f"walk_forward.validation_window is {self.validation_window}, the least is 2 bars")
        if self.train_window <= self.validation_window:
            faults.append(
                f"walk_forward.train_window is {self.train_window} bars, it must exceed validation_window "
                f"({self.validation_window})"
            )
        if self.first_bar < 0:
            faults.append(f"walk_forward.first_bar is {self.first_bar}, the least is 0")
        if self.test_window is not None and self.test_window < 1:
            faults.append(f"walk_forward.test_window is {self.test_window}, the least is 1 bar (null: the step size)")
        return faults


@dataclass(frozen=True)
class Fold:
    """Blocks of one fold as ranges of decision bars. The final fit has an empty `test`."""

    index: int
    train: range
    validation: range
    test: range
    train_parts: tuple[range, ...] = ()
    """In a combinatorial fold, whose `train` and `test` have gaps: the parts of `train` that are trained on, in order;
    otherwise empty"""

    @property
    def trained(self) -> tuple[range, ...]:
        """The bars that are trained on, as ranges in order of time."""
        return self.train_parts or (self.train,)

    @property
    def seen(self) -> tuple[range, ...]:
        """Bars whose labels the fold may know, as ranges of which the last one ends with the validation block."""
        return (
            (*self.train_parts, self.validation)
            if self.train_parts
            else (range(self.train.start, self.validation.stop),)
        )

    def shifted(self, n_bars: int) -> Fold:
        """The fold with every block moved `n_bars` later."""
        train, validation, test, *parts = (
            range(block.start + n_bars, block.stop + n_bars)
            for block in (self.train, self.validation, self.test, *self.train_parts)
        )
        return Fold(self.index, train, validation, test, tuple(parts))


def rows_of(values: NDArray[Values], blocks: Sequence[range]) -> NDArray[Values]:
    """The rows of values (T, ...) at the bars of these blocks; of a single block a view."""
    parts = [values[block.start : block.stop] for block in blocks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def bars_needed(*, train_window: int, purge_gap: int) -> int:
    """The smallest number of decision bars that hold one fold with a single test bar."""
    return train_window + purge_gap + 1


def walk_forward(
    n_bars: int,
    *,
    train_window: int,
    validation_window: int,
    test_window: int,
    step_size: int,
    purge_gap: int,
    expanding: bool = False,
) -> tuple[Fold, ...]:
    """Folds over decision bars 0 .. n_bars - 1, as many as have a test block that is not empty. All arguments in bars.

    With end = i * step_size + train_window, fold i has
        validation = [end - validation_window, end)
        train      = [i * step_size (0 if expanding), end - validation_window - purge_gap)
        test       = [end + purge_gap, min(end + purge_gap + test_window, n_bars))

    Raises ValueError if a block would be empty, or if `n_bars` does not hold a single fold.
    """
    for name, value in (
        ("validation_window", validation_window),
        ("test_window", test_window),
        ("step_size", step_size),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}, the least is 1 bar")
    if purge_gap < 0:
        raise ValueError(f"purge_gap is {purge_gap}, the least is 0 bars")
    if train_window - validation_window - purge_gap < 1:
        raise ValueError(
            f"train_window is {train_window} bars, of which validation_window ({validation_window}) and purge_gap "
            f"({purge_gap}) leave none to train on: at least {validation_window + purge_gap + 1} are needed"
        )
    needed = bars_needed(train_window=train_window, purge_gap=purge_gap)
    if n_bars < needed:
        raise ValueError(f"{n_bars} decision bars do not hold a single fold: {needed} are needed")

    folds = []
    for index, start in enumerate(range(0, n_bars - needed + 1, step_size)):
        end = start + train_window
        folds.append(
            Fold(
                index=index,
                train=range(0 if expanding else start, end - validation_window - purge_gap),
                validation=range(end - validation_window, end),
                test=range(end + purge_gap, min(end + purge_gap + test_window, n_bars)),
            )
        )
    return tuple(folds)


def final_fold(
    index: int, end: int, *, train_window: int, validation_window: int, purge_gap: int, expanding: bool = False
) -> Fold:
    """The fold of the final fit: no test block; validation ends at bar `end` (exclusive), else as in `walk_forward`."""
    return Fold(
        index=index,
        train=range(0 if expanding else end - train_window, end - validation_window - purge_gap),
        validation=range(end - validation_window, end),
        test=range(end, end),
    )


@dataclass(frozen=True)
class Split:
    """Ascending bar indices of the training and the test set of one combinatorial split."""

    index: int
    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class CombinatorialPurged(Sequence[Split]):
    """The C(n_groups, n_test_groups) splits of `combinatorial_purged`, each computed when it is accessed."""

    n_bars: int
    n_groups: int
    n_test_groups: int
    purge_gap: int
    embargo: int

    @property
    def n_paths(self) -> int:
        """Number of backtest paths that the test groups of all splits form: k/N * C(N, k)."""
        return self.n_test_groups * comb(self.n_groups, self.n_test_groups) // self.n_groups

    @property
    def groups(self) -> tuple[range, ...]:
        """The bars of each group."""
        return tuple(
            range(int(group[0]), int(group[-1]) + 1) for group in np.array_split(range(self.n_bars), self.n_groups)
        )

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """For each path the index of the split that tests each group: path p takes the p-th split of every group."""
        chosen = list(combinations(range(self.n_groups), self.n_test_groups))
        by_group = [[index for index, one in enumerate(chosen) if group in one] for group in range(self.n_groups)]
        return tuple(zip(*by_group, strict=True))

    def __len__(self) -> int:
        return comb(self.n_groups, self.n_test_groups)

    @overload
    def __getitem__(self, index: int) -> Split: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Split, ...]: ...
    def __getitem__(self, index: int | slice) -> Split | tuple[Split, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        position = range(len(self))[index]
        for number, split in enumerate(self):
            if number == position:
                return split
        raise AssertionError("the position is within the sequence")

    def __iter__(self) -> Iterator[Split]:
        groups = np.array_split(np.arange(self.n_bars), self.n_groups)
        for index, chosen in enumerate(combinations(range(self.n_groups), self.n_test_groups)):
            tested = np.zeros(self.n_bars, dtype=bool)
            for group in chosen:
                tested[groups[group]] = True
            kept = ~tested
            edges = np.flatnonzero(np.diff(np.concatenate([[False], tested, [False]]).astype(np.int8)))
            for first, end in zip(edges[::2], edges[1::2], strict=True):  # each run of adjacent test groups
                kept[max(first - self.purge_gap, 0) : first] = False
                kept[end : end + self.purge_gap + self.embargo] = False
            yield Split(index, tuple(np.flatnonzero(kept).tolist()), tuple(np.flatnonzero(tested).tolist()))


def combinatorial_purged(
    n_bars: int, *, n_groups: int, n_test_groups: int, purge_gap: int, embargo: int
) -> CombinatorialPurged:
    """Combinatorial purged cross-validation (Lopez de Prado 2018, ch. 12): one split for every choice of test groups.

    Groups are contiguous, as `numpy.array_split` makes them. `purge_gap` bars on either side of each test block, and
    `embargo` more after it, are dropped from training. Raises ValueError for arguments that allow no split.
    """
    if not 1 <= n_test_groups < n_groups:
        raise ValueError(f"n_test_groups is {n_test_groups}, it must lie between 1 and n_groups - 1 ({n_groups - 1})")
    if n_bars < n_groups:
        raise ValueError(f"{n_bars} bars cannot make {n_groups} groups: at most {n_bars}")
    if purge_gap < 0 or embargo < 0:
        raise ValueError(f"purge_gap ({purge_gap}) and embargo ({embargo}) must be at least 0 bars")
    return CombinatorialPurged(n_bars, n_groups, n_test_groups, purge_gap, embargo)


def combinatorial_fold(split: Split, *, validation_window: int, purge_gap: int) -> Fold:
    """The fold that trains and tests a combinatorial split.

    Validation is the end of the longest run of training bars, of equal ones the latest, and the `purge_gap` bars before
    it are dropped. `test` reaches from the first to the last tested bar: only those of the split are out-of-sample.
    Raises ValueError where the longest run is too short for a validation block and a bar to train on.
    """
    bars = np.array(split.train)
    borders = [0, *(np.flatnonzero(np.diff(bars) > 1) + 1).tolist(), len(bars)]
    runs = [range(int(bars[start]), int(bars[stop - 1]) + 1) for start, stop in pairwise(borders)]
    longest = max(range(len(runs)), key=lambda number: (len(runs[number]), number))
    run, needed = runs[longest], validation_window + purge_gap + 1
    if len(run) < needed:
        raise ValueError(
            f"the longest run of training bars of split {split.index} has {len(run)} bars, validation_window "
            f"({validation_window}) and purge_gap ({purge_gap}) need {needed}"
        )
    validation = range(run.stop - validation_window, run.stop)
    runs[longest] = range(run.start, validation.start - purge_gap)
    return Fold(
        index=split.index,
        train=range(runs[0].start, runs[-1].stop),
        validation=validation,
        test=range(split.test[0], split.test[-1] + 1),
        train_parts=tuple(runs),
    )
