"""The sample table: what it promises, checked from the written files alone, with pandas."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from pipeline.data.sample import Truth, planted_columns, write_sample

GROUPS = {"pvol", "inst", "brd", "fii", "mktact", "micro", "nfo", "nsevol", "settle"} | {
    *("opt", "optx", "intra", "px", "fut", "vix", "ban", "crypto")
}
SYMBOLS = ["NIFTY", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, Truth]:
    path = tmp_path_factory.mktemp("sample") / "sample.parquet"
    truth = write_sample(path)
    return pl.read_parquet(path), truth


def features_of(frame: pl.DataFrame) -> list[str]:
    return frame.columns[4:]


def test_full_size_has_the_shape_of_the_reference(full: tuple[pl.DataFrame, Truth]) -> None:
    """600 bars, 4 instruments, 17 groups, more than 300 columns; weekdays, sorted, each (bar, symbol) once."""
    frame, _ = full
    assert frame.columns[:4] == ["date", "symbol", "close", "ret_1d"]
    assert frame.schema["date"] == pl.Date
    assert frame["date"].n_unique() == 600
    assert set(frame["symbol"]) == set(SYMBOLS)
    assert {name.split("_")[0] for name in features_of(frame)} == GROUPS
    assert len(features_of(frame)) >= 300
    assert frame["date"].dt.weekday().max() <= 5
    assert frame["date"].is_sorted()
    assert not frame.select("date", "symbol").is_duplicated().any()


def test_a_naive_prefilter_keeps_exactly_the_honest_columns(full: tuple[pl.DataFrame, Truth]) -> None:
    """Constant, > 50 % missing in every instrument, |r| > 0.999999 with a column that has more data: pair by pair."""
    frame, truth = full
    table = frame.to_pandas()
    names = features_of(frame)
    alive = [
        name
        for name in names
        if table[name].nunique() > 1 and table[name].isna().groupby(table["symbol"]).mean().min() <= 0.5
    ]
    alive.sort(key=lambda name: -table[name].count())
    correlation = table[alive].astype(float).corr().abs().to_numpy()
    kept: list[int] = []
    for i in range(len(alive)):
        if not (correlation[i, kept] > 0.999999).any():
            kept.append(i)
    survivors = {alive[i] for i in kept}
    assert survivors == set(names) - set(truth.degenerate)
    assert len(survivors) == 276
    assert {reason.split()[0] for reason in truth.degenerate.values()} == {"constant", "more", "copy", "linear"}


def test_close_and_return_agree_and_series_have_gaps(full: tuple[pl.DataFrame, Truth]) -> None:
    """ret_1d is the change against the symbol's previous row; an instrument begins late, others have gaps."""
    frame, _ = full
    dates = frame["date"].unique().sort().to_list()
    for symbol in SYMBOLS:
        rows = frame.filter(pl.col("symbol") == symbol)
        close, returns = rows["close"].to_list(), rows["ret_1d"].to_list()
        assert returns[0] is None
        expected = [after / before - 1.0 for before, after in pairwise(close)]
        np.testing.assert_allclose(returns[1:], expected, rtol=1e-9)
    first = frame.group_by("symbol").agg(pl.col("date").min(), pl.len())
    begin = dict(zip(first["symbol"], first["date"], strict=True))
    count = dict(zip(first["symbol"], first["len"], strict=True))
    assert begin["NIFTY"] == dates[0]
    assert begin["MIDCPNIFTY"] >= dates[75]
    assert count["NIFTY"] == 600
    assert count["BANKNIFTY"] < 600
    late = [name for name in features_of(frame) if frame[name][:100].null_count() == 100]
    assert late


def test_returns_have_fat_tails_clusters_correlation_and_no_drift(tmp_path: Path) -> None:
    """On 8,000 bars: kurtosis above 5, |r| autocorrelated, returns not, instruments correlated, mean within 3 s.e."""
    write_sample(tmp_path / "a.parquet", n_bars=8000, n_features=5, n_degenerate=0)
    wide = pd.read_parquet(tmp_path / "a.parquet").pivot(index="date", columns="symbol", values="ret_1d").dropna()
    assert (wide.kurt() + 3 > 5).all()
    absolute = wide.abs()
    for symbol in wide.columns:
        assert absolute[symbol].autocorr(10) > 0.08
        assert abs(wide[symbol].autocorr(1)) < 0.05
        assert abs(wide[symbol].mean()) < 3 * wide[symbol].sem()
    off_diagonal = wide.corr().to_numpy()[~np.eye(4, dtype=bool)]
    assert (off_diagonal > 0.3).all()
    assert (off_diagonal < 0.9).all()


