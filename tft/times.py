"""Times as tables have them: dates, moments with and without a zone, ISO text, and what a format has to be given for.

Needs only numpy: it is packaged with the served model. Shapes: R rows of a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPOCH_UNITS = ("epoch_s", "epoch_ms", "epoch_us", "epoch_ns")
"""Whole seconds, milliseconds, microseconds or nanoseconds since 1970"""
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)([T ]\d\d:\d\d.*)?")
_DAYS = (
    *("%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%m/%d/%y", "%d/%m/%y", "%d.%m.%Y", "%d.%m.%y", "%m-%d-%Y", "%d-%m-%Y"),
    *("%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
_HOURS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S")
_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_YEARS = range(1900, 2101)
"""Years in which a guessed format has to put every time"""
_EPOCH_YEARS = range(1972, 2101)
"""The same for counts since 1970: in too large a unit they all lie in its first days"""
_SOME = 2000
"""Values by which a format is guessed"""


@dataclass(frozen=True, eq=False)
class Times:
    """A column of times that was read."""

    values: NDArray[np.datetime64]
    """(R,) in microseconds, UTC where a zone was given; NaT where missing or not read"""
    unread: NDArray[np.bool_]
    """(R,) whether there is a value that could not be read"""
    fault: str = ""
    """What is wrong with the column as a whole, such as `holds whole numbers ...`"""


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or pandas' NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # NA is neither equal to itself nor not
        return True


def read_times(values: NDArray[np.generic], time_format: str | None = None) -> Times:
    """Read a column (R,). Dates and times proper are what they are; text and numbers are read by `time_format`.

    A column of nothing but ISO text, of which the format reads no value, is ISO: so a registered model keeps the times
    of its example. Without a format text has to be ISO.
    """
    n = len(values)
    if values.dtype.kind == "M":
        return Times(values.astype("datetime64[us]"), np.zeros(n, dtype=bool))
    plain = values.tolist() if values.dtype.kind in "OUTiuf" else []
    there = np.array([not is_missing(value) for value in plain], dtype=bool)
    held = [value for value in plain if not is_missing(value)]
    read = np.full(n, np.datetime64("NaT"), dtype="datetime64[us]")
    nothing = Times(read, np.zeros(n, dtype=bool))
    if len(plain) < n:
        return Times(read, nothing.unread, f"holds {values.dtype}: it must hold dates or times")
    if not held:
        return nothing
    if all(isinstance(value, date | np.datetime64) for value in held):
        read[there] = np.array([_in_utc(value) for value in held], dtype="datetime64[us]")
        return Times(read, nothing.unread)
    texts = [_text(value) for value in held]
    if None in texts:
        odd = held[texts.index(None)]
        return Times(read, nothing.unread, f"holds {type(odd).__name__} such as {odd}: it must hold dates or times")
    distinct, which = np.unique(np.array(texts, dtype=str), return_inverse=True)
    found = _parsed(distinct.tolist(), time_format)
    if time_format is None or (np.isnat(found).all() and all(_ISO.fullmatch(text) for text in distinct.tolist())):
        if fault := _unclear(distinct.tolist()):
            return Times(read, nothing.unread, fault)
        found = _parsed(distinct.tolist(), None)
    read[there] = found[which]
    return Times(read, there & np.isnat(read))


def fitting_formats(values: NDArray[np.generic]) -> tuple[str, ...]:
    """The values for `data.time_format` by which every value (R,) of a column can be read; none where it needs none."""
    held = [_text(value) for value in values.tolist() if not is_missing(value)]
    texts = [text for text in held if text is not None]
    if len(texts) < len(held) or not texts or any(_ISO.fullmatch(text) for text in texts):
        return ()
    return _formats(sorted(set(texts)))


def known_format(time_format: str) -> bool:
    """Whether times can be read by such a format: it is a count since 1970, or says at least year, month and day."""
    if time_format in EPOCH_UNITS:
        return True
    moment = datetime(2021, 2, 13, 14, 15, 16)
    try:
        return datetime.strptime(moment.strftime(time_format), time_format).date() == moment.date()
    except ValueError:
        return False


def _in_utc(value: Any) -> Any:
    if isinstance(value, datetime):  # pandas' Timestamp included
        value = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return np.datetime64(value.isoformat(timespec="microseconds"))
    return value


def _text(value: Any) -> str | None:
    """Text and whole numbers as text; None for anything else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _parser(time_format: str | None) -> Callable[[str], Any]:
    """A function from text to a time, which raises ValueError for text that it cannot read."""
    if time_format is None:
        return lambda text: _in_utc(datetime.fromisoformat(text)) if _ISO.fullmatch(text) else np.datetime64("NaT")
    if time_format in EPOCH_UNITS:
        unit = time_format.removeprefix("epoch_")
        return lambda text: np.array(int(text)).astype(f"datetime64[{unit}]")[()]
    return lambda text: _in_utc(datetime.strptime(text, time_format))


def _parsed(texts: list[str], time_format: str | None) -> NDArray[np.datetime64]:
    parse = _parser(time_format)
    return np.array([_or_nat(parse, text) for text in texts], dtype="datetime64[us]")


def _or_nat(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except (ValueError, OverflowError):
        return np.datetime64("NaT")


def _unclear(texts: list[str]) -> str:
    """Why these texts cannot be read without a format; empty where they can, but for some."""
    iso = [match for text in texts if (match := _ISO.fullmatch(text))]
    if iso:
        days = [match[0] for match in iso if not match[2]]
        moments = [match[0] for match in iso if match[2]]
        if days and moments:
            return f"mixes time types: days such as {days[0]}, and moments such as {moments[0]}: write all in one way"
        zoned = [bool(re.search(r"(Z|[+-]\d\d:?\d\d)$", text)) for text in moments]
        if any(zoned) and not all(zoned):
            return f"mixes times with a zone and without, such as {moments[0]}: write all in one way"
        return ""
    formats = _formats(texts)
    if not formats and not any(re.search(r"\d", text) for text in texts):
        return f"holds text such as {texts[0]!r}: it must hold dates or times"
    kind = "whole numbers" if all(text.isdecimal() for text in texts) else "text"
    lines = " or ".join(f'--set data.time_format="{one}"' for one in formats)
    remedy = f"say how it is written: {lines or '--set data.time_format=PATTERN, such as %m/%d/%Y or epoch_s'}"
    return f"holds {kind} such as {texts[-1]}, which is no ISO date or time: {remedy}"


def _formats(texts: list[str]) -> tuple[str, ...]:
    """The formats by which every one of these distinct texts is a time in a plausible year."""
    some = texts[:: max(1, len(texts) // _SOME)]
    if not all(text.isdecimal() for text in some):
        return tuple(day + hour for day in _DAYS for hour in _HOURS if _all_within(_YEARS, some, day + hour))
    lengths = {len(text) for text in some}
    calendar = _DIGITS.get(len(some[0])) if len(lengths) == 1 else None
    if calendar and _all_within(_YEARS, some, calendar):
        return (calendar,)
    return tuple(one for one in EPOCH_UNITS if _all_within(_EPOCH_YEARS, some, one))


def _all_within(years: range, texts: list[str], time_format: str) -> bool:
    parse = _parser(time_format)
    read = (_or_nat(parse, text) for text in texts)
    return all(not np.isnat(time) and int(str(time.astype("datetime64[Y]"))) in years for time in read)
