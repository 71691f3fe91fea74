"""Cores that are lent: every part is done once, on other threads only while somebody waits."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.tft.kernels.operations import OPERATIONS
from tft.kernels.cpu import compiling, select
from tft.runtime import lent_cores
from tft.runtime.lent_cores import lend, share

pytestmark = pytest.mark.alone


class Lender:
    """A thread that lends its core until the end of the block."""

    def __enter__(self) -> None:
        self._end, lent = threading.Event(), threading.Event()

        def wait() -> None:
            with lend():
                lent.set()
                self._end.wait()

        self._thread = threading.Thread(target=wait)
        self._thread.start()
        lent.wait()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@pytest.mark.parametrize(("n", "multiple", "n_lenders"), [(1, 1, 2), (7, 1, 0), (7, 1, 1), (200, 64, 1), (200, 64, 9)])
def test_parts_make_up_the_whole(n: int, multiple: int, n_lenders: int) -> None:
    """Each number once, parts but the last whole multiples, no more of them than there are cores."""
    parts: list[tuple[int, int]] = []
    lenders = [Lender() for _ in range(n_lenders)]
    for lender in lenders:
        lender.__enter__()
    try:
        share(n, lambda first, stop: parts.append((first, stop)), multiple=multiple)
    finally:
        for lender in lenders:
            lender.__exit__()
    assert sorted(number for first, stop in parts for number in range(first, stop)) == list(range(n))
    assert all((stop - first) % multiple == 0 or stop == n for first, stop in parts)
    assert len(parts) <= min(1 + n_lenders, lent_cores.MAX_PARTS)


def test_two_parts_run_at_the_same_time_where_a_core_is_lent() -> None:
    """Two parts that wait for each other end only if both run at once."""
    meeting = threading.Barrier(2, timeout=10)
    with Lender():
        share(2, lambda first, stop: meeting.wait() and None)
    assert not meeting.broken


def test_a_core_that_is_given_back_is_not_used_any_more_and_one_that_is_not_can_be_used_again() -> None:
    def threads() -> int:
        seen: list[int] = []
        share(2, lambda first, stop: seen.append(stop - first))
        return len(seen)

    with Lender():
        assert [threads(), threads()] == [2, 2]
    assert threads() == 1


def test_an_error_in_a_part_arrives_and_the_core_is_given_back() -> None:
    def fails(first: int, stop: int) -> None:
        if first:
            raise ValueError("a part")

    with Lender(), pytest.raises(ValueError, match=r"^a part$"):
        share(2, fails)


@pytest.mark.skipif(compiling.unavailable() is not None, reason="no native code")
def test_a_selection_gives_the_same_bits_with_and_without_a_lent_core() -> None:
    """Forward and backward, several blocks of cells, the last not whole, with dropout."""
    operation = OPERATIONS["select"]
    given = operation.inputs(1, 5, 150, 20, 0.3)
    alone = operation.run(select, *given)
    with Lender():
        shared = operation.run(select, *given)
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one, other)
