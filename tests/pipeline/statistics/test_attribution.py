"""Contributions add up, and each row is what a loop over its cells gives."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.reading import from_json, to_json
from pipeline.statistics.attribution import (
    Attribution,
    By,
    Judged,
    attribution,
    concentration,
    drawdowns,
    market_volatility,
)
from pipeline.statistics.estimate import sharpe_estimate
from tests.pipeline.statistics.records import random_record
from tft.metrics import max_drawdown
from tft.record import Record
from tft.volatility import Timing, ewm_volatility

PARTITIONS: tuple[By, ...] = ("instrument", "side", "year", "month", "volatility")


def taken_apart(record: Record, returns: np.ndarray, segment: Judged) -> Attribution:
    found = attribution(record, returns, segment)
    assert found is not None
    return found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_bars=st.integers(150, 300),
    n_assets=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_the_parts_of_every_partition_add_up_to_the_portfolio(
    seed: int, n_bars: int, n_assets: int, missing: float
) -> None:
    record, returns = random_record(n_bars, n_assets, n_holdout=n_bars // 2, seed=seed, missing=missing)
    for segment in get_args(Judged):
        found = taken_apart(record, returns, segment)
        rows = record.segment == segment
        net, gross = record.net()[rows], record.gross()[rows]
        assert found.total.net.value == pytest.approx(np.nansum(net), abs=1e-12)
        assert found.total.cost == pytest.approx(np.nansum(gross) - np.nansum(net), abs=1e-12)
        for by in PARTITIONS:
            parts = found.by(by)
            assert sum(part.net.value for part in parts) == pytest.approx(np.nansum(net), abs=1e-12), by
            assert sum(part.cost for part in parts) == pytest.approx(found.total.cost, abs=1e-12), by
        for by in ("instrument", "side"):  # exposures are means over bars that a side shares with the whole
            weights = [part.n_bars / found.total.n_bars for part in found.by(by)]
            for name in ("gross_exposure", "net_exposure", "turnover"):
                parts_of = [getattr(part, name) for part in found.by(by)]
                assert np.dot(weights, parts_of) == pytest.approx(getattr(found.total, name), abs=1e-12)
        for by in ("year", "month", "volatility"):
            assert sum(part.n_bars for part in found.by(by)) == found.total.n_bars


def test_each_row_is_what_a_loop_over_its_cells_gives() -> None:
    record, returns = random_record(260, 3, n_holdout=200)
    found = taken_apart(record, returns, "holdout")
    volatility = market_volatility(returns, Timing())
    judged = [row for row in range(260) if record.segment[row] == "holdout" and np.isfinite(record.net()[row])]
    order = sorted(volatility[record.bars[row]] for row in judged)

    def belongs(by: str, name: str, row: int, asset: int) -> bool:
        position, day = record.position[row, asset], str(record.times[row])
        third = sum(volatility[record.bars[row]] > limit for limit in np.quantile(order, [1 / 3, 2 / 3]))
        return {
            "instrument": record.symbols[asset] == name,
            "side": name == ("long" if position > 0 else "short" if position < 0 else "flat"),
            "year": day[:4] == name,
            "month": day[:7] == name,
            "volatility": name.startswith(("calm", "middle", "wild")[third]),
        }[by]

    for part in found.parts:
        net = {}
        for row in judged:
            known = [asset for asset in range(3) if np.isfinite(record.earned.net[row, asset])]
            mine = [asset for asset in known if belongs(part.by, part.name, row, asset)]
            if mine or part.by == "side":
                net[row] = sum(record.earned.net[row, asset] for asset in mine) / len(known)
        assert part.n_bars == len(net) and part.net.value == pytest.approx(sum(net.values()), abs=1e-12)
        expected = sharpe_estimate(np.array(list(net.values())), periods_per_year=252.0)
        if part.name == "flat":  # it pays for closing positions and earns nothing
            expected = None
        assert (part.sharpe is None) == (expected is None)
        if part.sharpe and expected:
            assert part.sharpe.value == pytest.approx(expected.value)
            assert part.sharpe.standard_error == pytest.approx(expected.standard_error)
    assert {part.by for part in found.parts} == set(PARTITIONS)
    assert [part.name for part in found.by("side")] == ["long", "short", "flat"]
    thirds = [part.n_bars for part in found.by("volatility")]
    assert len(thirds) == 3 and max(thirds) - min(thirds) <= 1


def test_the_volatility_of_a_bar_is_known_at_that_bar() -> None:
    """It is that of the equally weighted market up to the bar, whatever comes later."""
    _, returns = random_record()
    plain = market_volatility(returns, Timing())
    np.testing.assert_allclose(
        plain, np.sqrt(252.0) * ewm_volatility(returns.mean(axis=1, keepdims=True))[:, 0], rtol=1e-12
    )
    later = returns.copy()
    later[301:] *= 50.0
    np.testing.assert_array_equal(market_volatility(later, Timing())[:301], plain[:301])


def test_bars_without_a_known_volatility_have_a_row_of_their_own() -> None:
    """The panel's first returns do not give one."""
    record, returns = random_record(100, 2, n_holdout=90)
    returns[:70] = np.nan
    found = taken_apart(record, returns, "holdout")
    assert found.by("volatility")[-1].name == "not known"
    assert sum(part.net.value for part in found.by("volatility")) == pytest.approx(found.total.net.value)


