"""Randomisation tests against literal cases and their own levels.

A comment above an assertion states the rule it checks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.statistics.significance import admissible_shifts, monte_carlo_p_value, sequential_p_value

Array = NDArray[np.float64]


# ---- p-values


@given(st.integers(1, 500).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))))
def test_monte_carlo_p_value_counts_the_observed_one(case: tuple[int, int]) -> None:
    b, m = case
    assert monte_carlo_p_value(b, m) == (b + 1) / (m + 1)


def test_sequential_p_value_examples() -> None:
    # Stopped at the h-th exceedance: h / draws. Not stopped: (b + 1) / (m + 1).
    stopped = sequential_p_value([False, True, False, True, True], 2, 19)
    assert (stopped.p_value, stopped.n_used) == (2 / 4, 4)
    full = sequential_p_value([False] * 18 + [True], 5, 19)
    assert (full.p_value, full.n_used) == (2 / 20, 19)
    # The h-th exceedance at the very last draw stops.
    last = sequential_p_value([False] * 18 + [True], 1, 19)
    assert (last.p_value, last.n_used) == (1 / 19, 19)


def test_sequential_p_value_draws_no_more_than_it_needs() -> None:
    drawn = []

    def draws() -> Iterator[bool]:
        for i in itertools.count():
            drawn.append(i)
            yield i % 3 == 2

    assert sequential_p_value(draws(), 2, 99).n_used == len(drawn) == 6
    drawn.clear()
    assert sequential_p_value(draws(), 99, 10).n_used == len(drawn) == 10


def test_sequential_p_value_keeps_its_level() -> None:
    # Under the null the observed value is one more draw: P(p <= alpha) <= alpha, with equality where p can be alpha.
    rng = np.random.default_rng(21)
    p = np.array([sequential_p_value(rng.random(39) >= rng.random(), 4, 39).p_value for _ in range(20_000)])
    for alpha in (0.025, 0.05, 0.1, 0.2, 0.5):
        assert np.mean(p <= alpha) == pytest.approx(alpha, abs=5 * math.sqrt(alpha / 20_000))


# ---- admissible shifts


@pytest.mark.parametrize(
    ("n_bars", "lookback", "window", "horizon", "expected"),
    [
        (1000, 252, 63, 2, range(316, 685)),
        (632, 252, 63, 2, range(316, 317)),
        (631, 252, 63, 2, range(0)),
        (100, 0, 1, 1, range(1, 100)),
        (10, 252, 63, 2, range(0)),
    ],
)
def test_admissible_shifts_table(n_bars: int, lookback: int, window: int, horizon: int, expected: range) -> None:
    shifts = admissible_shifts(n_bars, lookback=lookback, window=window, horizon=horizon)
    assert shifts == expected
    assert len(shifts) == len(expected)


@given(st.integers(1, 80), st.integers(1, 10), st.integers(1, 6), st.integers(1, 4))
def test_an_admissible_shift_hides_every_label_from_its_own_features(
    n_bars: int, lookback: int, window: int, horizon: int
) -> None:
    def meets(shift: int) -> bool:
        remembered = {-i % n_bars for i in range(window - 1 + lookback)}  # bars behind the features of decision bar 0
        return any((j - shift) % n_bars in remembered for j in range(1, horizon + 1))

    shifts = admissible_shifts(n_bars, lookback=lookback, window=window, horizon=horizon)
    assert not any(meets(shift) for shift in shifts)
    # One bar less would let them meet.
    assert not shifts or meets(shifts.start - 1)
