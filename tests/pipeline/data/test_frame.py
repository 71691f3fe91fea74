"""From a frame to a panel: renamings, columns known in advance, kinds of values, and every finding in one pass."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from pipeline.data.errors import DataError
from tests.pipeline.data.tables import config, findings, good_table, panel_from_frame, put, same


def test_key_columns_can_be_renamed_and_columns_excluded() -> None:
    renamed = good_table().rename({"date": "day", "symbol": "ticker", "close": "last", "ret_1d": "move"})
    panel = panel_from_frame(
        renamed.with_columns(px_text=pl.lit("x")),
        config(
            time_column="day",
            symbol_column="ticker",
            close_column="last",
            return_column="move",
            exclude=("px_text", "vix_y"),
        ),
    )
    assert same(panel, panel_from_frame(good_table().drop("vix_y"), config()))


def test_known_columns_are_seen_at_the_bar_in_which_the_position_is_held() -> None:
    """With a delay of d the decision of bar t is held over bar t + 1 + d, and x.ahead at t is x at that bar."""
    for delay in (0, 1, 3):
        panel = panel_from_frame(good_table(), config(known=("px_x",)), execution_delay_bars=delay)
        ahead = panel.features[:, :, panel.feature_names.index("px_x.ahead")]
        np.testing.assert_array_equal(ahead[: -1 - delay], panel.features[1 + delay :, :, 0])


def test_booleans_integers_and_empty_columns_are_numbers() -> None:
    frame = good_table().with_columns(
        ban_flag=pl.col("vix_y") == 0, ban_n=pl.col("vix_y").cast(pl.Int8), ban_none=pl.lit(None, dtype=pl.String)
    )
    panel = panel_from_frame(frame, config())
    np.testing.assert_array_equal(panel.features[:, :, 2], panel.features[:, :, 3] == 0)
    assert np.isnan(panel.features[:, :, 4]).all()


def test_times_with_a_zone_are_utc_and_text_is_read() -> None:
    moments = [datetime(2024, 1, 1, 9, 15) + timedelta(minutes=15 * (i // 2)) for i in range(60)]
    plain = good_table().drop("date").with_columns(timestamp=pl.Series(moments))
    india = plain.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kolkata"))
    text = plain.with_columns(pl.col("timestamp").dt.to_string("%Y-%m-%dT%H:%M:%S"))
    expected = panel_from_frame(plain, config())
    assert expected.times[1] == np.datetime64("2024-01-01T09:30")
    assert same(panel_from_frame(india, config()), expected)
    assert same(panel_from_frame(text, config()), expected)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (good_table().drop("date"), "no column date (or timestamp) (the time of each bar)"),
        (good_table().drop("symbol"), "no column symbol (the instrument of each row)"),
        (
            good_table().rename({"symbol": "Symbols"}),
            "no column symbol (the instrument of each row): the nearest is Symbols (--set data.symbol_column=Symbols)",
        ),
        (
            good_table().rename({"symbol": "who"}),
            "no column symbol (the instrument of each row): if it is who, which holds text such as 'A', "
            "--set data.symbol_column=who",
        ),
        (
            good_table().drop("close").rename({"ret_1d": "Returns"}),
            "no column ret_1d (or close) (the return of each bar): the nearest is Returns "
            "(--set data.return_column=Returns)",
        ),
        (
            pl.concat([good_table(), good_table()[57:59]]),
            "2 rows repeat the bar and symbol of an earlier one; first B at 2024-01-29 (row 61): keep one of each",
        ),
        (good_table().clear(), "it has no rows"),
        (good_table().drop("close", "ret_1d"), "no column ret_1d (or close) (the return of each bar)"),
        (
            pl.concat([good_table(), good_table()[57:59]]).sort("date"),
            "2 rows repeat the bar and symbol of an earlier one; first B at 2024-01-29 (row 59): keep one of each",
        ),
        (
            pl.concat([good_table()[2:], good_table()[:2]]),
            "2 rows are earlier than the row before of the same symbol; first A at 2024-01-01 (row 59): "
            "sort the table by time",
        ),
        (
            put(good_table(), "date", 4, None),
            "column date: 1 of 60 values is empty: every row needs a time; first A (row 5)",
        ),
        (
            put(good_table(), "symbol", 4, " "),
            "column symbol: 1 of 60 values is empty: every row needs an instrument; first at 2024-01-03 (row 5)",
        ),
        (
            good_table().with_columns(pl.col("date").cast(pl.String).str.replace("2024-01-03", "2024-01-03 09:15:00")),
            "column date mixes time types: days such as 2024-01-01, and moments such as 2024-01-03 09:15:00: "
            "write all in one way",
        ),
        (
            good_table().with_columns(pl.col("date").cast(pl.String).str.replace("2024-01-03", "3 Jan")),
            "column date: 2 of 60 values cannot be read as a time such as 2026-02-10 or 2026-02-10 09:15:00 "
            "(such as '3 Jan'); first A (row 5)",
        ),
        (
            good_table().with_columns(date=pl.int_range(60)),
            "column date holds whole numbers such as 9, which is no ISO date or time: say how it is written: "
            "--set data.time_format=PATTERN, such as %m/%d/%Y or epoch_s",
        ),
        (
            good_table().with_columns(px_x=pl.lit("high")),
            "column px_x is not numeric: 60 of 60 values are text; first 'high', A at 2024-01-01 (row 1): "
            "convert it or exclude it (data.exclude)",
        ),
        (
            good_table().with_columns(px_x=pl.col("date")),
            "column px_x is not numeric: it holds Date: convert it or exclude it (data.exclude)",
        ),
        (
            put(put(good_table(), "px_x", 3, float("-inf")), "px_x", 8, 1e300),
            "column px_x: 2 of 60 values are infinite: write them as missing; first B at 2024-01-02 (row 4)",
        ),
        (
            put(good_table(), "ret_1d", 9, -1.0),
            "column ret_1d: 1 of 60 values is -1 or less: a loss cannot exceed 100 %; first B at 2024-01-05 (row 10)",
        ),
        (
            put(good_table(), "close", 9, 0.0),
            "column close: 1 of 60 values is 0 or negative: a price is above 0; first B at 2024-01-05 (row 10)",
        ),
        (
            good_table().filter((pl.col("symbol") == "A") | (pl.col("date") < date(2024, 1, 8))),
            "B has 7 bars with a return, an instrument needs 20: remove it or give it a longer history",
        ),
        (good_table().drop("px_x", "vix_y"), "no feature column is left of the table's 4 columns"),
        (
            good_table().rename({"px_x": "px_x.ahead"}),
            "column px_x.ahead ends in .ahead, which is kept for data.known: rename it",
        ),
    ],
)
def test_a_fault_is_one_sentence(frame: pl.DataFrame, expected: str) -> None:
    """A good table with one fault gives exactly the sentence that names column, symbol, bar and count."""
    assert findings(frame) == (expected,)


@pytest.mark.parametrize("clock", ["text", "times"])
@pytest.mark.parametrize("day", ["Date", "date"])
def test_days_and_times_of_day_in_two_columns_are_to_be_joined(day: str, clock: str) -> None:
    """Whether or not the days alone would be taken for the time; where the time says nothing, they are."""
    hours = pl.Series("Time", ["09:15", "15:30"]).str.to_time("%H:%M")
    hours = hours.dt.to_string("%H:%M") if clock == "text" else hours
    twice = pl.concat([good_table().rename({"date": day}).with_columns(Time=pl.lit(hour)) for hour in hours])
    (said,) = findings(twice)
    first = "09:15" if clock == "text" else "09:15:00"
    assert said == (
        f"column Time holds times of day such as {first}, and column {day} the days: join both into one, such as "
        "2026-02-10 09:15:00"
    )
    once = good_table().with_columns(Time=pl.lit(hours[1]))
    assert same(panel_from_frame(once, config()), panel_from_frame(good_table(), config()))


def test_instruments_stamped_at_hours_of_their_own_share_no_bar() -> None:
    """A is stamped at 10:00 and B at 16:00; one after the other, or one every other day, they are bars as any."""
    hours = pl.col("symbol").replace_strict({"A": 10, "B": 16})
    apart = good_table().with_columns(date=pl.col("date").cast(pl.Datetime("us")) + pl.duration(hours=hours))
    assert findings(apart) == (
        "instruments share 0 of the 58 bars on which several could trade, as a bar is one exact time (first B "
        "2024-01-01 16:00:00, then A 2024-01-02 10:00:00): give the rows of one bar the same time, such as the day "
        "alone",
    )
    long = good_table(60).drop("close")
    first_half = pl.col("date") < date(2024, 1, 31)
    assert panel_from_frame(long.filter((pl.col("symbol") == "A") == first_half), config())
    assert panel_from_frame(long.filter((pl.col("symbol") == "A") | (pl.col("date").dt.day() % 2 == 0)), config())


def test_names_in_the_configuration_must_exist() -> None:
    """An absent name is a fault with the nearest existing one, and no column is both known and excluded."""
    assert findings(good_table(), exclude=("px_y",), known=("vix_x", "vix_y")) == (
        "no column px_y (listed in data.exclude): the nearest is px_x",
        "no column vix_x (listed in data.known): the nearest is vix_y",
    )
    assert findings(good_table(), accept=("px_y",)) == ("no column px_y (listed in data.accept): the nearest is px_x",)
    assert findings(good_table(), exclude=("px_x",), known=("px_x",)) == (
        "column px_x is listed in both data.known and data.exclude: take it out of one",
    )


def test_too_few_bars_says_how_many_are_needed() -> None:
    """Bars are counted up to the last return: rows further on only bring columns known in advance."""
    assert panel_from_frame(good_table(), config(), min_bars=30)
    last_unknown = good_table().with_columns(
        ret_1d=pl.when(pl.col("date") < date(2024, 1, 30)).then("ret_1d"), close=None
    )
    assert findings(last_unknown, min_bars=30) == (
        "the table has 29 bars up to the last return, a single fold needs 30: "
        "bring more bars or make the windows shorter",
    )


def test_a_first_close_alone_is_no_return() -> None:
    """21 closes make 20 returns, which is enough; 20 closes do not."""
    closes = good_table(21).drop("ret_1d")
    assert panel_from_frame(closes, config())
    assert [text[:31] for text in findings(closes[:40])] == [
        "A has 19 bars with a return, an",
        "B has 19 bars with a return, an",
    ]


def test_everything_wrong_is_reported_together() -> None:
    """One pass: eight faults of different kinds, eight sentences, one a line in the message."""
    frame = pl.concat([good_table(), good_table()[:1]]).with_columns(px_t=pl.lit("x"), px_u=pl.lit(float("inf")))
    frame = put(put(put(frame, "ret_1d", 1, -2.0), "close", 2, -5.0), "symbol", 3, None)
    with pytest.raises(DataError) as caught:
        panel_from_frame(frame, config(known=("px_v",)), min_bars=100)
    message, found = str(caught.value), caught.value.findings
    for part in (
        "1 row repeats",
        "-1 or less",
        "0 or negative",
        "empty",
        "needs 100",
        "px_t",
        "px_u",
        "px_v",
    ):
        assert sum(part in sentence for sentence in found) == 1, part
    assert len(found) == 8
    assert message.splitlines() == ["table.parquet cannot be used:", *(f"- {sentence}" for sentence in found)]
    assert isinstance(caught.value, ValueError)