def test_a_segment_without_bars_has_no_attribution() -> None:
    record, returns = random_record(60, 2, n_holdout=9)
    assert attribution(record, returns, "holdout") is None
    assert attribution(record, returns, "development") is not None


def test_drawdowns_worked_by_hand() -> None:
    """Equity 1.1, 1.045, 1.1495, 1.03455, 1.06, 1.15, 1.149: below the high at bars 1, 3-4 and 6."""
    equity = np.array([1.0, 1.1, 1.045, 1.1495, 1.03455, 1.06, 1.15, 1.149])
    times = np.array([f"2024-01-0{day}" for day in range(1, 8)], dtype="datetime64[us]")
    found = drawdowns(equity[1:] / equity[:-1] - 1.0, times)
    day = [f"2024-01-0{number}T00:00:00.000000" for number in range(8)]
    assert [(one.start, one.trough, one.recovery, one.n_bars, one.n_bars_to_trough) for one in found] == [
        (day[4], day[4], day[6], 2, 1),
        (day[2], day[2], day[3], 1, 1),
        (day[7], day[7], None, 1, 1),
    ]
    assert [one.depth for one in found] == pytest.approx([-0.1, -0.05, -0.001 / 1.15])


def test_the_deepest_drawdown_is_the_one_that_is_reported_elsewhere() -> None:
    """A record that loses from its first bar is below the 1 it began with."""
    for seed in range(5):
        net = 0.01 * np.random.default_rng(seed).standard_normal(200)
        times = np.datetime64("2024-01-01", "us") + np.arange(200) * np.timedelta64(1, "D")
        found = drawdowns(net, times)
        assert found[0].depth == pytest.approx(max_drawdown(net))
        assert all(one.depth < 0.0 for one in found)
    rising = drawdowns(np.full(200, 0.01), times)
    assert rising == ()
    assert drawdowns(np.array([-0.1]), times[:1])[0].start == str(times[0])


def test_the_best_bars_worked_by_hand() -> None:
    found = concentration(np.array([0.03, -0.01, 0.02, 0.01, -0.02]), n_best=2)
    assert (found.best, found.worst, found.total) == pytest.approx((0.05, -0.03, 0.03))
    assert found.share == pytest.approx(5.0 / 3.0)
    assert concentration(np.array([-0.03, 0.01, 0.02, -0.01, -0.02]), n_best=2).share is None


def test_the_best_bars_of_normal_returns_are_what_is_expected_of_them() -> None:
    """The mean over samples of the best ten of 500."""
    rng = np.random.default_rng(0)
    samples = [concentration(0.001 + 0.01 * rng.standard_normal(500)) for _ in range(400)]
    best, expected = (np.mean([getattr(one, name) for one in samples]) for name in ("best", "best_if_normal"))
    assert best == pytest.approx(expected, rel=0.01)


def test_it_survives_being_stored() -> None:
    record, returns = random_record()
    found = taken_apart(record, returns, "development")
    assert from_json(Attribution, to_json(found)) == found
