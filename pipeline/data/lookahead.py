"""A test of whether a user's own feature code looks ahead.

The function is called with the price table up to some bar, as it stood when that bar had closed, and again with all of
it. A feature of bar t is known once bar t has closed, so later bars must not change it; where they do, the function
looks ahead. Whether it reads anything beside the table it is given is not tested.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from pipeline.data.given import polars_frame

FeatureCode = Callable[[pl.DataFrame], Any]

RELATIVE_TOLERANCE = 1e-6
"""Relative to the larger of two values: float32 columns are rounded to about this."""
ABSOLUTE_TOLERANCE = 1e-12
"""Relative to the largest value of the column: sums of floats in another order differ by less."""
LAST_BARS = 3
"""This many more prefixes are tried, which lack only the last bar, the last two, and so on: they show code that treats
the last bars differently."""
TIME, SYMBOL, ROW = "time", "symbol", "(row)"
_ON_PREFIX = ".on_prefix"


@dataclass(frozen=True)
class Change:
    """A column whose values at some bars depend on bars after them."""

    column: str
    """Name of the column; ROW where later bars decide whether the row is there at all."""
    n_values: int
    """Number of values, one per (bar, symbol), that change."""
    first_bar: str
    first_symbol: str
    prefix_end: str
    """Last bar of a prefix on which that first value differs."""
    on_prefix: str
    """The value computed from that prefix."""
    with_all_bars: str
    """The value computed from the whole table."""


@dataclass(frozen=True)
class Comparison:
    """A function's values on prefixes of a table, compared with its values on the whole table."""

    changes: tuple[Change, ...]
    """The columns that look ahead, in the order of the function's columns."""
    cells: pl.DataFrame
    """(time, symbol, one boolean per column): whether the value changes. Rows without any change are left out."""
    n_prefixes: int
    n_columns: int
    n_rows: int


def load_function(reference: str) -> FeatureCode:
    """The function that `module:function` names; the current folder is searched too. Raises ValueError without it."""
    module_name, separator, name = reference.partition(":")
    if not separator or not module_name or not name:
        raise ValueError(f"{reference!r} names no function: write module:function, such as my_features:build")
    here = str(Path.cwd())
    if here not in sys.path:  # first, as with `python -m`: the user's module may import what lies beside it
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise ValueError(f"module {module_name} cannot be imported from {here}: {_reason(error)}") from None
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"module {module_name} has no function {name}: it has {', '.join(own) or 'none'}")
    return function  # type: ignore[no-any-return]


def compare_prefixes(function: FeatureCode, prices: pl.DataFrame, *, n_prefixes: int = 10) -> Comparison:
    """Call `function` on prefixes of the table and on all of it, and compare the bars that they share.

    `prices` has the columns `date` or `timestamp`, and `symbol`, one row per (bar, instrument); a prefix has all rows
    up to a bar. There are `n_prefixes` evenly spread ones, and LAST_BARS that lack only the last bars. The function
    returns a polars or pandas table with the same two key columns. A value changes if it differs by more than
    RELATIVE_TOLERANCE times itself plus ABSOLUTE_TOLERANCE times the largest of its column, or if it is missing in one
    of the two. Raises ValueError for a function that cannot be judged: it fails, returns something that is not such a
    table, or returns other values when called again.
    """
    if n_prefixes < 10:
        raise ValueError(f"{n_prefixes} prefixes show too little: take at least 10")
    key = _time_column(prices.columns, "the table")
    if SYMBOL not in prices.columns:
        raise ValueError(f"the table has no column {SYMBOL}: one row per bar and instrument is needed")
    times = _as_time(prices[key], "the table")
    bars = times.unique().sort()
    if len(bars) < 2 * n_prefixes:
        raise ValueError(f"the table has {len(bars)} bars, {n_prefixes} prefixes need at least {2 * n_prefixes}")

    whole = _features(function, prices, "the whole table")
    again = _features(function, prices, "the whole table a second time")
    if len(_differing(whole, again)):
        raise ValueError("the function returns other values when called again with the same table: seed what is random")
    n_bars = len(bars)
    spread = np.linspace(0, n_bars, n_prefixes + 1, endpoint=False, dtype=int)[1:].tolist()
    changed: list[pl.DataFrame] = []
    first: dict[str, tuple[Any, ...]] = {}
    ends = sorted({*spread, *range(n_bars - LAST_BARS, n_bars)})
    for end in ends:
        cut = bars[end - 1]
        part = _features(function, prices.filter(times <= cut), f"the bars up to {_text(cut)}")
        if len(late := part.filter(pl.col(TIME) > cut)):
            raise ValueError(
                f"given the bars up to {_text(cut)}, the function returns one of {_text(late[TIME].max())}: "
                "it does not compute from the table that it is given"
            )
        cells = _differing(whole.filter(pl.col(TIME) <= cut), part)
        changed.append(cells)
        _note_first(first, cells, whole, part, cut)
    cells = pl.concat(changed, how="diagonal").group_by(TIME, SYMBOL).agg(pl.all().any()).sort(TIME, SYMBOL)
    columns = [name for name in (*whole.columns, *cells.columns) if name in first]
    changes = [
        Change(name, int(cells[name].sum()), *(_text(value) for value in first[name]))
        for name in dict.fromkeys(columns)
    ]
    return Comparison(tuple(changes), cells, len(ends), len(whole.columns) - 3, len(whole))


