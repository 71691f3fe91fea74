"""Looks are told apart by what they saw and what they earned; every rule is compared with a plain loop."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.statistics.looks import (
    MIN_COMMON_BARS,
    HoldoutRecord,
    correlations,
    recipes,
    share_an_instrument,
)
from tests.pipeline.reporting.test_page import small_record

DAYS = np.datetime64("2024-01-01", "us") + np.arange(400) * np.timedelta64(1, "D")
MARKET = 0.01 * np.random.default_rng(5).standard_normal((400, 3))


def holdout(
    seed: int = 0,
    bars: slice = slice(0, 120),
    *,
    symbols: tuple[str, ...] = ("A", "B", "C"),
    noise: float = 0.0,
    market: NDArray[np.float64] = MARKET,
) -> HoldoutRecord:
    """What recipe `seed` earned on one market; `noise` is what another machine adds, relative to what it earned."""
    rng = np.random.default_rng(100 + seed)
    net = (rng.uniform(-1, 1, market.shape) * market).mean(axis=1)
    if noise:
        net = net + noise * net.std() * np.random.default_rng(7).standard_normal(len(net))
    return HoldoutRecord(DAYS[bars], symbols, market[bars], net[bars])


def plain_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Of the pairs that are known; NaN for fewer than 21 of them."""
    pairs = [(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(pairs) < 21:
        return math.nan
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def test_correlations_are_those_of_a_loop_over_pairs_of_known_bars() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 4)) + 3.0, rng.standard_normal((60, 3))
    y[:, 1] = 0.5 * x[:, 2] + 1e-3 * y[:, 1]
    x[rng.random(x.shape) < 0.3] = np.nan
    y[rng.random(y.shape) < 0.3] = np.nan
    x[20:, 3] = np.nan  # fewer than 21 known
    expected = [[plain_correlation(a, b) for b in y.T] for a in x.T]
    assert_allclose(correlations(x, y), expected, rtol=0, atol=1e-12)
    assert np.isnan(expected[3]).all() and expected[2][1] > 0.99


@pytest.mark.parametrize("constant", [0.0, 0.1])
def test_what_does_not_move_correlates_with_nothing(constant: float) -> None:
    """Although the mean of many equal numbers is not quite that number."""
    x = np.stack([np.full(60, constant), np.random.default_rng(0).standard_normal(60)], axis=1)
    found = correlations(x, x)
    assert np.isnan(found[0]).all() and np.isnan(found[:, 0]).all() and found[1, 1] == pytest.approx(1.0)


# ---- the same holdout


def test_an_instrument_is_itself_under_any_name() -> None:
    renamed = holdout(symbols=("X", "Y", "Z"))
    assert share_an_instrument(holdout(), renamed) is True
    assert share_an_instrument(holdout(), replace(renamed, returns=renamed.returns[:, [2, 0, 1]])) is True


def test_one_instrument_in_common_is_enough_and_an_equal_name_is_not() -> None:
    other = 0.01 * np.random.default_rng(6).standard_normal((400, 3))
    assert share_an_instrument(holdout(), holdout(market=other)) is False  # the same names
    other[:, 1] = MARKET[:, 2]
    assert share_an_instrument(holdout(), holdout(market=other)) is True


@pytest.mark.parametrize(("correlation", "same"), [(0.995, True), (0.98, False)])
def test_the_limit_is_a_correlation_of_0_99(correlation: float, same: bool) -> None:
    """Two instruments with exactly this correlation on the bars in common."""
    rng = np.random.default_rng(1)
    one, noise = (series - series.mean() for series in rng.standard_normal((2, 120)))
    noise -= one * (one @ noise) / (one @ one)
    other = correlation * one / one.std() + math.sqrt(1 - correlation**2) * noise / noise.std()
    assert plain_correlation(one, other) == pytest.approx(correlation)
    records = [HoldoutRecord(DAYS[:120], ("A",), x[:, None], np.zeros(120)) for x in (one, other)]
    assert share_an_instrument(*records) is same


def test_a_month_of_common_bars_is_needed() -> None:
    """With one bar fewer, or if the instruments never trade on the same ones, it cannot be told."""
    assert MIN_COMMON_BARS == 21
    one = holdout(bars=slice(0, 100))
    assert share_an_instrument(one, holdout(bars=slice(79, 200))) is True
    assert share_an_instrument(one, holdout(bars=slice(80, 200))) is None
    first, second = one.returns.copy(), one.returns.copy()
    first[::2], second[1::2] = np.nan, np.nan
    assert share_an_instrument(replace(one, returns=first), replace(one, returns=second)) is None


def test_daily_bars_are_matched_by_date_and_others_by_time() -> None:
    """A table that writes dates and one that writes the time of the close; minutes and days cannot be compared."""
    closes = replace(holdout(), times=holdout().times + np.timedelta64(15 * 60 + 30, "m"))
    assert share_an_instrument(holdout(), closes) is True
    hours = replace(holdout(), times=DAYS[0] + np.arange(120) * np.timedelta64(1, "h"))
    assert share_an_instrument(hours, hours) is True
    assert share_an_instrument(hours, replace(hours, times=hours.times + np.timedelta64(30, "m"))) is None
    assert share_an_instrument(hours, holdout()) is None


