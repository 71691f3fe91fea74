"""Finished folds in a store: what is written is read back to the last bit, by the stack it was trained in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tft.fitting import FOLDS, MemoryStore, identical
from tft.fold_store import FoldFit, finished_stack, read_stack, read_stack_size, write_fit, write_stack_size
from tft.scaling import Scaler


def fit_of(number: int, stack: tuple[int, ...]) -> FoldFit:
    """Arbitrary numbers, among them what is hard to keep: NaN, infinity, the last bit, a tensor that is a view."""
    rng = np.random.default_rng(number)
    weight = torch.from_numpy(rng.standard_normal((4, 3)).astype(np.float32))
    position = rng.standard_normal((2, 5, 2)).astype(np.float32)
    position[0, 1] = np.nan
    return FoldFit(
        fold=FOLDS[number],
        scaler=Scaler(np.array([0.1, np.nan], dtype=np.float32), np.array([1e-30, np.nan], dtype=np.float32)),
        parameters={"cells.weight": weight.T, "windows.bias": torch.tensor([torch.inf, -0.0])},
        kept_epoch=1,
        train_loss=np.array([0.1 + 0.2, -1.0]),
        validation_score=np.array([np.inf, 1.0]),
        validation_position=position,
        skipped_steps=3,
        correlation=0.1 + 0.2 * number,
        seconds=1.5,
        stack=stack,
    )


def test_a_stack_is_read_back_as_it_was_written() -> None:
    store, fits = MemoryStore(), [fit_of(number, (0, 1)) for number in (0, 1)]
    for fit in fits:
        write_fit(store, fit)
    found = read_stack(store, FOLDS[:2])
    assert found is not None
    for fit, again in zip(fits, found, strict=True):
        assert identical(fit, again)
        assert (again.stack, again.seconds) == ((0, 1), 1.5)
        assert again.correlation == fit.correlation
        assert np.array_equal(again.scaler.std, fit.scaler.std, equal_nan=True)
        assert list(again.parameters) == ["cells.weight", "windows.bias"]
    assert sorted(store.pieces) == ["fold-0-of-0-1", "fold-1-of-0-1"]


def test_a_stack_that_lacks_a_fold_or_was_composed_otherwise_is_not_there() -> None:
    store = MemoryStore()
    write_fit(store, fit_of(0, (0, 1)))
    assert read_stack(store, FOLDS[:2]) is None
    write_fit(store, fit_of(1, (0, 1)))
    assert read_stack(store, FOLDS[:2]) is not None
    assert read_stack(store, FOLDS[:1]) is None
    assert read_stack(store, (FOLDS[1], FOLDS[0])) is None
    assert read_stack(store, FOLDS) is None


@pytest.mark.parametrize(
    ("stacks", "asked", "found"),
    [
        ([(0, 1)], (0, 1, 2), (0, 1)),
        ([(0,), (0, 1)], (0, 1, 2), (0, 1)),  # the longest
        ([(0,), (1, 2)], (0, 1, 2), (0,)),
        ([(1, 2)], (0, 1, 2), None),  # begins with another fold
        ([(1, 2)], (1, 2), (1, 2)),
        ([], (0,), None),
    ],
)
def test_a_finished_stack_begins_with_the_first_fold_asked_for(
    stacks: list[tuple[int, ...]], asked: tuple[int, ...], found: tuple[int, ...] | None
) -> None:
    store = MemoryStore()
    for stack in stacks:
        for number in stack:
            write_fit(store, fit_of(number, stack))
    finished = finished_stack(store, [FOLDS[number] for number in asked])
    assert (finished and tuple(fold.index for fold in finished)) == found


def test_a_part_of_a_stack_is_not_finished() -> None:
    store = MemoryStore()
    write_fit(store, fit_of(0, (0, 1)))
    assert finished_stack(store, FOLDS) is None


def test_the_stack_size_noted_last_holds() -> None:
    store = MemoryStore()
    assert read_stack_size(store) is None
    for size in (16, 8, 4):
        write_stack_size(store, size)
        assert read_stack_size(store) == size
    assert read_stack_size(store.within("other")) is None
    assert replace(store, full=True).get("stack-size") == {"stack-size": b"4"}
