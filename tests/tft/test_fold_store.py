"""Finished fits in a store: what is written is read back to the last bit, by the stack it was trained in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tft.fitting import FOLDS, MemoryStore, identical
from tft.fold_store import FoldFit, finished_stack, read_stack, read_stack_size, write_fit, write_stack_size
from tft.folds import Fold
from tft.scaling import Scaler
from tft.train import MAX_STACK

Stack = tuple[tuple[int, int], ...]
BOTH: Stack = ((0, 7), (1, 7))


def members(stack: Stack) -> list[tuple[Fold, int]]:
    return [(FOLDS[number], seed) for number, seed in stack]


def fit_of(number: int, seed: int, stack: Stack) -> FoldFit:
    """Arbitrary numbers, among them what is hard to keep: NaN, infinity, the last bit, a tensor that is a view."""
    rng = np.random.default_rng([number, seed])
    weight = torch.from_numpy(rng.standard_normal((4, 3)).astype(np.float32))
    position = rng.standard_normal((2, 5, 2)).astype(np.float32)
    position[0, 1] = np.nan
    return FoldFit(
        fold=FOLDS[number],
        seed=seed,
        scaler=Scaler(np.array([0.1, np.nan], dtype=np.float32), np.array([1e-30, np.nan], dtype=np.float32)),
        parameters={"cells.weight": weight.T, "windows.bias": torch.tensor([torch.inf, -0.0])},
        kept_epoch=1,
        train_loss=np.array([0.1 + 0.2, -1.0]),
        validation_score=np.array([np.inf, 1.0]),
        validation_position=position,
        skipped_steps=3,
        correlation=0.25,
        seconds=1.5,
        stack=stack,
    )


def test_a_stack_is_read_back_as_it_was_written() -> None:
    stack = ((0, 7), (1, 7), (0, 8))
    store, fits = MemoryStore(), [fit_of(number, seed, stack) for number, seed in stack]
    for fit in fits:
        write_fit(store, fit)
    found = read_stack(store, members(stack))
    assert found is not None
    for fit, again in zip(fits, found, strict=True):
        assert identical(fit, again)
        assert (again.stack, again.seed, again.seconds, again.correlation) == (stack, fit.seed, 1.5, 0.25)
        assert np.array_equal(again.scaler.std, fit.scaler.std, equal_nan=True)
        assert list(again.parameters) == ["cells.weight", "windows.bias"]
    names = [name.rpartition("-") for name in store.pieces]
    assert [name for name, *_ in names] == ["fold-0-seed-7-of-3", "fold-1-seed-7-of-3", "fold-0-seed-8-of-3"]
    assert len({of_stack for *_, of_stack in names}) == 1


def test_the_name_of_the_largest_stack_with_long_seeds_is_a_file_name() -> None:
    store, stack = MemoryStore(), tuple((1, 10**18 + number) for number in range(MAX_STACK))
    write_fit(store, fit_of(*stack[-1], stack))
    assert max(len(name) for name in store.pieces) < 100


def test_a_stack_that_lacks_a_fold_or_was_composed_otherwise_is_not_there() -> None:
    store = MemoryStore()
    write_fit(store, fit_of(0, 7, BOTH))
    assert read_stack(store, members(BOTH)) is None
    write_fit(store, fit_of(1, 7, BOTH))
    assert read_stack(store, members(BOTH)) is not None
    others: list[Stack] = [BOTH[:1], BOTH[::-1], (*BOTH, (2, 7)), ((0, 7), (1, 8)), ((0, 8), (1, 8)), ((0, 71),)]
    for other in others:
        assert read_stack(store, members(other)) is None


@pytest.mark.parametrize(
    ("stacks", "asked", "found"),
    [
        (["0a 1a"], "0a 1a 2a", 2),
        (["0a", "0a 1a"], "0a 1a 2a", 2),  # the longest
        (["0a", "1a 2a"], "0a 1a 2a", 1),
        (["1a 2a"], "0a 1a 2a", 0),  # begins with another fold
        (["1a 2a"], "1a 2a", 2),
        (["0a 0b 1a"], "0a 0b 1a 1b", 3),
        (["0a 0b"], "0a 1a", 0),  # stacked with another seed
        (["0b"], "0a", 0),
        ([], "0a", 0),
    ],
)
def test_a_finished_stack_begins_with_the_first_fold_and_seed_asked_for(
    stacks: list[str], asked: str, found: int
) -> None:
    """Members as fold and seed: 0a is fold 0 with seed 7, 1b is fold 1 with seed 8."""

    def read(text: str) -> Stack:
        return tuple((int(member[0]), "ab".index(member[1]) + 7) for member in text.split())

    store = MemoryStore()
    for stack in map(read, stacks):
        for member in stack:
            write_fit(store, fit_of(*member, stack))
    assert finished_stack(store, members(read(asked))) == found


def test_a_part_of_a_stack_is_not_finished() -> None:
    store = MemoryStore()
    write_fit(store, fit_of(0, 7, BOTH))
    assert finished_stack(store, members(BOTH)) == 0


def test_the_stack_size_noted_last_holds() -> None:
    store = MemoryStore()
    assert read_stack_size(store) is None
    for size in (16, 8, 4):
        write_stack_size(store, size)
        assert read_stack_size(store) == size
    assert read_stack_size(store.within("other")) is None
    assert replace(store, full=True).get("stack-size") == {"stack-size": b"4"}