# ---- the same recipe


def naive_recipes(records: list[HoldoutRecord | None]) -> tuple[int, ...]:
    """Pair by pair with dictionaries, then labels spread until nothing changes."""
    labels = list(range(len(records)))
    alike = []
    for i, j in combinations(range(len(records)), 2):
        one, other = records[i], records[j]
        if one is None or other is None:
            continue
        nets = [dict(zip(r.times.tolist(), r.net.tolist(), strict=True)) for r in (one, other)]
        common = sorted(nets[0].keys() & nets[1].keys())
        x, y = (np.array([net[time] for time in common], dtype=np.float64) for net in nets)
        if plain_correlation(x, y) > 0.999:
            alike.append((i, j))
    for _ in records:
        for i, j in alike:
            labels[i] = labels[j] = min(labels[i], labels[j])
    order = list(dict.fromkeys(labels))
    return tuple(order.index(label) for label in labels)


def test_recipes_are_those_of_a_loop() -> None:
    """Recipes 0 to 3 again and again, on other bars, with gaps, with machine noise, and without a record."""
    rng = np.random.default_rng(2)
    records: list[HoldoutRecord | None] = []
    for number in range(40):
        start, length = int(rng.integers(0, 200)), int(rng.integers(10, 150))
        one = holdout(number % 4, slice(start, start + length), noise=1e-3 * float(rng.random()))
        net = one.net.copy()
        net[rng.random(len(net)) < 0.1] = np.nan
        records.append(None if number % 9 == 8 else replace(one, net=net))
    found = recipes(records)
    assert found == naive_recipes(records)
    assert 4 < len(set(found)) < 20
    assert len({found[i] for i, record in enumerate(records) if record is None}) == 4


def test_machines_and_days_are_one_recipe_and_a_column_is_another() -> None:
    """What rounding leaves, another scale, newer bars; another column; nothing known."""
    again, larger = holdout(0, noise=1e-4), replace(holdout(0), net=3.0 * holdout(0).net)
    newer = holdout(0, slice(20, 200))
    assert recipes([holdout(0), again, holdout(1), larger, None, newer, None]) == (0, 0, 1, 0, 2, 0, 3)
    assert recipes([]) == ()


def test_two_that_are_like_a_third_are_one() -> None:
    """The first and the last have no bar in common."""
    chain = [holdout(0, slice(0, 100)), holdout(0, slice(100, 200)), holdout(0, slice(60, 140))]
    assert recipes(chain[:2]) == (0, 1)
    assert recipes(chain) == (0, 0, 0)


def test_recipes_that_never_hold_anything_are_one() -> None:
    flat = replace(holdout(), net=np.zeros(120))
    unknown = replace(holdout(), net=np.full(120, np.nan))
    assert recipes([flat, holdout(0), flat, unknown, unknown]) == (0, 1, 0, 2, 3)


# ---- a record's own bars


def test_a_record_is_kept_by_the_bar_in_which_it_was_earned() -> None:
    """One bar of delay: what is decided at bar t is earned at bar t + 2."""
    record = small_record(160, holdout_bars=100)
    times = np.datetime64("2000-01-01", "us") + np.arange(record.bars[-1] + 3) * np.timedelta64(1, "D")
    seen = HoldoutRecord.of(record, record.segment == "holdout", times)
    rows = np.flatnonzero((record.segment == "holdout") & np.isfinite(record.net()))
    assert record.timing.delay_bars == 1
    assert_array_equal(seen.times, [times[record.bars[row] + 2] for row in rows])
    assert_array_equal(seen.net, record.net()[rows])
    assert_array_equal(seen.returns, record.earned.held_return[rows])


def test_what_is_earned_after_the_last_known_time_is_left_out() -> None:
    record = small_record(160, holdout_bars=100)
    own = replace(record, bars=np.arange(len(record.bars)))
    days_after = record.times[-1] + np.arange(1, 3) * np.timedelta64(1, "D")
    whole = HoldoutRecord.of(own, np.ones(160, dtype=bool), np.append(record.times, days_after))
    read_back = HoldoutRecord.of(own, np.ones(160, dtype=bool), record.times)
    known = whole.times <= record.times[-1]
    assert_array_equal(read_back.times, whole.times[known])
    assert_array_equal(read_back.net, whole.net[known])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"net": np.zeros(119)}, "120 bars and 3 instruments has returns of shape"),
        ({"symbols": ("A", "B")}, "120 bars and 2 instruments has returns of shape"),
        ({"times": DAYS[:120][::-1]}, "not strictly increasing"),
        ({"times": np.repeat(DAYS[:60], 2)}, "not strictly increasing"),
    ],
)
def test_what_does_not_belong_together_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(holdout(), **changes)  # type: ignore[arg-type]


def test_looks_of_one_name_are_one_recipe_whatever_they_earned() -> None:
    """A version compared week after week on bars that no two of its looks share."""
    assert recipes([None, None, None, None], ["a", None, "a", None]) == (0, 1, 0, 2)
