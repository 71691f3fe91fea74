"""Two records bar by bar, against tables worked by hand, plain loops, and the figures that production reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.statistics.paired import earned, fold_pairs, mean_figures, on_the_same_bars, pair
from tests.pipeline.reporting.test_page import small_record
from tft.metrics import sharpe
from tft.positions import Earnings
from tft.record import Record
from tft.volatility import Timing

DAY = np.timedelta64(1, "D")
START = np.datetime64("2024-01-01", "us")


def table(rows: str) -> pl.DataFrame:
    """Lines of `day symbol fold position return pnl segment`, as oos_record.parquet holds them."""
    columns: dict[str, list[Any]] = {name: [] for name in ("time", "symbol", "fold", "position", "return", "pnl")}
    segments = []
    for line in rows.split("\n"):
        if line.strip():
            day, symbol, fold, *numbers, segment = line.split()
            values = [(START + int(day) * DAY).item(), symbol, int(fold), *map(float, numbers)]
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
            segments.append(segment)
    frame = pl.DataFrame(columns | {"segment": segments})
    return frame.with_columns(pl.col("pnl").alias("pnl_gross"), pl.col("position").alias("raw_position"))


# Two instruments; B enters on day 1, misses day 2, and its return of day 3 is not known. Day 4 is in the holdout.
HAND = table(
    """
    0 A 0  0.5  0.02  0.010 development
    1 A 0  0.1  0.01  0.001 development
    1 B 0 -0.2  0.05 -0.010 development
    2 A 0  0.1  0.03  0.003 development
    3 A 1  0.3  0.10  0.030 development
    3 B 1  0.3  nan   nan   development
    4 A 1  0.2  0.10  0.020 holdout
    4 B 1 -0.2  0.10 -0.020 holdout
    """
)


def noise(
    n_bars: int, seed: int, *, first_day: int = 0, fold_bars: int = 20, holdout_from: int | None = None
) -> Record:
    """Two instruments whose returns are the same whatever the seed; positions are not."""
    rng, market = np.random.default_rng(seed), np.random.default_rng(99)
    returns = 0.01 * market.standard_normal((500, 2))[first_day : first_day + n_bars]
    position = rng.uniform(-0.5, 0.5, (n_bars, 2))
    days = np.arange(first_day, first_day + n_bars)
    return Record(
        bars=days,
        times=START + days * DAY,
        symbols=("A", "B"),
        segment=np.where(days < (500 if holdout_from is None else holdout_from), "development", "holdout"),
        fold=np.repeat(np.arange(n_bars)[:, None] // fold_bars, 2, axis=1),
        raw_position=position,
        position=position,
        earned=Earnings(
            held_return=returns,
            gross=position * returns,
            net=position * returns - 1e-4,
            change=np.abs(np.diff(position, axis=0, prepend=0.0)),
        ),
        timing=Timing(),
    )


def read(frame: pl.DataFrame) -> Record:
    return Record.from_columns({name: frame[name].to_numpy() for name in frame.columns}, Timing())


def scaled(record: Record, factor: float) -> Record:
    """The record of one who holds `factor` times these positions."""
    earned = replace(
        record.earned,
        **{name: factor * getattr(record.earned, name) for name in ("net", "gross")},
        change=abs(factor) * record.earned.change,
    )
    return replace(record, position=factor * record.position, earned=earned)


# ---- reading a record


def test_a_table_becomes_arrays_with_gaps() -> None:
    read_back = read(HAND.sample(fraction=1.0, shuffle=True, seed=3))  # the order of its rows does not matter
    nan = np.nan
    assert read_back.symbols == ("A", "B")
    np.testing.assert_array_equal(read_back.times, START + np.arange(5) * DAY)
    assert read_back.segment.tolist() == ["development"] * 4 + ["holdout"]
    np.testing.assert_array_equal(read_back.fold, [[0, -1], [0, 0], [0, -1], [1, 1], [1, 1]])
    np.testing.assert_array_equal(read_back.position, [[0.5, nan], [0.1, -0.2], [0.1, nan], [0.3, 0.3], [0.2, -0.2]])
    np.testing.assert_array_equal(
        read_back.earned.net, [[0.01, nan], [0.001, -0.01], [0.003, nan], [0.03, nan], [0.02, -0.02]]
    )
    # The first change is from flat, as is the one after a bar without a position.
    np.testing.assert_allclose(read_back.earned.change, [[0.5, nan], [0.4, 0.2], [0.0, nan], [0.2, 0.3], [0.1, 0.5]])


def test_a_record_and_its_table_have_the_same_figures() -> None:
    record: Record = small_record(160, holdout_bars=80)
    read_back = read(pl.DataFrame(dict(record.to_columns())))
    np.testing.assert_allclose(read_back.earned.change, record.earned.change)
    other = scaled(read_back, -1.0)
    for segment in ("development", "holdout"):
        # Where all bars are common the comparison says of a run what production says of it.
        arms = pair([read_back], [other], segment)  # type: ignore[arg-type]
        expected = record.performance(segment)  # type: ignore[arg-type]
        assert expected is not None
        names = {"n_bars", "sharpe", "sharpe_gross", "annual_return", "max_drawdown", "turnover", "hit_rate"}
        if segment == "holdout":
            names -= {"turnover"}  # production also counts what it does on the last bars, whose return is not known
        for name in names:
            assert getattr(arms.baseline[0].figures, name) == pytest.approx(getattr(expected, name), rel=1e-12), name


# ---- pairing


def test_only_bars_of_the_segment_that_both_own_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.statistics.paired", "tft.metrics"):
        monkeypatch.setattr(f"{module}.MIN_BARS", 2)
    baseline = read(HAND)
    candidate = read(
        table(
            """
            1 A 7  0.3  0.01  0.003 development
            1 B 7  0.1  0.05  0.005 development
            2 B 7  0.1  0.02  0.002 development
            3 A 7  0.1  0.10  0.010 holdout
            4 A 8  0.2  0.10  0.020 holdout
            5 A 8  0.2  0.10  0.020 holdout
            5 B 8  0.2  0.10  0.020 holdout
            """
        )
    )
    paired = pair([baseline], [candidate], "development")
    # Day 0 is the baseline's alone, day 3 the candidate's holdout. Portfolio: mean over who has a known pnl that day.
    np.testing.assert_array_equal(paired.times, START + np.array([1, 2]) * DAY)
    np.testing.assert_allclose(paired.net(), [[[(0.001 - 0.01) / 2, 0.003]], [[(0.003 + 0.005) / 2, 0.002]]])
    assert paired.n_left_out == 2
    with pytest.raises(ValueError, match="the runs have 1 holdout bars in common"):  # day 4 alone
        pair([baseline], [candidate], "holdout")


def test_other_instruments_are_refused_by_name() -> None:
    other = replace(noise(100, 1), symbols=("A", "C"))
    with pytest.raises(ValueError, match=r"different instruments \(B, C in one of them only\)"):
        pair([noise(100, 0)], [other], "development")


@pytest.mark.parametrize(("first_day", "common"), [(200, 0), (95, 5), (91, 9)])
def test_too_few_common_bars_are_refused(first_day: int, common: int) -> None:
    with pytest.raises(ValueError, match=rf"{common} development bars in common, at least 10 are needed.*holdout=true"):
        pair([noise(100, 0)], [noise(100, 1, first_day=first_day)], "development")


def test_records_without_development_bars_point_to_the_holdout() -> None:
    clean = noise(100, 1, holdout_from=0)
    with pytest.raises(ValueError, match=r"0 development bars in common.*the holdout \(30 bars in common\)"):
        pair([noise(100, 0, holdout_from=70)], [clean], "development")


def test_other_bars_a_year_are_refused() -> None:
    hourly = replace(noise(100, 1), timing=Timing(periods_per_year=1638.0))
    with pytest.raises(
        ValueError, match=r"^the runs have 252 and 1638 periods_per_year: compare runs on the same bars"
    ):
        pair([noise(100, 0)], [hourly], "development")


def test_other_returns_are_refused() -> None:
    shifted = noise(100, 1)
    shifted.earned.held_return[41, 1] += 0.001
    with pytest.raises(ValueError, match=r"^B decided at bar 2024-02-11.*in one run and of .* in the other"):
        pair([noise(100, 0)], [shifted], "development")


def test_several_records_are_cut_to_the_bars_that_all_have() -> None:
    arms = pair([noise(80, 0), noise(80, 1, first_day=5)], [noise(80, 2, first_day=2)], "development")
    np.testing.assert_array_equal(arms.times, START + np.arange(5, 80) * DAY)
    baseline, candidate = arms.net()
    assert baseline.shape == (2, 75) and candidate.shape == (1, 75)
    np.testing.assert_allclose(baseline[0], noise(80, 0).earned.net[5:].mean(axis=1))
    np.testing.assert_allclose(candidate[0], noise(80, 2, first_day=2).earned.net[3:78].mean(axis=1))
    assert arms.n_left_out == 5 + 5


# ---- trainings of one comparison


def test_trainings_that_were_tested_on_other_dates_are_refused() -> None:
    same = [earned(noise(80, seed), "development") for seed in range(3)]
    arms = on_the_same_bars(same[:2], same[2:], "development", 252.0)
    np.testing.assert_array_equal(arms.times, START + np.arange(80) * DAY)
    moved = earned(noise(80, 3, first_day=5), "development")
    with pytest.raises(ValueError, match=r"share 75 of their 85 development test dates \(some of them lack 2024-01-01"):
        on_the_same_bars(same, [moved], "development", 252.0)


def test_a_record_with_too_few_bars_of_the_segment_is_refused() -> None:
    assert len(earned(noise(80, 0, holdout_from=70), "holdout").times) == 10
    with pytest.raises(ValueError, match="the record has 9 holdout bars with a known return, at least 10 are needed"):
        earned(noise(80, 0, holdout_from=71), "holdout")


def test_figures_of_an_arm_are_means_over_its_trainings() -> None:
    own = [earned(noise(80, seed), "development") for seed in range(3)]
    means = mean_figures(own, 0.1)
    assert means.n_bars == 80
    assert means.sharpe == pytest.approx(sum(one.figures.sharpe for one in own) / 3)
    assert means.annual_volatility == pytest.approx(sum(one.figures.annual_volatility for one in own) / 3)


def test_what_depends_on_size_is_at_one_volatility() -> None:
    """A training with three times the positions shows the same figures but for the volatility it realised."""
    record = noise(80, 0)
    found = [mean_figures([earned(one, "development")], 0.1) for one in (record, scaled(record, 3.0))]
    assert found[1].annual_volatility == pytest.approx(3.0 * found[0].annual_volatility)
    for name in ("annual_return", "max_drawdown", "turnover", "sharpe", "hit_rate"):
        assert getattr(found[1], name) == pytest.approx(getattr(found[0], name)), name
    net = np.array(earned(record, "development").net)
    factor = 0.1 / (net.std(ddof=1) * np.sqrt(252.0))
    wealth = np.cumprod(1.0 + factor * net)
    assert found[0].max_drawdown == pytest.approx((wealth / np.maximum.accumulate(np.maximum(wealth, 1.0)) - 1.0).min())
    assert found[0].annual_return == pytest.approx(factor * net.mean() * 252.0)


# ---- what is said of them


def test_turnover_and_drawdown_are_those_of_the_common_bars() -> None:
    baseline, candidate = noise(80, 0), noise(80, 1, first_day=5)
    arms = pair([baseline], [candidate], "development")
    changes, worst, highest, wealth = 0.0, 0.0, 1.0, 1.0
    for t in range(5, 80):
        for asset in range(2):
            changes += abs(baseline.position[t, asset] - baseline.position[t - 1, asset])
        wealth *= 1.0 + (baseline.earned.net[t, 0] + baseline.earned.net[t, 1]) / 2
        highest = max(highest, wealth)
        worst = min(worst, wealth / highest - 1.0)
    assert arms.baseline[0].figures.turnover == pytest.approx(changes / (75 * 2) * 252)
    assert arms.baseline[0].figures.max_drawdown == pytest.approx(worst)


def test_folds_are_compared_on_the_bars_that_both_own() -> None:
    # Same blocks: one line a fold, with the Sharpe of the whole block.
    baseline, candidate = noise(60, 0), noise(60, 1)
    rows = fold_pairs(pair([baseline], [candidate], "development"))
    assert [(row.baseline, row.candidate, row.n_bars) for row in rows] == [(0, 0, 20), (1, 1, 20), (2, 2, 20)]
    assert (rows[1].first[:10], rows[1].last[:10]) == ("2024-01-21", "2024-02-09")
    assert rows[1].sharpe_candidate == pytest.approx(
        sharpe(candidate.earned.net[20:40].mean(axis=1), periods_per_year=252), rel=1e-12
    )
    # Blocks that a gap has moved by 5 bars: 15 of 20 bars remain; the 5 of neighbouring folds are too few for a line.
    moved = noise(60, 1, first_day=5)
    rows = fold_pairs(pair([baseline], [moved], "development"))
    assert [(row.baseline, row.candidate, row.n_bars) for row in rows] == [(0, 0, 15), (1, 1, 15), (2, 2, 15)]
    assert rows[0].sharpe_baseline == pytest.approx(
        sharpe(baseline.earned.net[5:20].mean(axis=1), periods_per_year=252), rel=1e-12
    )
