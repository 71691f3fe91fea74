"""From a long table as somebody keeps it to a panel: which columns are its keys, and how their values are read.

A table is a mapping of column name to array (R,), one row per (bar, instrument). The table that is trained on, those of
`decide` and `predict` and that of the registered model are all read by these functions, so this file needs only numpy:
it is packaged with the served model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tft.panel import AHEAD, Panel
from tft.times import is_missing, read_times

Columns = Mapping[str, NDArray[np.generic]]

TIME, SYMBOL, CLOSE, RETURN = "timestamp", "symbol", "close", "ret_1d"
"""The keys, by the names that `Panel.from_columns` knows them by"""
CONTRACT = {TIME: ("timestamp", "date"), SYMBOL: ("symbol",), CLOSE: ("close",), RETURN: ("ret_1d",)}
"""Names that are taken for a key before any other, the first that is there"""
USUAL = {
    TIME: {"timestamp", "date", "datetime", "time"},
    SYMBOL: {"symbol", "ticker", "instrument", "asset"},
    CLOSE: {"close", "adjclose", "price"},
    RETURN: {"ret1d", "ret", "return"},
}
"""Names that are taken for a key, in any case and with any blanks, hyphens and underscores"""


@dataclass(frozen=True)
class TableFormat:
    """How a table is read. The checkpoint keeps it, so that a live table is read as the one that was trained on."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """The table's own name of each key that it has"""
    time_format: str | None = None
    """How times are written that are no dates and no ISO text: a strptime pattern, or epoch_s, _ms, _us, _ns"""
    offsets: Mapping[str, float] = field(default_factory=dict)
    """Subtracted from these columns before they become float32, which would not hold their variation"""


def usual_key(name: str) -> str | None:
    """The key that a column of this name is usually meant for; None for any other column."""
    return next((key for key, names in USUAL.items() if _plain(name) in names), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-.]", "", name.lower())


def find_keys(
    names: Sequence[str], named: Mapping[str, str], *, features: Iterable[str] = ()
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Which of the columns `names` are keys: the column of each key, and the candidates of a key that has several.

    A column that `named` gives to a key is that key; else one with a name of the contract, else the only one with a
    usual name. Columns in `features` are none.
    """
    found: dict[str, str] = {}
    unclear: dict[str, list[str]] = {}
    others = [name for name in names if name not in {*features, *named.values()}]
    for key, contract in CONTRACT.items():
        wanted = (named[key], *contract) if key in named else contract
        alike = [name for name in others if usual_key(name) == key]
        if exact := [name for name in wanted if name in names]:
            found[key] = exact[0]
        elif len(alike) == 1:
            found[key] = alike[0]
        elif alike:
            unclear[key] = alike
    return found, unclear


def read_symbols(values: NDArray[np.generic]) -> NDArray[np.str_]:
    """Names of instruments (R,) as text without blanks around it: 700 and 700.0 are "700". Empty where missing."""
    if values.dtype.kind in "iu":
        return values.astype(str)

    def text(value: object) -> str:
        if is_missing(value):
            return ""
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    return np.array([text(value) for value in values.tolist()], dtype=str)


def read_numbers(values: NDArray[np.generic], *, offset: float = 0.0) -> NDArray[np.float64]:
    """Numbers (R,) less the offset, NaN where missing. Raises ValueError for anything that is no number."""
    if values.dtype.kind == "O":
        values = np.array([np.nan if is_missing(value) else value for value in values.tolist()], dtype=object)
    elif values.dtype.kind not in "biuf":
        raise ValueError(f"it holds {values.dtype}")
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        first = next(value for value in values.tolist() if not isinstance(value, int | float))
        raise ValueError(f"it holds {first!r}") from None
    return numbers - offset if offset else numbers


def panel_from_table(
    columns: Columns,
    *,
    table_format: TableFormat,
    feature_names: Sequence[str],
    symbols: Sequence[str],
    known: Sequence[str],
    lead_bars: int,
) -> Panel:
    """Build a panel from a live table, read as `table_format` says.

    Keys that do not have the names of the table trained on are found by their usual ones, but a close of another name
    is another price. The other arguments are those of `Panel.from_columns`. Raises ValueError for a missing, ambiguous
    or unreadable column, an infinite value, or two rows of the same bar and symbol.
    """
    plain = list(dict.fromkeys(name.removesuffix(AHEAD) for name in (*feature_names, *known)))
    keys, unclear = find_keys(list(columns), table_format.columns, features=plain)
    # A return or a close that was not there in training is something else, unless it is all there is.
    prices = {key: keys.pop(key) for key in (CLOSE, RETURN) if key in keys}
    trained_on = {key: name for key, name in prices.items() if key in table_format.columns}
    for key, candidates in unclear.items():
        if key in (TIME, SYMBOL) or not prices:
            own = table_format.columns.get(key, key)
            raise ValueError(f"{' and '.join(candidates)} could each be the {key}: name one of them {own}")
    table: dict[str, NDArray[np.generic]] = {}
    if TIME in keys:
        times = read_times(columns[keys[TIME]], table_format.time_format)
        if times.fault:
            raise ValueError(f"column {keys[TIME]} {times.fault}")
        table[TIME] = times.values
        _refuse(keys[TIME], times.unread, "cannot be read as those of training were")
        _refuse(keys[TIME], np.isnat(times.values), "are empty: every row needs a time")
    if SYMBOL in keys:
        table[SYMBOL] = read_symbols(columns[keys[SYMBOL]])
        _refuse(keys[SYMBOL], table[SYMBOL] == "", "are empty: every row needs an instrument")
    numbers = dict(trained_on or prices)
    own_close = table_format.columns.get(CLOSE)
    if own_close and CLOSE in numbers and RETURN not in numbers and _plain(numbers[CLOSE]) != _plain(own_close):
        raise ValueError(
            f"column {numbers[CLOSE]} is not the price that the model was trained on, {own_close}: bring that one, or "
            f"rename the column if it holds the same"
        )
    numbers |= {name: name for name in plain if name in columns}
    for name, own in numbers.items():
        try:
            table[name] = read_numbers(columns[own], offset=table_format.offsets.get(own, 0.0))
        except ValueError as error:
            raise ValueError(f"column {own} is not numeric: {error}") from None
    return Panel.from_columns(table, feature_names=feature_names, symbols=symbols, known=known, lead_bars=lead_bars)


def _refuse(name: str, bad: NDArray[np.bool_], what: str) -> None:
    """Raise ValueError if values of column `name` are bad: how many, and the first row, counted from 1."""
    rows = np.flatnonzero(bad)
    if len(rows):
        verb = what if len(rows) > 1 else what.replace("are ", "is ", 1)
        raise ValueError(f"column {name}: {len(rows)} of {len(bad)} values {verb}; first in row {rows[0] + 1}")
