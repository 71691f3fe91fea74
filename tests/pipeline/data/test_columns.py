"""What each column of somebody's table is taken for, and what is left out, centred or refused."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.data.dataset import load_panel
from pipeline.data.frame import read_frame
from tests.pipeline.data.tables import config, findings, good_table, panel_from_frame, same

OWN_NAMES = {"date": "Date", "symbol": "Ticker", "close": "Adj Close"}


def notes(frame: pl.DataFrame, **options: object) -> list[tuple[str, str]]:
    return [(note.check, note.where) for note in read_frame(frame, config(**options)).notes]


def test_usual_names_in_any_case_are_the_keys_and_it_is_said() -> None:
    closes = good_table().drop("ret_1d")
    read = read_frame(closes.rename(OWN_NAMES), config())
    assert same(read.panel, panel_from_frame(closes, config()))
    (note,) = read.notes
    assert (note.severity, note.where) == ("note", "table")
    assert note.message == "Date is taken for the time, Ticker for the instrument, Adj Close for the close"
    assert read.format.columns == {"timestamp": "Date", "symbol": "Ticker", "close": "Adj Close"}
    assert not read_frame(good_table(), config()).notes


def test_where_two_columns_are_meant_alike_the_line_to_type_is_said() -> None:
    frame = good_table().drop("ret_1d").rename(OWN_NAMES).with_columns(Close=pl.col("Adj Close") * 2)
    assert findings(frame) == (
        'Adj Close and Close could each be the close: choose by --set data.close_column="Adj Close" or '
        "--set data.close_column=Close",
    )
    chosen = read_frame(frame, config(close_column="Adj Close"))
    assert same(chosen.panel, panel_from_frame(good_table().drop("ret_1d"), config()))
    assert [note.where for note in chosen.notes] == ["table", "column Close"]


def test_a_price_that_is_not_taken_is_said_with_both_remedies() -> None:
    frame = good_table().drop("ret_1d").with_columns(pl.col("close").alias("Adj Close") / 2)
    (note,) = read_frame(frame, config()).notes
    assert (note.where, note.message) == (
        "column Adj Close",
        "left out, its name is usual for the close of a row, for which close is taken here; to take it instead, "
        'data.close_column="Adj Close"; to keep it as a feature, data.accept=["Adj Close"]',
    )


def test_a_column_that_is_named_is_not_silently_another() -> None:
    (said,) = findings(good_table(), symbol_column="tikcer")
    assert said == (
        "no column tikcer (the instrument of each row): the nearest is symbol (--set data.symbol_column=symbol)"
    )


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_row_index_that_a_program_wrote_is_no_feature(tmp_path: Path, name: str, suffix: str) -> None:
    """Whatever its values: of a table that was filtered or shuffled they are not even in order."""
    shuffled = pl.Series(name, np.random.default_rng(0).integers(0, 10_000, 60))
    frame = good_table().insert_column(0, shuffled)
    getattr(frame, f"write_{suffix}")(tmp_path / f"t.{suffix}")
    data = load_panel(config(tmp_path / f"t.{suffix}"))
    assert same(data.panel, panel_from_frame(good_table(), config()))
    (note,) = data.notes
    assert note.where == (f"column {name}" if name else "a column without a name")
    assert "left out, a row index" in note.message


def test_a_counter_under_another_name_is_no_feature_unless_somebody_says_so() -> None:
    rows = good_table().with_columns(
        n_row=pl.int_range(5, 65),
        n_shuffled=pl.Series(np.random.default_rng(0).permutation(60)),
        n_bar=pl.int_range(60).floordiv(2) * 0.5,
        n_day=pl.col("date").dt.strftime("%Y%m%d").cast(pl.Int64),
        n_epoch=pl.col("date").cast(pl.Datetime("us")).dt.epoch("s"),
        n_alternating=pl.int_range(60) % 2,
        n_trend=pl.int_range(60).floordiv(2) + pl.int_range(60) % 2 * 0.25,
        n_moving=pl.int_range(60) * 1.5 + pl.int_range(60) % 3,
    )
    counting = ["n_row", "n_shuffled", "n_bar", "n_day", "n_epoch", "n_trend"]
    read = read_frame(rows, config())
    assert [note.where for note in read.notes] == [f"column {name}" for name in counting]
    assert read.panel.feature_names == ("px_x", "vix_y", "n_alternating", "n_moving")
    kept = read_frame(rows, config(accept=tuple(counting)))
    assert set(counting) < set(kept.panel.feature_names)
    assert [note.check for note in kept.notes] == ["large numbers"]  # n_day


def test_whole_numbers_beyond_float32_keep_their_variation() -> None:
    """330 levels around 1e10: in float32 they are one; less their first value they are 330 again."""
    level = np.tile(np.arange(330) * 7 % 331, 2)
    days = [date(2024, 1, 1) + timedelta(days=i % 330) for i in range(660)]
    frame = pl.DataFrame(
        {
            "date": days,
            "symbol": ["A"] * 330 + ["B"] * 330,
            "ret_1d": np.full(660, 0.001),
            "lvl_b": 10_000_000_000 + level,
            "lvl_small": level,
            "lvl_volume": np.random.default_rng(0).integers(10**8, 10**10, 660),
        }
    ).sort("date", "symbol")
    read = read_frame(frame, config())
    assert len(np.unique(np.float32(frame["lvl_b"].to_numpy()))) == 1
    values = {name: read.panel.features[:, :, i] for i, name in enumerate(read.panel.feature_names)}
    assert len(np.unique(values["lvl_b"])) == 330
    np.testing.assert_array_equal(np.diff(values["lvl_b"], axis=0), np.diff(values["lvl_small"], axis=0))
    assert read.format.offsets == {"lvl_b": float(frame["lvl_b"][0])}  # a volume loses nothing that matters
    assert [(note.check, note.where) for note in read.notes] == [("large numbers", "column lvl_b")]


def test_levels_too_far_apart_to_be_centred_together_are_said() -> None:
    far = pl.when(pl.col("symbol") == "A").then(10**10).otherwise(3 * 10**10) + pl.col("vix_y")
    (note,) = read_frame(good_table().with_columns(lvl_b=far), config()).notes
    assert note.severity == "warning"
    assert "they still differ too much between instruments" in note.message


def test_symbols_are_text_whatever_file_they_come_from(tmp_path: Path) -> None:
    """0700 in a CSV keeps its zero; whole numbers in a Parquet file are their digits."""
    frame = good_table(symbols=("0005", "0700"))
    frame.rename({"symbol": "Ticker"}).write_csv(tmp_path / "t.csv")
    assert load_panel(config(tmp_path / "t.csv")).panel.symbols == ("0005", "0700")
    frame.with_columns(pl.col("symbol").cast(pl.Int64)).write_parquet(tmp_path / "t.parquet")
    assert load_panel(config(tmp_path / "t.parquet")).panel.symbols == ("5", "700")
    frame[:40].write_parquet(tmp_path / "part-1.parquet")
    frame[40:].with_columns(pl.col("symbol").cast(pl.Categorical)).write_parquet(tmp_path / "part-2.parquet")
    assert load_panel(config(tmp_path / "part-*.parquet")).panel.symbols == ("0005", "0700")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("time_format", ["%m/%d/%Y", "%Y%m%d", "epoch_s"])
def test_times_in_a_format_of_their_own_are_one_sentence_and_one_setting(
    tmp_path: Path, time_format: str, suffix: str
) -> None:
    frame = good_table()
    day = pl.col("date").dt
    written = day.epoch("s") if time_format == "epoch_s" else day.strftime(time_format)
    other = frame.with_columns(date=written.cast(pl.Int64) if time_format == "%Y%m%d" else written)
    getattr(other, f"write_{suffix}")(tmp_path / f"t.{suffix}")
    source = tmp_path / f"t.{suffix}"
    with pytest.raises(ValueError) as caught:
        load_panel(config(source))
    _, sentence = str(caught.value).splitlines()
    assert f'--set data.time_format="{time_format}"' in sentence
    data = load_panel(config(source, time_format=time_format))
    assert same(data.panel, panel_from_frame(frame, config()))
    assert data.format.time_format == time_format
