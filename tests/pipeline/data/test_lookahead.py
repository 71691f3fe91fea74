"""A function that looks ahead is caught with every column and bar; one that does not is cleared."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from pipeline.data.lookahead import ROW, Comparison, compare_prefixes, load_function, write_cells

N_BARS = 60
FIRST = date(2024, 1, 1)


@pytest.fixture
def prices() -> pl.DataFrame:
    """60 bars of A and B; B begins on bar 10."""
    rng = np.random.default_rng(0)
    rows = [
        {"date": FIRST + timedelta(days=bar), "symbol": symbol, "close": 100.0 + rng.normal()}
        for bar in range(N_BARS)
        for symbol in ("A", "B")
        if symbol == "A" or bar >= 10
    ]
    return pl.DataFrame(rows)


CLOSE = pl.col("close")


def per_symbol(**columns: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda prices: prices.select(
        "date", "symbol", **{name: expression.over("symbol") for name, expression in columns.items()}
    )


def day(bar: int) -> str:
    return str(FIRST + timedelta(days=bar))


def changed(found: Comparison, column: str) -> set[tuple[str, str]]:
    """(day, symbol) of the cells that change, read from the table of all cells."""
    rows = found.cells.filter(pl.col(column)).select(pl.col("time").cast(pl.Date).cast(pl.String), "symbol")
    return set(rows.rows())  # type: ignore[arg-type]


PREFIX_ENDS = sorted({*(int(60 * i / 11) - 1 for i in range(1, 11)), 56, 57, 58})
"""Last bars of ten evenly spread prefixes, and of those that lack one, two and three bars."""


@pytest.mark.parametrize(
    "honest",
    [
        per_symbol(mean=CLOSE.rolling_mean(5), change=CLOSE.diff(), best=CLOSE.cum_max()),
        per_symbol(z=(CLOSE - CLOSE.rolling_mean(10)) / CLOSE.rolling_std(10)),
        per_symbol(smooth=CLOSE.ewm_mean(span=10), up=CLOSE.diff() > 0.0),
        lambda prices: per_symbol(mean=CLOSE.rolling_mean(5))(prices).drop_nulls(),  # rows that are never there
        lambda prices: prices.to_pandas().assign(x=lambda p: p.groupby("symbol")["close"].diff()),
        lambda prices: prices.to_pandas().set_index(["date", "symbol"])[["close"]] * 2.0,
        lambda prices: prices.lazy().select("date", "symbol", x=CLOSE.log()),
        lambda prices: prices.select(pl.col("date").cast(pl.Datetime("ns", "UTC")), "symbol", x=CLOSE.sqrt()),
        lambda prices: prices.sort("symbol", "date").select("symbol", "date", name=pl.col("symbol") + "!"),
    ],
)
def test_an_honest_function_is_cleared(prices: pl.DataFrame, honest: Callable[[pl.DataFrame], Any]) -> None:
    """Polars or pandas, lazy or indexed, in any order, with numbers, flags or text."""
    found = compare_prefixes(honest, prices)
    assert found.changes == ()
    assert found.n_prefixes == len(PREFIX_ENDS) == 13
    assert found.cells.is_empty()


def test_a_centred_mean_is_caught_at_the_end_of_every_prefix(prices: pl.DataFrame) -> None:
    """The last two bars of a prefix have no value yet, and have one later; the other column is not named."""
    function = per_symbol(fine=CLOSE.diff(), centred=CLOSE.rolling_mean(5, center=True))
    found = compare_prefixes(function, prices)
    (change,) = found.changes
    late = {bar for end in PREFIX_ENDS for bar in (end - 1, end) if bar < N_BARS - 2}
    expected = {(day(bar), "A") for bar in late if bar >= 2} | {(day(bar), "B") for bar in late if bar >= 12}
    assert changed(found, "centred") == expected
    assert change.column == "centred" and change.n_values == len(expected)
    assert (change.first_bar, change.first_symbol) == (day(3), "A")
    assert change.prefix_end == day(4) and change.on_prefix == "missing"
    assert float(change.with_all_bars) == pytest.approx(
        prices.filter(pl.col("symbol") == "A")["close"][1:6].mean(), rel=1e-5
    )


def test_a_full_sample_z_score_is_caught_everywhere(prices: pl.DataFrame) -> None:
    """Each value that some prefix holds: all but those of the last bar."""
    found = compare_prefixes(per_symbol(z=(CLOSE - CLOSE.mean()) / CLOSE.std()), prices)
    (change,) = found.changes
    assert changed(found, "z") == set(
        prices.filter(pl.col("date") < pl.lit(FIRST + timedelta(days=N_BARS - 1)))
        .select(pl.col("date").cast(pl.String), "symbol")
        .rows()
    )
    assert (change.column, change.n_values) == ("z", N_BARS - 1 + N_BARS - 1 - 10)
    assert (change.first_bar, change.first_symbol) == (day(0), "A")
    assert change.on_prefix != change.with_all_bars


def test_tomorrow_is_caught_though_its_rows_were_dropped(prices: pl.DataFrame) -> None:
    """The last bar of each prefix is missing, and is there once the next bar is known."""
    found = compare_prefixes(lambda p: per_symbol(next=CLOSE.shift(-1))(p).drop_nulls(), prices)
    row, column = found.changes
    assert (row.column, row.on_prefix, row.with_all_bars) == (ROW, "missing", "there")
    assert column.column == "next"
    ends = {(day(end), symbol) for end in PREFIX_ENDS for symbol in "AB" if symbol == "A" or end >= 10}
    assert changed(found, "next") == changed(found, ROW) == ends


def test_only_the_last_bars_are_enough(prices: pl.DataFrame) -> None:
    """A value of the last bar but one of the whole table that only the last bar changes."""

    def late(table: pl.DataFrame) -> pl.DataFrame:
        ends = table["date"].max() == FIRST + timedelta(days=N_BARS - 1)
        penultimate = pl.col("date") == FIRST + timedelta(days=N_BARS - 2)
        return table.select("date", "symbol", x=pl.when(penultimate & ends).then(1.0).otherwise(0.0))

    found = compare_prefixes(late, prices)
    assert changed(found, "x") == {(day(N_BARS - 2), "A"), (day(N_BARS - 2), "B")}


def test_a_column_that_comes_later_is_a_change(prices: pl.DataFrame) -> None:
    """Dummies of what occurs in the table: with more bars there are more of them."""

    def dummies(table: pl.DataFrame) -> pl.DataFrame:
        return table.select("date", "symbol", s=pl.col("symbol")).to_dummies("s")

    found = compare_prefixes(dummies, prices)
    assert {change.column for change in found.changes} == {"s_B"}
    assert changed(found, "s_B") == {(day(bar), "A") for bar in range(10)}


@pytest.mark.parametrize(("relative", "is_caught"), [(1e-9, False), (1e-4, True)])
def test_rounding_is_no_change(prices: pl.DataFrame, relative: float, is_caught: bool) -> None:
    """A value that moves with the number of rows by this much of itself; the limit is a millionth."""
    found = compare_prefixes(lambda p: p.select("date", "symbol", x=CLOSE * (1.0 + relative * len(p))), prices)
    assert bool(found.changes) is is_caught


def test_infinite_values_are_compared(prices: pl.DataFrame) -> None:
    """Equal infinities are equal; one that was finite is not."""
    assert compare_prefixes(lambda p: p.select("date", "symbol", x=CLOSE * 0.0 + np.inf), prices).changes == ()
    found = compare_prefixes(
        lambda p: p.select("date", "symbol", x=CLOSE + (np.inf if len(p) == len(prices) else 0.0)), prices
    )
    assert [change.with_all_bars for change in found.changes] == ["inf"]


def test_every_cell_can_be_written(prices: pl.DataFrame, tmp_path: Path) -> None:
    found = compare_prefixes(per_symbol(a=CLOSE, b=CLOSE.mean(), c=CLOSE.shift(-1)), prices)
    write_cells(found, str(tmp_path / "cells.csv"))
    written = pl.read_csv(tmp_path / "cells.csv")
    assert written.columns == ["time", "symbol", "column"]
    counts = dict(written.group_by("column").len().rows())
    assert counts == {change.column: change.n_values for change in found.changes}
    assert counts.keys() == {"b", "c"}
    with pytest.raises(ValueError, match=r"cells.xlsx must end in .csv"):
        write_cells(found, "cells.xlsx")


def raises_early(prices: pl.DataFrame) -> pl.DataFrame:
    if len(prices) < 50:
        raise KeyError("needs more\nbars")
    return prices


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raises_early, r"the function fails on the bars up to 2024-01-05: KeyError: 'needs more\\nbars'"),
        (lambda prices: None, "the function returns NoneType on the whole table: a polars or pandas table is needed"),
        (lambda prices: prices.drop("symbol"), "on the whole table has no column symbol: return the key columns too"),
        (lambda prices: prices.drop("date"), "has no column date or timestamp"),
        (lambda prices: prices.select("date", "symbol"), "has no column beside date and symbol"),
        (lambda prices: prices.head(0), "what the function returns on the whole table has no rows"),
        (lambda prices: pl.concat([prices, prices]), "several rows of one bar and symbol, first A at 2024-01-01"),
        (lambda prices: prices.with_columns(pl.col("date").cast(pl.String)), "holds String: it must hold dates"),
        (
            lambda prices: prices.with_columns(date=pl.when(CLOSE < 100).then("date")),
            "column date of what the function returns on the whole table has .* empty values",
        ),
        (
            lambda prices: prices.with_columns(x=pl.Series(np.random.default_rng().random(len(prices)))),
            "other values when called again with the same table: seed what is random",
        ),
    ],
)
def test_a_function_that_cannot_be_judged_is_a_sentence(
    prices: pl.DataFrame, function: Callable[[pl.DataFrame], Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        compare_prefixes(function, prices)


def test_a_function_that_reads_its_own_file_is_found_out(prices: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"up to 2024-01-05, the function returns one of 2024-02-29: it does not"):
        compare_prefixes(lambda given: prices, prices)


@pytest.mark.parametrize(
    ("change", "n_prefixes", "said"),
    [
        (lambda prices: prices, 9, "9 prefixes show too little: take at least 10"),
        (lambda prices: prices, 31, "the table has 60 bars, 31 prefixes need at least 62"),
        (lambda prices: prices.drop("date"), 10, "the table has no column date or timestamp"),
        (lambda prices: prices.drop("symbol"), 10, "the table has no column symbol"),
    ],
)
def test_a_table_that_cannot_serve_is_a_sentence(
    prices: pl.DataFrame, change: Callable[[pl.DataFrame], pl.DataFrame], n_prefixes: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        compare_prefixes(lambda given: given, change(prices), n_prefixes=n_prefixes)


def test_the_function_cannot_change_what_the_next_prefix_gets(prices: pl.DataFrame) -> None:
    """A pandas user works on a copy."""
    before = prices.clone()

    def careless(given: pl.DataFrame) -> pd.DataFrame:
        table = given.to_pandas()
        table["close"] = table["close"] * 2.0
        return table

    assert compare_prefixes(careless, prices).changes == ()
    assert prices.equals(before)


# Finding the function


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    return tmp_path


def test_a_module_of_the_current_folder_is_found(folder: Path) -> None:
    (folder / "own_features_found.py").write_text("def build(prices):\n    return prices\n")
    assert load_function("own_features_found:build")(1) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "source", "said"),
    [
        ("own_features", "", "'own_features' names no function: write module:function"),
        ("own_features_none:f", None, "module own_features_none cannot be imported from .*: ModuleNotFoundError: No m"),
        ("own_features_bad:f", "def f(:\n", r"own_features_bad cannot be imported from .*: SyntaxError: "),
        ("own_features_dies:f", "\n1 / 0\n", r"ZeroDivisionError: division by zero \(own_features_dies.py, line 2\)"),
        ("own_features_other:f", "def g(p): ...\nX = 1\n", "module own_features_other has no function f: it has g"),
        ("own_features_value:X", "X = 1\n", "module own_features_value has no function X: it has none"),
    ],
)
def test_a_function_that_is_not_there_is_a_sentence(
    folder: Path, reference: str, source: str | None, said: str
) -> None:
    if source is not None:
        (folder / f"{reference.partition(':')[0]}.py").write_text(source)
    with pytest.raises(ValueError, match=said):
        load_function(reference)