def write_cells(found: Comparison, path: str) -> None:
    """Write a CSV file with a row (time, symbol, column) for every value that changes."""
    if Path(path).suffix != ".csv":
        raise ValueError(f"--out {path} must end in .csv")
    long = found.cells.unpivot(index=[TIME, SYMBOL], variable_name="column", value_name="changed")
    long.filter("changed").drop("changed").sort(TIME, SYMBOL).write_csv(path)


def _features(function: FeatureCode, prices: pl.DataFrame, given: str) -> pl.DataFrame:
    """The function's table in one form: `time`, `symbol`, `(row)` = true, its columns; sorted by time and symbol."""
    try:
        made = function(prices)
    except Exception as error:  # whatever the user's code does
        raise ValueError(f"the function fails on {given}: {_reason(error)}") from None
    returned = polars_frame(made)
    if returned is None:
        raise ValueError(f"the function returns {type(made).__name__} on {given}: a polars or pandas table is needed")
    where = f"what the function returns on {given}"
    key = _time_column(returned.columns, where)
    if SYMBOL not in returned.columns:
        raise ValueError(f"{where} has no column {SYMBOL}: return the key columns too")
    if returned.width < 3:
        raise ValueError(f"{where} has no column beside {key} and {SYMBOL}: return features")
    if returned.is_empty() and given == "the whole table":
        raise ValueError(f"{where} has no rows")
    keyed = returned.select(
        _as_time(returned[key], where).alias(TIME),
        pl.col(SYMBOL).cast(pl.String),
        pl.lit(True).alias(ROW),
        cs.exclude(key, SYMBOL, TIME, ROW),
    )
    numeric = keyed.with_columns(
        cs.numeric().cast(pl.Float64).fill_nan(None), cs.boolean().exclude(ROW).cast(pl.Float64)
    )
    if len(repeated := numeric.filter(pl.struct(TIME, SYMBOL).is_duplicated())):
        first = f"{repeated[SYMBOL][0]} at {_text(repeated[TIME][0])}"
        raise ValueError(f"{where} has several rows of one bar and symbol, first {first}: return one row for each")
    return numeric.sort(TIME, SYMBOL)


def _differing(whole: pl.DataFrame, part: pl.DataFrame) -> pl.DataFrame:
    """The rows in which a value differs: (time, symbol, one boolean per column)."""
    columns = list(dict.fromkeys((*whole.columns, *part.columns)))[2:]
    joined = whole.join(part, on=[TIME, SYMBOL], how="full", coalesce=True, suffix=_ON_PREFIX)
    expressions = []
    for name in columns:
        if name not in part.columns or name not in whole.columns:
            expressions.append(pl.col(name).is_not_null())
            continue
        a, b = pl.col(name), pl.col(name + _ON_PREFIX)
        if whole.schema[name].is_float() and part.schema[name].is_float():
            largest = whole.select(pl.col(name).filter(pl.col(name).is_finite()).abs().max()).item() or 0.0
            allowed = RELATIVE_TOLERANCE * pl.max_horizontal(a.abs(), b.abs()) + ABSOLUTE_TOLERANCE * largest
            close = ((a == b) | ((a - b).abs() <= allowed) & allowed.is_finite()).fill_null(False)
            expressions.append(((a.is_null() != b.is_null()) | (a.is_not_null() & ~close)).alias(name))
        else:
            expressions.append(a.cast(pl.String).ne_missing(b.cast(pl.String)).alias(name))
    differing = joined.select(TIME, SYMBOL, *expressions)
    return differing.filter(pl.any_horizontal(columns)).sort(TIME, SYMBOL)


def _note_first(
    first: dict[str, tuple[Any, ...]], cells: pl.DataFrame, whole: pl.DataFrame, part: pl.DataFrame, cut: Any
) -> None:
    """Keep for each column that differs the earliest (bar, symbol), the end of the prefix, and both values."""
    for name in cells.columns[2:]:
        rows = cells.filter(pl.col(name)).select(TIME, SYMBOL)
        if len(rows) and (name not in first or rows.row(0) < first[name][:2]):
            key = rows.row(0)
            first[name] = (*key, cut, *(_value(table, name, key) for table in (part, whole)))


def _value(table: pl.DataFrame, name: str, key: tuple[Any, ...]) -> Any:
    """The value of a column at (time, symbol); None where the table lacks the column or the row."""
    rows = table.filter((pl.col(TIME) == key[0]) & (pl.col(SYMBOL) == key[1]))
    if name not in table.columns or rows.is_empty():
        return None
    return "there" if name == ROW else rows[name][0]


def _time_column(columns: Sequence[str], where: str) -> str:
    for name in ("timestamp", "date"):
        if name in columns:
            return name
    raise ValueError(f"{where} has no column date or timestamp: the time of each bar is needed")


def _as_time(column: pl.Series, where: str) -> pl.Series:
    if column.dtype not in (pl.Date, pl.Datetime):
        raise ValueError(f"column {column.name} of {where} holds {column.dtype}: it must hold dates or times")
    if column.null_count():
        raise ValueError(
            f"column {column.name} of {where} has {column.null_count()} empty values: each row needs a time"
        )
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(pl.Datetime("us"))


def _text(value: Any) -> str:
    if value is None:
        return "missing"
    return f"{value:.6g}" if isinstance(value, float) else str(value).removesuffix(" 00:00:00")


def _reason(error: Exception) -> str:
    """A failure in the user's code on one line: its kind, its message, and the line of their file it came from."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(Path.cwd()))]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"
