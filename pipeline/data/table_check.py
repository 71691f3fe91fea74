"""The checks of a table's own columns: each finds what is wrong, in a sentence that names column, row and remedy.

Shapes: R rows of the frame, one per (bar, instrument).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config.sections import DataConfig
from pipeline.data.columns import OPTIONS, not_numbers, quoted
from pipeline.data.findings import Finding
from pipeline.data.returns import contradiction
from tft.panel import AHEAD
from tft.table import CLOSE, CONTRACT, RETURN, SYMBOL, TIME, USUAL, read_symbols, usual_key
from tft.times import read_times

LEAST_SHARED = 0.1
"""Of the bars on which several instruments could trade, how many at least hold more than one."""


@dataclass
class TableCheck:
    """A table being checked, and the findings so far. Each method checks one thing."""

    frame: pl.DataFrame
    times: NDArray[np.datetime64] = field(default_factory=lambda: np.array([], dtype="datetime64[us]"))
    """Empty as long as it is not known, as are the symbols"""
    symbols: NDArray[np.str_] = field(default_factory=lambda: np.array([], dtype=str))
    findings: list[str] = field(default_factory=list)

    def read_keys(self, keys: Mapping[str, str], config: DataConfig, *, unclear: Collection[str] = ()) -> None:
        """Fill `symbols` and `times`, and report those of the keys that are absent; of those `unclear` that is said."""
        if SYMBOL in keys:
            self.symbols = read_symbols(self.frame[keys[SYMBOL]].to_numpy())
        elif SYMBOL not in unclear:
            self.report_missing(config.symbol_column or "symbol", "the instrument of each row", SYMBOL)
        if TIME in keys:
            self.read_times(keys[TIME], config.time_format)
        elif TIME not in unclear:
            self.report_missing(config.time_column or "date (or timestamp)", "the time of each bar", TIME)
        if SYMBOL in keys:
            self.require(keys[SYMBOL], self.symbols != "", "are empty: every row needs an instrument")
        if not {CLOSE, RETURN} & {*keys, *unclear}:
            names = f"{config.return_column or RETURN} (or {config.close_column or CLOSE})"
            self.report_missing(names, "the return of each bar", RETURN, CLOSE)

    def report_missing(self, name: str, what: str, *keys: str) -> None:
        """Report that the table has no column `name`, and which of its columns is called most like it, or as such keys
        usually are."""
        called = {column.lower(): column for column in self.frame.columns}
        wanted = {word: key for key in keys for word in (*USUAL[key], *CONTRACT[key])}
        near = [
            (SequenceMatcher(None, word, close).ratio(), called[close], wanted.get(word))
            for word in (name.split(" ")[0].lower(), *wanted)
            for close in get_close_matches(word, called, 1)
        ]
        said = f"no column {name} ({what})"
        if near:
            _, nearest, key = max(near, key=lambda one: one[0])
            said += f": the nearest is {nearest}"
            said += f" (--set data.{OPTIONS[key]}={quoted(nearest)})" if key else ""
        elif SYMBOL in keys and (texts := self.texts()):
            option = f"--set data.{OPTIONS[SYMBOL]}={quoted(texts[0])}"
            said += (
                f": if it is {texts[0]}, which holds text such as {self.frame[texts[0]].drop_nulls()[0]!r}, {option}"
            )
        self.findings.append(said)

    def texts(self) -> list[str]:
        """The columns that hold text and no number, and could name an instrument."""
        held = {name: self.frame[name] for name in self.frame.columns if usual_key(name) != TIME}
        return [
            n for n, column in held.items() if column.dtype == pl.String and len(not_numbers(column)) == len(column)
        ]

    def row_name(self, row: int) -> str:
        """How a message names a row: its symbol and bar, as far as they are known, and its number."""
        symbol = f"{self.symbols[row]} " if len(self.symbols) and self.symbols[row] else ""
        bar = f"at {_shown(self.times[row])} " if len(self.times) and not np.isnat(self.times[row]) else ""
        return f"{symbol}{bar}(row {row + 1})" if symbol or bar else f"row {row + 1}"

    def require(self, name: str, good: NDArray[np.bool_] | pl.Series, wrong: str) -> None:
        """Report the rows of column `name` that are not good: how many, and the first."""
        bad = np.flatnonzero(~np.asarray(good))
        if len(bad):
            verb = wrong if len(bad) > 1 else wrong.replace("are ", "is ", 1)
            self.findings.append(
                f"column {name}: {len(bad)} of {len(good)} values {verb}; first {self.row_name(int(bad[0]))}"
            )

    def read_times(self, name: str, time_format: str | None) -> None:
        """Fill `times` from column `name`, unless it cannot be read: nothing else is then said about the bars."""
        column = self.frame[name].to_numpy()
        read = read_times(column, time_format)
        if read.fault:
            self.findings.append(f"column {name} {read.fault}")
            return
        if read.unread.any():
            first = int(np.flatnonzero(read.unread)[0])
            like = f"as {time_format}" if time_format else "as a time such as 2026-02-10 or 2026-02-10 09:15:00"
            self.require(name, ~read.unread, f"cannot be read {like} (such as {column[first]!r})")
            return
        self.times = read.values
        self.require(name, ~np.isnat(read.values), "are empty: every row needs a time")

    def check_order(self, apart: str = "") -> None:
        """Report rows that repeat a bar of their instrument, or go back in time.

        apart: what is said of rows that repeat where the time of day is in a column of its own.
        """
        if not len(self.times) or not len(self.symbols):
            return
        rows = self._keys().with_row_index("row").drop_nulls()
        is_first = pl.struct("time", "symbol").is_first_distinct()
        repeated = rows.filter(~is_first)["row"]
        back = rows.filter(is_first).filter(pl.col("time").diff().over("symbol").dt.total_microseconds() < 0)["row"]
        if len(repeated) and apart:
            self.findings.append(apart)
        elif len(repeated):
            rows_repeat = "1 row repeats" if len(repeated) == 1 else f"{len(repeated)} rows repeat"
            what = f"{rows_repeat} the bar and symbol of an earlier one"
            self.findings.append(f"{what}; first {self.row_name(repeated[0])}: keep one of each")
        if len(back):
            rows_are = "1 row is" if len(back) == 1 else f"{len(back)} rows are"
            what = f"{rows_are} earlier than the row before of the same symbol"
            self.findings.append(f"{what}; first {self.row_name(back[0])}: sort the table by time")

    def check_shared(self) -> None:
        """Report instruments that share almost none of the bars between their first and their last."""
        if not len(self.times) or not len(self.symbols):
            return
        rows = self._keys().drop_nulls().unique()
        bars = rows.group_by("time").len("held").sort("time")
        lives = rows.group_by("symbol").agg(first=pl.col("time").min(), last=pl.col("time").max())
        begun = lives["first"].sort().search_sorted(bars["time"], side="right")
        ended = lives["last"].sort().search_sorted(bars["time"], side="left")
        together = bars.filter((begun.cast(pl.Int64) - ended.cast(pl.Int64)) > 1)
        n_shared = (together["held"] > 1).sum()
        if n_shared >= LEAST_SHARED * len(together):
            return
        near = rows.filter(pl.col("time") >= together["time"][0]).sort("time")[:2]
        one, other = (f"{symbol} {_shown(np.datetime64(time))}" for time, symbol in near.iter_rows())
        self.findings.append(
            f"instruments share {n_shared} of the {len(together)} bars on which several could trade, as a bar is one "
            f"exact time (first {one}, then {other}): give the rows of one bar the same time, such as the day alone"
        )

    def _keys(self) -> pl.DataFrame:
        return pl.DataFrame({"time": self.times, "symbol": pl.Series(self.symbols.tolist()).replace("", None)})

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as floats (R,). Missing values are NaN; so are values that are not finite, which are reported."""
        column = self.frame[name]
        missing = np.full(len(column), np.nan)
        if column.null_count() == len(column):
            return missing
        if column.dtype in (pl.String, pl.Categorical, pl.Enum):
            unread = not_numbers(column)
            are = "is" if len(unread) == 1 else "are"
            what = (
                f"{len(unread)} of {len(column)} values {are} text" if len(unread) else "its numbers are stored as text"
            )
            row = int(unread[0] if len(unread) else column.is_not_null().arg_true()[0])
            first = f"first {column[row]!r}, {self.row_name(row)}"
            self.findings.append(
                f"column {name} is not numeric: {what}; {first}: convert it or exclude it (data.exclude)"
            )
            return missing
        if not column.dtype.is_numeric() and column.dtype != pl.Boolean:
            what = f"it holds {column.dtype}"
            self.findings.append(f"column {name} is not numeric: {what}: convert it or exclude it (data.exclude)")
            return missing
        values = column.cast(pl.Float64).to_numpy()
        finite = ~(np.abs(values) > np.finfo(np.float32).max)
        self.require(name, finite, "are infinite: write them as missing")
        return np.where(finite, values, np.nan)

    def check_length(self, prices: dict[str, NDArray[np.float64]], min_bars: int, min_symbol_bars: int) -> None:
        """Report too few bars for a fold, and instruments with too few returns. A first close gives no return."""
        if not len(self.times) or not len(self.symbols) or not prices:
            return
        moved = np.isfinite(prices[RETURN] if RETURN in prices else prices[CLOSE])
        spare = 0 if RETURN in prices else 1
        rows = self._keys().with_columns(moved=moved).drop_nulls()
        counts = rows.group_by("symbol").agg(pl.col("time").filter("moved").n_unique()).sort("symbol")
        for symbol, count in counts.iter_rows():
            if max(count - spare, 0) < min_symbol_bars:
                what = f"{symbol} has {max(count - spare, 0)} bars with a return, an instrument needs {min_symbol_bars}"
                self.findings.append(f"{what}: remove it or give it a longer history")
        last = rows.filter("moved")["time"].max()
        n_bars = rows.filter(pl.col("time") <= last)["time"].n_unique() if last is not None else 0
        if n_bars < min_bars:
            what = f"the table has {n_bars} bars up to the last return, a single fold needs {min_bars}"
            self.findings.append(f"{what}: bring more bars or make the windows shorter")

    def check_return(
        self, keys: Mapping[str, str], prices: Mapping[str, NDArray[np.float64]], config: DataConfig
    ) -> list[Finding]:
        """Report a return column that the close contradicts; the note on it where that is accepted."""
        if not {CLOSE, RETURN} <= prices.keys() or not len(self.times) or not len(self.symbols):
            return []
        found = contradiction(prices[CLOSE], prices[RETURN], self.times, self.symbols)
        if not found:
            return []
        name, n_symbols = keys[RETURN], len(np.unique(self.symbols))
        shown = ", ".join(found.symbols[:3]) + (" and others" if len(found.symbols) > 3 else "")
        message = (
            f"contradicts column {keys[CLOSE]} in {len(found.symbols)} of {n_symbols} "
            f"instrument{'s' * (n_symbols > 1)} ({shown}): {found.what}; first {self.row_name(found.row)}, "
            f"{found.given:.4g} where the close gives {found.by_close:.4g}"
        )
        if name in config.accept:
            return [Finding("note", "return and close", f"column {name}", f"accepted (data.accept): {message}", name)]
        self.findings.append(
            f"column {name} {message}: choose the return by data.return_column, leave this one out (data.exclude) to "
            f"take returns from the close, or list it in data.accept if it is meant"
        )
        return []

    def check_listed(self, config: DataConfig) -> None:
        """Report columns that the configuration lists and the table lacks, or that it both uses and excludes."""
        benchmark = (config.benchmark,) if config.benchmark else ()
        listed = {"data.exclude": config.exclude, "data.known": config.known, "data.benchmark": benchmark}
        for option, names in listed.items():
            for name in names:
                if name not in self.frame.columns:
                    self.report_missing(name, f"listed in {option}")
        for name in config.accept:
            ahead = name.endswith(AHEAD) and name.removesuffix(AHEAD) in config.known
            if name not in self.frame.columns and not ahead:
                self.report_missing(name, "listed in data.accept")
        for name in sorted({*config.known} & {*config.exclude}):
            self.findings.append(f"column {name} is listed in both data.known and data.exclude: take it out of one")
        for name in sorted({*benchmark} & {*config.known}):
            self.findings.append(f"column {name} is listed in both data.known and data.benchmark: take it out of one")


def _shown(time: np.datetime64) -> str:
    """A time without what says nothing: 2024-01-03, or 2024-01-03 09:15:00."""
    return str(time.astype("datetime64[s]")).replace("T", " ").removesuffix(" 00:00:00")