def oracle_pnl(path: Path) -> pd.DataFrame:
    """What signal / sigma earned, bar by symbol, rebuilt from table and truth with pandas' own rolling machinery."""
    truth: dict[str, Any] = json.loads(path.with_suffix(".truth.json").read_text())
    wide = pd.read_parquet(path).pivot(index="date", columns="symbol")
    signal = sum(weight * wide[column].astype(float) for column, weight in truth["planted"].items())
    sigma = wide["ret_1d"].ewm(span=60, min_periods=20).std()
    return signal / sigma * wide["ret_1d"].shift(-1 - truth["execution_delay_bars"])


def annual_sharpe(pnl: pd.Series) -> float:
    return float(pnl.mean() / pnl.std() * np.sqrt(252))


@pytest.mark.parametrize(("asked", "delay"), [(2.0, 1), (8.0, 1), (4.0, 0), (4.0, 3)])
def test_oracle_earns_what_was_asked(tmp_path: Path, asked: float, delay: int) -> None:
    """Over 20,000 bars (79 years) the oracle's Sharpe is the one asked for, within three standard errors (0.34)."""
    path = tmp_path / "long.parquet"
    sizes = {"n_bars": 20_000, "n_features": 5, "n_degenerate": 0, "seed": 3}
    truth = write_sample(path, oracle_sharpe=asked, execution_delay_bars=delay, **sizes)
    pnl = oracle_pnl(path)
    everyone = pnl.dropna().mean(axis=1)
    assert annual_sharpe(everyone) == pytest.approx(asked, abs=0.34)
    assert truth.oracle_sharpe_realised == pytest.approx(
        annual_sharpe(pnl.dropna(how="all").fillna(0).mean(axis=1)), rel=0.01
    )
    # Every instrument carries its share: the portfolio of four earns about twice what one of them does.
    assert ((pnl.mean() / pnl.std() * np.sqrt(252)) > asked / 2 - 0.34).all()


def test_oracle_is_nothing_one_bar_too_early(tmp_path: Path) -> None:
    """The signal of bar t acts on bar t + 1 + delay and, by its persistence 0.9 alone, on the bars around it."""
    path = tmp_path / "long.parquet"
    write_sample(path, n_bars=20_000, n_features=5, n_degenerate=0, oracle_sharpe=8.0)
    wide = pd.read_parquet(path).pivot(index="date", columns="symbol")
    weights = json.loads(path.with_suffix(".truth.json").read_text())["planted"]
    signal = sum(weight * wide[column].astype(float) for column, weight in weights.items())
    strength = [(signal * wide["ret_1d"].shift(-lead) / wide["ret_1d"].std()).mean().mean() for lead in range(5)]
    assert np.argmax(strength) == 2
    np.testing.assert_allclose(np.array(strength) / strength[2], [0.81, 0.9, 1.0, 0.9, 0.81], atol=0.06)


@pytest.mark.parametrize("asked", [0.0, 8.0])
def test_only_planted_columns_predict(tmp_path: Path, asked: float) -> None:
    """t-statistic of the mean over symbols of (column x next held return): planted far out, no other beyond chance.

    For the others the planted part is taken out of the return first: two persistent series, however unrelated, drift
    together for a while, and the t-statistic of their product knows nothing of that.
    """
    path = tmp_path / "a.parquet"
    truth = write_sample(path, n_bars=3000, n_degenerate=0, oracle_sharpe=asked)
    wide = pd.read_parquet(path).pivot(index="date", columns="symbol")
    held = (wide["ret_1d"] / wide["ret_1d"].ewm(span=60, min_periods=20).std().shift(2)).shift(-2)
    signal = sum((weight * wide[column].astype(float) for column, weight in truth.planted.items()), 0.0 * held)
    rest = held - truth.signal_strength * signal

    def t_statistic(name: str, target: pd.DataFrame) -> float:
        values = wide[name].astype(float)
        product = ((values - values.mean()) / values.std() * target).mean(axis=1).dropna()
        return float(product.mean() / product.sem())

    assert len(truth.planted) == (5 if asked else 0)
    assert all(t_statistic(name, held) * np.sign(weight) > 6 for name, weight in truth.planted.items())
    others = wide.columns.get_level_values(0).unique().difference(["close", "ret_1d", *truth.planted])
    # 271 columns: the largest of that many normal variates stays below 4.
    assert max(abs(t_statistic(name, rest)) for name in others) < 4.0


