"""A table under its own names, with its own ways of writing: what is meant becomes the panel."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from tft.panel import Panel
from tft.table import TableFormat, find_keys, panel_from_table, read_numbers, read_symbols, usual_key

USUAL = {
    "date": np.array(["2024-01-01", "2024-01-01", "2024-01-02", "2024-01-02"], dtype="datetime64[D]"),
    "symbol": np.array(["A", "B", "A", "B"]),
    "ret_1d": np.array([0.1, -0.1, 0.2, -0.2]),
    "px_x": np.array([1.0, 2.0, 3.0, 4.0]),
}
OWN = {"timestamp": "day", "symbol": "code", "ret_1d": "move"}
TABLE = {"day": USUAL["date"], "code": USUAL["symbol"], "move": USUAL["ret_1d"], "px_x": USUAL["px_x"]}
GIVEN = {"feature_names": ["px_x", "px_x.ahead"], "symbols": ["B", "A"], "known": ["px_x"], "lead_bars": 1}


def same(a: Panel, b: Panel) -> bool:
    return (
        (a.symbols, a.feature_names) == (b.symbols, b.feature_names)
        and np.array_equal(a.times, b.times)
        and np.array_equal(a.features, b.features, equal_nan=True)
        and np.array_equal(a.returns, b.returns, equal_nan=True)
    )


EXPECTED = Panel.from_columns(USUAL, **GIVEN)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Date", "timestamp"),
        ("DATETIME", "timestamp"),
        ("time", "timestamp"),
        ("Time Stamp", "timestamp"),
        ("Ticker", "symbol"),
        ("INSTRUMENT", "symbol"),
        ("asset", "symbol"),
        ("Adj Close", "close"),
        ("adj_close", "close"),
        ("AdjClose", "close"),
        ("Price", "close"),
        ("Ret", "ret_1d"),
        ("Return", "ret_1d"),
        ("ret_1D", "ret_1d"),
        ("px_close", None),
        ("Open", None),
        ("closeness", None),
        ("", None),
    ],
)
def test_usual_names_are_known_in_any_case(name: str, key: str | None) -> None:
    assert usual_key(name) == key


def test_keys_are_those_named_then_those_of_the_contract_then_the_only_usual_name() -> None:
    assert find_keys(["Date", "Ticker", "Adj Close", "px_x"], {}) == (
        {"timestamp": "Date", "symbol": "Ticker", "close": "Adj Close"},
        {},
    )
    assert find_keys(["Date", "date", "timestamp", "Close", "close"], {})[0] == {
        "timestamp": "timestamp",
        "close": "close",
    }
    assert find_keys(["when", "date", "symbol"], {"timestamp": "when"})[0] == {"timestamp": "when", "symbol": "symbol"}
    assert find_keys(["Close", "Adj Close"], {}) == ({}, {"close": ["Close", "Adj Close"]})
    assert find_keys(["Close", "Adj Close"], {"close": "Close"}) == ({"close": "Close"}, {})
    assert find_keys(["price"], {}, features=["price"]) == ({}, {})


def test_a_table_is_read_by_the_names_of_training_or_by_the_usual_ones() -> None:
    """A live table may call its keys as everyone does, though the one trained on did not."""
    for table in (TABLE, USUAL, {"Date": TABLE["day"], "Ticker": TABLE["code"], "RET": TABLE["move"], **TABLE}):
        assert same(panel_from_table(table, table_format=TableFormat(OWN), **GIVEN), EXPECTED)


def test_a_price_that_was_not_there_in_training_does_not_take_the_place_of_one_that_was() -> None:
    """Trained on closes alone: a column of returns that has come since is not read, unless there is no close."""
    closes = {"date": USUAL["date"], "symbol": USUAL["symbol"], "close": np.array([1.0, 2.0, 3.0, 4.0])}
    own = TableFormat({"timestamp": "date", "symbol": "symbol", "close": "close"})
    given = {"feature_names": ["px_x"], "symbols": ["A"], "known": (), "lead_bars": 2}
    both = {**USUAL, **closes}
    assert panel_from_table(both, table_format=own, **given).returns[1, 0] == 2.0
    assert panel_from_table(USUAL, table_format=own, **given).returns[1, 0] == 0.2


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match=r"^the table lacks the columns symbol, px_y$"):
        panel_from_table(
            {name: values for name, values in TABLE.items() if name != "code"},
            table_format=TableFormat(OWN),
            feature_names=["px_y"],
            symbols=["A"],
            known=(),
            lead_bars=2,
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"Ticker": TABLE["code"], "asset": TABLE["code"]}, "Ticker and asset could each be the symbol: name one"),
        ({"code": np.array(["A", " ", "A", "B"])}, r"column code: 1 of 4 values is empty: .*; first in row 2"),
        ({"day": np.array([20240101, 20240101, 20240102, 20240102])}, "column day holds whole numbers such as 2024010"),
        (
            {"day": np.array(["2024-01-01", "x", "2024-01-02", "y"])},
            "column day: 2 of 4 values cannot be read as those of training were",
        ),
        ({"px_x": np.array([1, 2, "high", None], dtype=object)}, "column px_x is not numeric: it holds 'high'"),
        ({"px_x": TABLE["day"]}, "column px_x is not numeric: it holds datetime64"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(changed: dict[str, np.ndarray], message: str) -> None:
    columns = {**TABLE, **changed}
    if "Ticker" in changed:
        del columns["code"]
    with pytest.raises(ValueError, match=message):
        panel_from_table(columns, table_format=TableFormat(OWN), **GIVEN)


def test_every_way_to_hold_the_same_values_gives_the_same_panel() -> None:
    """Nullable and categorical pandas columns, dates with a zone, text with blanks, flags and decimals."""
    day = ["2024-01-01", "2024-01-01", "2024-01-02", "2024-01-02"]
    moments = [datetime.fromisoformat(one).replace(tzinfo=UTC) for one in day]
    ways = {
        "day": [
            day,
            [f"{one}T00:00:00Z" for one in day],
            [f"{one}T05:30:00+05:30" for one in day],
            np.array(moments, dtype=object),
            np.array([date.fromisoformat(one) for one in day], dtype=object),
            pd.Series(pd.to_datetime(day)).dt.tz_localize("UTC").dt.tz_convert("America/New_York"),
        ],
        "code": [["A ", " B", "A", "B"], pd.Series(["A", "B", "A", "B"], dtype="category")],
        "px_x": [
            pd.Series([1, 2, 3, 4], dtype="Int64"),
            np.array([Decimal(1), 2, 3.0, 4], dtype=object),
            np.array([1, 2, 3, 4], dtype=np.int8),
        ],
    }
    for name, columns in ways.items():
        for values in columns:
            table = {**TABLE, name: np.asarray(values)}
            assert same(panel_from_table(table, table_format=TableFormat(OWN), **GIVEN), EXPECTED), (name, values)


def test_what_is_missing_stays_missing() -> None:
    values = np.asarray(pd.Series([1, None, 3, None], dtype="Int64"))
    np.testing.assert_array_equal(read_numbers(values), [1.0, np.nan, 3.0, np.nan])
    np.testing.assert_array_equal(read_numbers(np.array([True, None], dtype=object)), [1.0, np.nan])


def test_symbols_are_text_whatever_they_were() -> None:
    for values in (
        np.array([700, 5]),
        np.array([700.0, 5.0]),
        np.array(["700", " 5"]),
        np.array([700, "5 "], dtype=object),
    ):
        assert read_symbols(values).tolist() == ["700", "5"]
    assert read_symbols(np.array([700.0, np.nan])).tolist() == ["700", ""]
    assert read_symbols(np.asarray(pd.Series(["A", pd.NA], dtype="string"))).tolist() == ["A", ""]
    assert read_symbols(np.array(["0700"])).tolist() == ["0700"]


def test_where_no_symbol_is_known_those_of_the_table_are_named() -> None:
    """Of a CSV that another library read, 0700 is 700."""
    with pytest.raises(ValueError, match=r"^the table holds no row of 0700: its symbols are 700, 5$"):
        panel_from_table(
            {**USUAL, "symbol": np.array([700, 5, 700, 5])},
            table_format=TableFormat(),
            feature_names=["px_x"],
            symbols=["0700"],
            known=(),
            lead_bars=2,
        )


def test_times_are_read_by_the_format_of_training() -> None:
    own = TableFormat(OWN, "%m/%d/%Y")
    text = np.array(["01/01/2024", "01/01/2024", "01/02/2024", "01/02/2024"])
    assert same(panel_from_table({**TABLE, "day": text}, table_format=own, **GIVEN), EXPECTED)
    assert same(panel_from_table(TABLE, table_format=own, **GIVEN), EXPECTED)  # dates proper need no format


def test_offsets_are_subtracted_before_the_cast() -> None:
    """In float32 neighbours near 1e10 are 1024 apart; less 1e10 the four values are themselves, ahead included."""
    big = {**TABLE, "px_x": np.array([10_000_000_001, 10_000_000_002, 10_000_000_003, 10_000_000_004])}
    centred = TableFormat(OWN, offsets={"px_x": 1e10})
    assert same(panel_from_table(big, table_format=centred, **GIVEN), EXPECTED)
    uncentred = panel_from_table(big, table_format=replace(centred, offsets={}), **GIVEN)
    assert len(np.unique(uncentred.features[:, :, 0])) == 1


@pytest.mark.parametrize(
    ("trained", "live", "refused"),
    [
        ("Adj Close", "Close", True),
        ("Adj Close", "close", True),
        ("close", "Price", True),
        ("last", "close", True),
        ("Adj Close", "adj_close", False),
        ("close", "Close", False),
    ],
)
def test_another_price_than_that_of_training_is_refused(trained: str, live: str, refused: bool) -> None:
    """Adjusted and unadjusted closes are two prices; beside the return that is read, the close does not matter."""
    own = TableFormat({"timestamp": "date", "symbol": "symbol", "close": trained})
    keys = {name: USUAL[name] for name in ("date", "symbol", "px_x")}
    table = keys | {live: np.array([1.0, 2.0, 3.0, 4.0])}

    def panel(columns: dict[str, np.ndarray], read: TableFormat) -> Panel:
        return panel_from_table(
            columns, table_format=read, feature_names=["px_x"], symbols=["A", "B"], known=(), lead_bars=2
        )

    if refused:
        with pytest.raises(ValueError, match=f"^column {live} is not the price .* trained on, {trained}: bring"):
            panel(table, own)
    else:
        assert np.isfinite(panel(table, own).returns[1:]).all()
    with_return = TableFormat({**own.columns, "ret_1d": "ret_1d"})
    np.testing.assert_array_equal(
        panel({**table, "ret_1d": USUAL["ret_1d"]}, with_return).returns.ravel(), USUAL["ret_1d"]
    )