def test_signal_of_each_instrument_is_its_own_and_persistent(tmp_path: Path) -> None:
    """Planted columns: AR(1) with 0.9, variance 1, independent of each other and between instruments; weights unit."""
    path = tmp_path / "a.parquet"
    truth = write_sample(path, n_bars=10_000, n_features=5, n_degenerate=0, oracle_sharpe=1.0)
    wide = pd.read_parquet(path).pivot(index="date", columns="symbol")[list(truth.planted)].dropna().astype(float)
    correlation = wide.corr().to_numpy()
    assert np.abs(correlation - np.eye(20)).max() < 0.15
    np.testing.assert_allclose(wide.std(), 1.0, atol=0.1)
    np.testing.assert_allclose([wide[column].autocorr(1) for column in wide.columns], 0.9, atol=0.02)
    assert sum(weight**2 for weight in truth.planted.values()) == pytest.approx(1.0)


def test_same_arguments_same_table_another_seed_another(tmp_path: Path) -> None:
    """Bit for bit; and prices do not depend on how many features are asked for."""
    sizes = {"n_bars": 120, "n_features": 30, "n_degenerate": 4}
    frames = [
        pl.read_parquet(tmp_path / f"{i}.parquet")
        for i, more in enumerate([{}, {}, {"seed": 8}, {"n_features": 12}])
        if write_sample(tmp_path / f"{i}.parquet", **(sizes | more))
    ]
    assert frames[0].equals(frames[1])
    assert not frames[0]["close"].equals(frames[2]["close"])
    assert frames[0]["close"].equals(frames[3]["close"])
    assert (tmp_path / "0.truth.json").read_text() == (tmp_path / "1.truth.json").read_text()


@pytest.mark.parametrize("suffix", [".csv", ".arrow"])
def test_other_formats_hold_the_same_table(tmp_path: Path, suffix: str) -> None:
    sizes = {"n_bars": 60, "n_features": 20, "n_degenerate": 4}
    write_sample(tmp_path / "a.parquet", **sizes)
    write_sample(tmp_path / f"a{suffix}", **sizes)
    read = pl.read_ipc if suffix == ".arrow" else pl.read_csv
    expected = pl.read_parquet(tmp_path / "a.parquet")
    table = read(tmp_path / f"a{suffix}")
    assert table.columns == expected.columns
    for name in expected.columns[2:]:
        np.testing.assert_allclose(table[name].cast(pl.Float64), expected[name].cast(pl.Float64), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_bars": 10}, "n_bars is 10"),
        ({"n_symbols": 99}, "n_symbols is 99"),
        ({"n_features": 4}, "n_features is 4, it must lie between 5"),
        ({"n_features": 9999}, "n_features is 9999"),
        ({"n_features": 5, "n_degenerate": 1}, "n_degenerate is 1"),
        ({"oracle_sharpe": -1.0}, "oracle_sharpe is -1"),
        ({"oracle_sharpe": 50.0}, "4 instruments carry less than"),
    ],
)
def test_sizes_that_cannot_be_had_are_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_sample(tmp_path / "a.parquet", **arguments)
    assert not list(tmp_path.iterdir())


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name it \.parquet, \.csv or \.arrow"):
        write_sample(tmp_path / "a.xlsx")


def test_planted_columns_are_those_of_the_truth_beside_the_table(tmp_path: Path) -> None:
    """A table without a signal has none, nor has one that was not made here, whatever its source is called."""
    planted = write_sample(tmp_path / "planted.parquet", n_bars=50, oracle_sharpe=2.0).planted
    write_sample(tmp_path / "noise.parquet", n_bars=50)
    assert planted_columns(str(tmp_path / "planted.parquet")) == set(planted) and len(planted) == 5
    for other in (str(tmp_path / "noise.parquet"), str(tmp_path / "*.parquet"), "s3://bucket/planted.parquet", "given"):
        assert planted_columns(other) == frozenset()
